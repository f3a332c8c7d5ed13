"""Plans: the parameter files expand, files and notebooks mean the same, mistakes are named."""

import itertools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpeft.errors import MmpeftError
from mmpeft.plan import Planned, Question, load_question, params_folder, questions, scale_file
from mmpeft.spec import RunSpec, run_id
from mmpeft.tasks import REAL

PARAMS = Path(__file__).resolve().parent.parent / "params"
SCALES = ["smoke", "tiny", "small", "small-hub", "paper"]

SMALL: dict[str, Any] = {
    "question": "try",
    "scale": "smoke",
    "tasks": ["mini-vqav2"],
    "variants": [{"method": {"name": "lora"}}],
    "seeds": [0],
}


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def small(**changes: Any) -> Question:
    return Question.from_parameters({**SMALL, **changes})


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", questions())
def test_every_question_expands_at_every_scale(name: str, scale: str) -> None:
    question = load_question(name, scale)
    specs = question.specs()
    assert specs
    assert len(set(specs)) == len(specs)
    assert question.scale == scale
    assert question.question == name
    assert {spec.task for spec in specs} <= set(question.tasks)


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_named_as_its_file(name: str) -> None:
    assert read(scale_file(name))["scale"] == name


@pytest.mark.parametrize("name", questions())
def test_a_questions_own_scale_may_be_named_and_changes_nothing(name: str) -> None:
    own = load_question(name)
    assert load_question(name, own.scale) == own
    assert Question.load(PARAMS / f"{name}.yaml", scale_file(own.scale)) == own


@pytest.mark.parametrize("name", questions())
def test_papermill_files_and_load_question_mean_the_same(name: str) -> None:
    injected = read(PARAMS / f"{name}.yaml") | read(scale_file("smoke"))
    assert Question.from_parameters(injected) == load_question(name, "smoke")


def test_the_method_question_compares_seven_methods_frozen_and_tuned_on_eight_tasks_and_five_seeds() -> None:
    specs = load_question("method").specs()
    by_method = Counter(spec.method.name for spec in specs)
    assert by_method["zero-shot"] == 8
    assert by_method["connector"] == 8 * 5
    for name in ("full", "lora", "ia3", "adapter", "prefix"):
        assert Counter(spec.connector.tuned for spec in specs if spec.method.name == name) == {
            True: 40,
            False: 40,
        }
    assert len({spec.task for spec in specs}) == 8


def test_the_learning_rate_question_tries_five_rates_or_more_for_each_method_on_dev() -> None:
    specs = load_question("learning_rate").specs()
    assert {spec.eval.split for spec in specs} == {"dev"}
    assert {spec.seed for spec in specs} == {0}
    for name in ("lora", "ia3", "adapter", "prefix", "full", "connector"):
        of_method = [spec for spec in specs if spec.method.name == name and spec.task == "mini-okvqa"]
        rates = {spec.train.learning_rate or spec.connector.learning_rate for spec in of_method}
        assert len(rates) == len(of_method) >= 5
        assert {spec.connector.tuned for spec in of_method} == {name == "connector"}


def test_a_question_may_need_only_some_columns_whatever_the_scale() -> None:
    for scale in ("smoke", "tiny", "paper"):
        tasks = {spec.task.removeprefix("mini-") for spec in load_question("learning_rate", scale).specs()}
        assert tasks <= {"scienceqa", "iconqa-blank", "flickr30k", "okvqa"}
    with pytest.raises(MmpeftError, match="columns: none of VQAv3"):
        small(columns=["VQAv3"]).specs()


def test_the_papers_scale_has_the_papers_settings() -> None:
    specs = load_question("method", "paper").specs()
    assert {(spec.model, spec.seed) for spec in specs if spec.method.trains} == {("llava-1.5-7b", 42)}
    trained = [spec for spec in specs if spec.method.trains]
    assert {(spec.train.batch_size, spec.train.num_epochs) for spec in trained} == {(128, 3.0)}
    rates = {spec.method.name: spec.train.learning_rate for spec in trained if spec.method.name != "full"}
    assert rates == {"connector": None, "lora": 2e-4, "ia3": 2e-4, "adapter": 5e-5, "prefix": 1e-5}
    assert {spec.connector.learning_rate for spec in trained} == {None, 2e-5}
    sizes = {spec.method.name: spec.canonical()["method"] for spec in trained}
    assert sizes["lora"] == {"name": "lora", "r": 128, "lora_alpha": 256, "lora_dropout": 0.05}
    assert sizes["adapter"] == {"name": "adapter", "bottleneck_size": 256, "dropout": 0.05}


