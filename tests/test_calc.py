"""The calculator counts what is there: parameters exactly, bytes and operations as measured."""

import json
from dataclasses import replace
from math import ceil

import pytest
from typer.testing import CliRunner

from mmpeft.__main__ import app
from mmpeft.calc import (
    Setup,
    Shape,
    answering_memory,
    forward_flops,
    kept_bytes,
    measured_error,
    measurements,
    sizes_of,
    step_flops,
    step_memory,
)
from mmpeft.errors import MmpeftError
from mmpeft.gpus import GPUS, HEADROOM_RATIO, LOADING_BANDWIDTH, gpu_of
from mmpeft.methods import METHODS
from mmpeft.plan import load_question, questions
from mmpeft.planner import (
    budget,
    budgets,
    estimate,
    estimate_pre_step,
    num_examples,
    one_setup,
    total,
)
from mmpeft.spec import RunSpec, parse
from mmpeft.tasks import TASKS

SEVEN = sizes_of("llava-1.5-7b")
SHAPE = Shape(num_tokens=640, num_answer_tokens=5)


def setup_of(name: str, **changes: object) -> Setup:
    fields = {"lora": {"r": 128, "lora_alpha": 256}, "adapter": {"bottleneck_size": 256}}.get(name, {})
    location = "mlp" if name == "adapter" else "both"
    return Setup(SEVEN, parse(METHODS[name], fields), **{"location": location, **changes})  # type: ignore[arg-type]


def test_the_models_are_as_large_as_the_real_ones() -> None:
    """Counted from the published configurations on the meta device."""
    assert SEVEN.total == 7_063_427_072
    assert sizes_of("llava-1.5-13b").total == 13_351_494_656
    assert (SEVEN.connector, sizes_of("llava-1.5-13b").connector) == (20_979_712, 31_467_520)


@pytest.mark.parametrize(
    ("name", "trained"), [("lora", 319_815_680), ("ia3", 614_400), ("adapter", 201_326_592), ("prefix", 5_242_880)]
)
def test_what_trains_is_what_the_methods_formula_says(name: str, trained: int) -> None:
    assert setup_of(name).trained == trained
    assert setup_of(name, connector_tuned=True).trained == trained + SEVEN.connector
    assert setup_of(name).frozen == SEVEN.total
    assert setup_of(name, connector_tuned=True).frozen == SEVEN.total - SEVEN.connector


def test_full_fine_tuning_leaves_only_connector_and_vision_encoder_frozen() -> None:
    assert setup_of("full").frozen == SEVEN.connector + SEVEN.vision_encoder
    memory = step_memory(setup_of("full"), 1, SHAPE)
    assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(16 * setup_of("full").trained, rel=0.01)


@pytest.mark.parametrize("name", ["lora", "ia3", "adapter", "full", "prefix"])
def test_memory_and_operations_grow_with_the_batch_and_shrink_as_they_should(name: str) -> None:
    one, two = (step_memory(setup_of(name), size, SHAPE) for size in (1, 2))
    assert one.weights == two.weights
    assert two.activations > (1.2 if name == "full" else 1.4) * one.activations  # the bf16 copies of what trains do not grow
    assert step_flops(setup_of(name), 2, SHAPE) == 2 * step_flops(setup_of(name), 1, SHAPE)
    assert kept_bytes(setup_of(name, checkpointing=True), 8, SHAPE) < 0.2 * kept_bytes(setup_of(name), 8, SHAPE)
    assert step_flops(setup_of(name, checkpointing=True), 1, SHAPE) > 1.2 * step_flops(setup_of(name), 1, SHAPE)
    assert step_memory(setup_of(name, half=False), 8, SHAPE).total > step_memory(setup_of(name), 8, SHAPE).total


def test_operations_follow_the_rule_of_four_a_frozen_and_six_a_trained_weight() -> None:
    """The linear maps of 7B, attention left small: about 4 P T for LoRA and 6 P T for full fine-tuning."""
    linear = SEVEN.total - SEVEN.vision_encoder - 2 * 32_064 * 4096
    short = Shape(num_tokens=600, num_answer_tokens=1)
    seeing = 2 * SEVEN.vision_encoder * 577
    assert step_flops(setup_of("ia3"), 1, short) == pytest.approx(4 * linear * 600 + seeing, rel=0.06)
    assert step_flops(setup_of("full"), 1, short) == pytest.approx(6 * linear * 600 + seeing, rel=0.06)


def test_the_vision_encoder_counts_where_it_runs_in_each_pass() -> None:
    """CLIP ViT-L/14 at 336 pixels: 2 P a patch, 4 T D a patch and layer; the packaged model's features are kept."""
    assert SEVEN.encoder_flops == 2 * 303_507_456 * 577 + 4 * 577**2 * 1024 * 24
    assert sizes_of("tiny-llava").encoder_flops == 0
    blind = replace(SEVEN, encoder_flops=0.0)
    for flops in (step_flops, forward_flops):
        seen = flops(setup_of("lora"), 3, SHAPE) - flops(replace(setup_of("lora"), sizes=blind), 3, SHAPE)
        assert seen == pytest.approx(3 * SEVEN.encoder_flops)