@pytest.mark.parametrize("scale", ["small-hub", "paper", "paper-tuned"])
@pytest.mark.parametrize("name", questions())
def test_no_run_asks_a_downloaded_task_for_more_than_it_holds(name: str, scale: str) -> None:
    """By the authors' numbers, less what dev takes of train; that share is drawn picture by picture, so not exact."""
    for planned in load_question(name, scale).planned():
        spec, asked = planned.spec, []
        if spec.method.trains:
            asked.append((spec.task, "train", spec.train.num_examples))
        if spec.pre_step:
            asked += [(task, "train", spec.pre_step.train.num_examples) for task in spec.pre_step.tasks]
        asked.append((spec.task, spec.eval.split, spec.eval.num_examples))
        if spec.track.wanted:
            asked.append((spec.task, "dev", spec.track.num_examples))
            asked += [(task, spec.track.split, spec.track.num_examples) for task in spec.track.tasks]
        for task, split, number in asked:
            there = REAL[task].size(split)
            assert there, f"{task} has no {split}"
            exact = split in REAL[task].places and not (REAL[task].dev_from_train and split == "train")
            assert (number or 0) <= there * (1 if exact else 0.9), f"{number} of {task}/{split}, which holds some {there}"


def test_packaged_and_downloaded_tasks_do_not_go_together_in_a_run() -> None:
    mixed = {"every_epochs": 1, "tasks": ["mini-okvqa", "okvqa", "pope"]}
    with pytest.raises(MmpeftError, match=r"track\.tasks: okvqa, pope beside 'mini-vqav2': packaged and downloaded"):
        small(track=mixed).planned()


def test_what_a_notebook_leaves_open_comes_from_its_scale() -> None:
    question = small(train=None, learning_rates=None)
    assert question.model == "toy"
    assert question.train == read(scale_file("smoke"))["train"]
    assert small(train={"num_steps": 7}).train == {"num_steps": 7}


def test_modules_functions_and_ipythons_names_are_not_parameters() -> None:
    around = {
        "In": [""],
        "Out": {},
        "_": 3,
        "_oh": {},
        "__name__": "x",
        "sys": sys,
        "open": open,
        "Path": Path,
    }
    assert Question.from_parameters({**SMALL, **around, "exit": sys.exit}) == small()


def test_zero_shot_runs_once_whatever_the_seeds() -> None:
    question = small(variants=[{"method": {"name": "zero-shot"}}, {"method": {"name": "lora"}}], seeds=[1, 2, 3])
    seeds = [(spec.method.name, spec.seed) for spec in question.specs()]
    assert seeds == [("zero-shot", 0), ("lora", 1), ("lora", 2), ("lora", 3)]


def test_a_run_that_two_variants_need_is_planned_once() -> None:
    twice = [{"method": {"name": "lora"}}, {"method": {"name": "lora", "r": 4}, "location": "both"}]
    assert len(small(variants=twice).specs()) == 1


def test_the_first_seed_of_everything_comes_first() -> None:
    specs = small(seeds=[5, 6], tasks=["mini-vqav2", "mini-okvqa"]).specs()
    assert [(spec.seed, spec.task) for spec in specs] == [
        (5, "mini-vqav2"),
        (5, "mini-okvqa"),
        (6, "mini-vqav2"),
        (6, "mini-okvqa"),
    ]


def test_a_grid_replaces_the_learning_rate_of_its_method_only() -> None:
    variants = [
        {"method": {"name": "lora"}, "connector": "tuned"},
        {"method": {"name": "ia3"}},
        {"method": {"name": "connector"}},
    ]
    grid = {"lora": [0.1, 0.2], "connector": [0.3, 0.4]}
    rates = {"lora": 9.0, "ia3": 0.5, "connector": 0.6}
    specs = small(variants=variants, learning_rate_grid=grid, learning_rates=rates).specs()
    assert [(spec.train.learning_rate, spec.connector.learning_rate) for spec in specs] == [
        (0.1, 0.6),
        (0.2, 0.6),
        (0.5, None),
        (None, 0.3),
        (None, 0.4),
    ]


def test_a_variant_may_bring_its_own_sizes_and_training() -> None:
    variants = [{"method": {"name": "lora", "r": 64}, "train": {"num_steps": 9, "learning_rate": 0.5}}]
    question = small(variants=variants, methods={"lora": {"r": 2, "lora_alpha": 3}})
    (spec,) = question.specs()
    assert spec.canonical()["method"] == {"name": "lora", "r": 64, "lora_alpha": 3}
    assert (spec.train.num_steps, spec.train.learning_rate) == (9, 0.5)


def test_an_untrained_method_keeps_only_the_settings_that_evaluation_needs() -> None:
    train = {"num_steps": 3, "weight_decay": 0.1, "precision": "bf16", "max_length": 64}
    (spec,) = small(variants=[{"method": {"name": "zero-shot"}}], train=train).specs()
    assert spec.canonical()["train"] == {"precision": "bf16", "max_length": 64}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, ["parameter 'sedes'", "Did you mean 'seeds'?", "learning_rates"]),
        ({"foo": None}, ["parameter 'foo'"]),
        ({"scale": "tinny"}, ["scale 'tinny'", "Did you mean 'tiny'?", "paper"]),
        ({"scale": None}, ["scale: missing", "tiny"]),
        ({"tasks": []}, ["tasks", "at least 1"]),
        ({"tasks": "mini-vqav2"}, ["tasks", "valid list"]),
        ({"variants": [{"method": {"name": "lorra"}}]}, ["method 'lorra'", "Did you mean 'lora'?"]),
        (
            {"variants": [{"method": {"name": "lora", "rank": 2}}]},
            ["variants[0].method", "'rank'", "lora_alpha"],
        ),
        ({"variants": [{"method": "lora"}]}, ["variants[0].method", "'name: value'"]),
        (
            {"variants": [{"method": {"name": "lora"}, "connector": True}]},
            ["variants[0].connector", "frozen, tuned", "YAML reads a bare on"],
        ),
        ({"learning_rates": {"ia3": 0.1}}, ["learning_rates", "'lora'", "ia3"]),
        ({"learning_rates": {"lora": "1e-4"}}, ["learning_rates.lora", "write 1.0e-4"]),
        ({"learning_rate_grid": {"lora": [0.1, "1e-4"]}}, ["learning_rate_grid.lora[1]", "write 1.0e-4"]),
        ({"learning_rates": {"lorra": 0.1}}, ["learning_rates", "'lorra'", "Did you mean 'lora'?"]),
        ({"methods": {"lorra": {"r": 1}}}, ["methods", "'lorra'", "Did you mean 'lora'?"]),
        ({"train": {"num_step": 3}}, ["train", "'num_step'", "Did you mean 'num_steps'?"]),
        ({"eval": {"num_example": 3}}, ["eval", "'num_example'", "Did you mean 'num_examples'?"]),
        ({"eval": {"split": "dev"}}, ["eval.split", "beside 'eval'"]),
        ({"split": "val"}, ["split 'val'", "dev, test, train"]),
        ({"workers": 0}, ["workers", "greater than 0"]),
        ({"seeds": ["1"]}, ["seeds[0]", "text"]),
    ],
)
def test_a_wrong_parameter_is_named_with_its_remedy(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MmpeftError) as caught:
        small(**changes)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_same_mistake_in_many_places_is_told_once() -> None:
    wrong = {"method": {"name": "lora"}, "connector": "on"}
    with pytest.raises(MmpeftError) as caught:
        small(variants=[wrong, {"method": {"name": "ia3"}}, wrong, {"method": {"name": "lora", "rank": 2}}])
    first, second = str(caught.value).splitlines()
    assert first.startswith("unknown variants[0].connector 'on'.") and first.endswith("(1 more like it.)")
    assert second.startswith("unknown variants[3].method field 'rank'.") and "more like it" not in second


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "found a list"), ("", "found nothing"), ("a: [", "not a YAML file"), ("sedes: [1]", "'seeds'")],
)
def test_a_file_that_is_no_question_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "try.yaml"
    path.write_text(text)
    with pytest.raises(MmpeftError, match=words):
        Question.load(path)