def test_answers_need_the_keys_and_values_of_every_token() -> None:
    ia3, prefix = setup_of("ia3"), setup_of("prefix")
    one, two, three = (answering_memory(ia3, size, 640) for size in (1, 2, 3))
    assert three - two == pytest.approx(two - one)
    assert two - one > 640 * 32 * 2 * 4096 * 2  # layers, keys and values, width, bf16
    assert one > 2 * SEVEN.total
    more = answering_memory(prefix, 64, 640) - answering_memory(ia3, 64, 640)
    assert more == 64 * 20 * 32 * 2 * 4096 * 2 + 4 * (prefix.trained - ia3.trained)


def test_the_measured_error_is_that_of_the_committed_rows_and_small() -> None:
    found, error = measurements(), measured_error()
    assert error.num_setups == len(found) > 100
    assert set(found["method"]) == set(METHODS) - {"zero-shot"}
    assert set(found["model"]) == {"tiny", "medium", "grouped"}
    assert error.memory_median < 0.05 and error.memory_worst < 0.25
    assert error.flops_median < 0.05 and error.flops_worst < 0.25


def test_the_planner_takes_the_fewest_passes_that_fit() -> None:
    spec = next(spec for spec in load_question("method", "paper").specs() if spec.method.name == "lora")
    big, small = gpu_of("h200"), gpu_of("l40s")
    roomy, tight = estimate(spec, big), estimate(spec, small)
    assert roomy.fits and tight.fits
    assert roomy.batch_size * roomy.passes == tight.batch_size * tight.passes == 128
    assert roomy.batch_size > tight.batch_size
    assert roomy.peak_bytes <= big.memory_bytes * HEADROOM_RATIO
    assert tight.peak_bytes <= small.memory_bytes * HEADROOM_RATIO
    with pytest.raises(MmpeftError, match="128 examples cannot be dealt out to 3 processes"):
        estimate(spec, big, num_gpus=3)


def test_full_fine_tuning_at_7b_does_not_fit_one_gpu_and_the_methods_do() -> None:
    found = budget(load_question("method", "paper"), "h100")
    fits = {row["label"]: row["fits"] for row in found.rows}
    assert not fits["Full fine-tuning, frozen"]
    assert all(fit for label, fit in fits.items() if not label.startswith("Full"))
    assert found.num_runs == len(load_question("method", "paper").specs())
    assert found.gpu_hours == pytest.approx(sum(row["gpu_hours"] for row in found.rows))


@pytest.mark.parametrize("scale", ["tiny", "paper", "paper-tuned"])
def test_every_question_can_be_planned(scale: str) -> None:
    asked = [load_question(name, scale) for name in questions()]
    alone, together = [budget(each, "a100-80") for each in asked], budgets(asked, "a100-80")
    assert all(each.gpu_hours > 0 and each.peak_bytes > 0 for each in alone)
    assert [each.num_runs for each in alone] == [len(each.specs()) for each in asked]
    assert total(together)["num_runs"] == len({spec for each in asked for spec in each.specs()})
    assert sum(each.gpu_hours for each in together) < sum(each.gpu_hours for each in alone)
    assert [each.peak_bytes for each in together] == [each.peak_bytes for each in alone]
    assert [each.gpu_hours for each in budgets([asked[0], asked[0]], "a100-80")] == [alone[0].gpu_hours, 0.0]


def test_the_sizes_are_those_of_the_tasks() -> None:
    assert num_examples("scienceqa", "train", None) == 6_218
    assert num_examples("okvqa-llava", "train", None) == round(9_009 * 0.95)
    assert num_examples("vqav2", "train", None) == num_examples("ocrvqa", "train", None) == 20_000
    assert num_examples("mini-okvqa", "test", None) == len(TASKS["mini-okvqa"].all_examples("test"))
    assert num_examples("okvqa", "test", 7) == 7
    with pytest.raises(MmpeftError, match="pope/train: its size is not known"):
        num_examples("pope", "train", None)
    spec = next(spec for spec in load_question("method", "paper").specs() if spec.task == "okvqa" and spec.method.name == "lora")
    other = RunSpec.from_dict({**spec.model_dump(), "task": "okvqa-llava"})
    assert estimate(other, GPUS["h100"]) == estimate(spec, GPUS["h100"])


def test_a_pre_step_is_counted_once_for_all_that_share_it() -> None:
    asked = [load_question(name, "paper") for name in ("location", "data_size")]
    pre_step = asked[0].specs()[0].pre_step
    assert pre_step
    found = estimate_pre_step("llava-1.5-7b", pre_step, GPUS["h100"])
    assert found.num_steps == ceil((round(9_009 * 0.95) + 20_000 + 20_000) / 128)
    assert not found.fits
    first, second = budgets(asked, "h100")
    (row,) = (row for row in first.rows if row["label"] == found.label)
    assert row["gpu_hours"] == pytest.approx(found.gpu_hours) and row["num_runs"] == 0
    (again,) = (row for row in second.rows if row["label"] == found.label)
    assert again["gpu_hours"] == 0 and not second.fits and second.too_large == [found.label]
    assert first.disk_bytes > 4 * found.trained > second.disk_bytes