def test_unknown_questions_files_models_and_tasks_are_said(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match="Did you mean 'method'"):
        load_question("methd")
    with pytest.raises(MmpeftError, match="no such file"):
        load_question(str(tmp_path / "none.yaml"))
    with pytest.raises(MmpeftError, match="unknown model 'tiny-lava'"):
        small(model="tiny-lava").planned()
    with pytest.raises(MmpeftError, match=r"unknown task 'mini-vqa2'\. Did you mean 'mini-vqav2'"):
        small(tasks=["mini-vqa2"]).planned()


def test_a_question_can_be_a_file_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "try.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert load_question(str(path)) == small()


def test_planning_twice_gives_the_same_ids() -> None:
    planned = load_question("method", "smoke").planned()
    assert [one.run_id for one in planned] == [one.run_id for one in load_question("method", "smoke").planned()]
    assert len({one.run_id for one in planned}) == len(planned)
    assert planned[0] == Planned.of(planned[0].spec)
    assert all(isinstance(one.spec, RunSpec) for one in planned)


def test_records_lie_in_the_project_wherever_a_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PARAMS / "scales")
    assert params_folder() == PARAMS
    assert small(store="results").store_folder() == str(PARAMS.parent / "results")
    assert small(store="").store_folder() == ""


def test_trainings_are_crossed_with_variants_over_the_questions_training_and_under_the_variants_own() -> None:
    variants = [{"method": {"name": "lora"}}, {"method": {"name": "ia3"}, "train": {"subset_seed": 7}}]
    trainings = [{"num_examples": 4}, {"num_examples": 8, "subset_seed": 1}]
    train = {"num_examples": 2, "num_steps": 3, "weight_decay": 0.5}
    specs = small(variants=variants, trainings=trainings, train=train).specs()
    found = [(s.method.name, s.train.num_examples, s.train.subset_seed, s.train.weight_decay) for s in specs]
    assert found == [("lora", 4, 0, 0.5), ("ia3", 4, 7, 0.5), ("lora", 8, 1, 0.5), ("ia3", 8, 7, 0.5)]


def test_of_two_lengths_of_training_the_later_one_counts() -> None:
    variants = [{"method": {"name": "lora"}}, {"method": {"name": "ia3"}, "train": {"num_steps": 9}}]
    trainings = [{"num_epochs": 2}, {"num_examples": 4}]
    specs = small(variants=variants, trainings=trainings, train={"num_examples": 8, "num_steps": 3}).specs()
    assert [(s.train.num_epochs, s.train.num_steps) for s in specs] == [(2.0, None), (None, 9), (None, 3), (None, 9)]
    with pytest.raises(MmpeftError, match="exactly one of them"):
        small(trainings=[{"num_epochs": 2, "num_steps": 3}])


def test_an_untrained_method_runs_once_whatever_the_trainings() -> None:
    specs = small(variants=[{"method": {"name": "zero-shot"}}], trainings=[{"num_examples": 4}, {"num_examples": 8}]).specs()
    assert len(specs) == 1


def test_questions_without_trainings_plan_what_they_planned_before() -> None:
    assert small(trainings=[]).specs() == small().specs() == small(trainings=[{}]).specs() == small(at_scale={}).specs()
    spec = RunSpec.from_dict(
        {
            "model": "toy",
            "task": "mini-vqav2",
            "method": {"name": "adapter", "bottleneck_size": 8},
            "location": "mlp",
            "train": {"num_examples": 160, "num_epochs": 2, "learning_rate": 0.005},
            "seed": 3,
        }
    )
    assert run_id(spec, task_version=1, fingerprint="a base") == "ae85449a4779"


def test_what_a_question_says_at_a_scale_wins_over_the_scale_and_over_itself() -> None:
    own = {"seeds": [5, 6], "train": {"num_examples": 4, "num_steps": 1, "batch_size": 2}}
    question = small(at_scale={"smoke": own, "tiny": {"seeds": [9]}})
    assert (question.seeds, question.train) == ([5, 6], own["train"])
    assert question.eval == read(scale_file("smoke"))["eval"]
    assert small(at_scale={"tiny": {"seeds": [9]}}).seeds == SMALL["seeds"]
    assert small(at_scale={"smoke": {"variants": None}}).variants == small(variants=None).variants  # None: what the scale says