def test_questions_on_the_way_cost_what_they_ask() -> None:
    spec = next(spec for spec in load_question("generalization", "paper").specs() if spec.method.name == "lora")
    gpu, fields = GPUS["h100"], spec.model_dump()

    def hours(**track: object) -> float:
        return estimate(RunSpec.from_dict({**fields, "track": track}), gpu).gpu_hours

    plain = hours()
    own, wide = hours(every_epochs=1, num_examples=100), hours(every_epochs=1, num_examples=100, tasks=["pope", "mmhal"])
    assert plain < own < wide
    assert hours(every_epochs=1, num_examples=200) - plain == pytest.approx(2 * (own - plain))
    rarely = hours(every_epochs=4, num_examples=100)  # at 0, 4, 8, 12 epochs instead of 13 times
    assert (rarely - plain) / (own - plain) == pytest.approx(4 / 13)
    tracked = estimate(spec, gpu)
    assert tracked.gpu_hours > 2 * plain


@pytest.mark.parametrize("trains", [True, False])
def test_several_gpus_share_training_and_questions(trains: bool) -> None:
    spec = next(spec for spec in load_question("method", "paper").specs() if spec.method.trains == trains)
    one, four = estimate(spec, GPUS["h100"]), estimate(spec, GPUS["h100"], num_gpus=4)
    assert one.hours == pytest.approx(one.gpu_hours)
    assert four.gpu_hours == pytest.approx(4 * four.hours)
    loading = 4 * sizes_of("llava-1.5-7b").total / LOADING_BANDWIDTH / 3600
    assert four.gpu_hours - one.gpu_hours == pytest.approx(3 * loading), "each of them loads the base"


def test_answering_may_need_more_than_training() -> None:
    spec = next(spec for spec in load_question("method", "paper").specs() if spec.method.name == "ia3")
    fields = spec.model_dump()
    peaks = [
        estimate(RunSpec.from_dict({**fields, "eval": {"batch_size": size}}), GPUS["h100"]).peak_bytes for size in (1, 2, 64, 128)
    ]
    assert peaks[0] == peaks[1] == peaks[2] < peaks[3]


def test_a_longer_training_costs_what_it_is_longer() -> None:
    spec = next(spec for spec in load_question("method", "paper").specs() if spec.method.name == "ia3")
    fields = spec.model_dump()
    longer = RunSpec.from_dict({**fields, "train": {**fields["train"], "num_epochs": 6.0}})
    assert estimate(longer, GPUS["h100"]).num_steps == pytest.approx(2 * estimate(spec, GPUS["h100"]).num_steps, abs=1)


def test_the_commands_print_tables_json_and_the_error() -> None:
    said = CliRunner().invoke(app, ["plan", "method", "--json"])
    assert said.exit_code == 0, said.output
    content = json.loads(said.stdout)
    assert content["total"]["num_runs"] == len(load_question("method", "paper").specs())
    assert "Error of the calculator on" in content["assumptions"]
    table = CliRunner().invoke(app, ["plan", "--all", "--scale", "paper-tuned"])
    assert table.exit_code == 0, table.output
    rows = {words[0]: words[1:3] for line in table.output.splitlines() if (words := line.split())}
    asked = {name: len(load_question(name, "paper-tuned").specs()) for name in questions()}
    assert {name: int(rows[name][0].replace(",", "")) for name in questions()} == asked
    assert all(int(rows[name][1].replace(",", "")) <= asked[name] for name in questions())
    one = CliRunner().invoke(app, ["calc", "--method", "lora", "--size", "128", "--json"])
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout)["trained_parameters"] == 319_815_680
    assert "LoRA, frozen, r 128, on llava-1.5-7b; 8 examples of 64 tokens" in json.loads(one.stdout)["configuration"]
    assert "trained parameters" in CliRunner().invoke(app, ["calc", "--method", "prefix"]).output


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"method": "lorra"}, "unknown method 'lorra'"),
        ({"method": "ia3", "size": 4}, "'ia3' has one size"),
        ({"connector": "free"}, "unknown connector 'free'"),
        ({"model": "llava-7b"}, "unknown model 'llava-7b'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(what: dict[str, object], words: str) -> None:
    given = {"model": "llava-1.5-7b", "method": "lora", "size": None, "location": "both", "connector": "frozen"}
    with pytest.raises(MmpeftError, match=words):
        one_setup({**given, **what}, {"precision": "bf16"}, (8, 64, 4), "h100")
    with pytest.raises(MmpeftError, match="unknown gpu 'h1000'"):
        gpu_of("h1000")