@pytest.mark.parametrize("name", questions())
def test_at_scale_is_the_same_through_files_and_through_a_notebook(name: str) -> None:
    for scale in ("smoke", "small", "small-hub", "paper"):
        written = read(PARAMS / f"{name}.yaml") | read(scale_file(scale))
        loaded = load_question(name, scale)
        assert Question.from_parameters(written) == Question.load(PARAMS / f"{name}.yaml", scale_file(scale)) == loaded
        for key, value in written.get("at_scale", {}).get(scale, {}).items():
            given = loaded.model_dump()[key]
            assert (len(given) if key == "variants" else given) == (len(value) if key == "variants" else value)


def test_the_rate_that_a_variant_brings_is_a_run_of_its_own_beside_the_grid() -> None:
    variants = [{"method": {"name": "lora"}}, {"method": {"name": "lora"}, "train": {"learning_rate": 0.5}}]
    specs = small(variants=variants, learning_rate_grid={"lora": [0.1, 0.2]}).specs()
    assert [spec.train.learning_rate for spec in specs] == [0.1, 0.2, 0.5]


def test_the_papers_rates_in_the_sweep_are_those_of_its_scale() -> None:
    paper = read(scale_file("paper"))["learning_rates"]
    own = {v.method.name: v.train["learning_rate"] for v in load_question("learning_rate").variants if v.train}
    assert own == {name: rate for name, rate in paper.items() if name != "full"}


def without_seed(name: str, seeds: set[int] | None = None) -> set[RunSpec]:
    specs = load_question(name).specs()
    return {spec.model_copy(update={"seed": 0}) for spec in specs if seeds is None or spec.seed in seeds}


def test_questions_share_their_runs() -> None:
    method = without_seed("method")
    assert without_seed("connector") <= method
    shared = {name: without_seed(name) & method for name in ("location", "capacity", "data_size")}
    assert {name: len({(s.method.name, s.location) for s in specs}) for name, specs in shared.items()} == {
        "location": 5,  # the base, the connector alone, LoRA and (IA)³ on both, the Adapter on the MLP
        "capacity": 5,
        "data_size": 5,
    }
    first_draw = {spec for spec in without_seed("stability") if spec.train.subset_seed == 0}
    assert first_draw <= without_seed("capacity")
    second = {spec for spec in without_seed("stability") if spec.train.subset_seed == 1}
    lengths = {spec.model_copy(update={"train": spec.train.model_copy(update={"num_examples": 1600})}) for spec in second}
    assert lengths <= without_seed("data_size")


def test_the_sweeps_of_sizes_have_five_powers_of_two_of_each_method_and_stability_ten_seeds() -> None:
    sizes: dict[str, set[int]] = {}
    for spec in load_question("capacity").specs():
        if spec.method.size:
            sizes.setdefault(spec.method.name, set()).add(spec.method.size)
        if spec.method.name == "lora":
            assert spec.method.model_dump()["lora_alpha"] == 2 * (spec.method.size or 0)
    assert set(sizes) == {"lora", "adapter", "prefix"}
    for found in sizes.values():
        ordered = sorted(found)
        assert len(ordered) == 5 and all(b == 2 * a for a, b in itertools.pairwise(ordered))
        assert ordered[2] in (16, 20, 32)  # the methods' own sizes stand in the middle
    stability = load_question("stability")
    assert len(stability.seeds) == 10
    assert {spec.task for spec in stability.specs()} == {"mini-scienceqa", "mini-okvqa"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainings": [{"learning_rate": 0.1}]}, ["trainings", "learning_rates"]),
        ({"trainings": [{"num_exampels": 3}]}, ["'num_exampels'", "Did you mean 'num_examples'?"]),
        ({"at_scale": {"smok": {}}}, ["at_scale scale 'smok'", "Did you mean 'smoke'?"]),
        ({"at_scale": {"paper": {"sedes": [1]}}}, ["at_scale.paper parameter 'sedes'", "Did you mean 'seeds'?"]),
        ({"at_scale": {"smoke": {"store": "elsewhere"}}}, ["at_scale.smoke parameter 'store'"]),
        ({"at_scale": {"smoke": {"seeds": []}}}, ["seeds", "at least 1"]),
        ({"at_scale": {"smoke": [1]}}, ["at_scale", "'name: value'"]),
    ],
)
def test_a_wrong_training_or_scale_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MmpeftError) as caught:
        small(**changes)
    assert [word for word in words if word not in str(caught.value)] == []
