"""The pre-step changes the base and nothing else: made once, shared, part of what a run is."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load as unpacked
from safetensors.torch import load_file, save_file
from sharded_worker import SHARDED, Sharded
from torch import nn
from typer.testing import CliRunner

from mmpeft.__main__ import app
from mmpeft.checkpoints import Checkpointer
from mmpeft.errors import MmpeftError
from mmpeft.features import OpenedLater
from mmpeft.launch import Launch, configuration
from mmpeft.loading import tiny
from mmpeft.models import MODELS
from mmpeft.plan import Planned, load_question
from mmpeft.pre_step import base_of, check_room, ensured, kept_at, make, mixed, provenance
from mmpeft.run import run
from mmpeft.spec import PreStepSpec, RunSpec
from mmpeft.study.reproduce import pre_step_in_brief, pre_step_peaks

torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent

PRE_STEP: dict[str, Any] = {
    "tasks": ["mini-okvqa", "mini-vqav2"],
    "train": {"num_examples": 8, "num_steps": 4, "batch_size": 4, "learning_rate": 0.01},
}


def spec_of(**changes: Any) -> RunSpec:
    train = {"num_examples": 8, "num_steps": 2, "batch_size": 4, "learning_rate": 0.01}
    fields = {"model": "toy", "task": "mini-vqav2", "method": {"name": "lora", "r": 2}, "train": train}
    return RunSpec.from_dict({**fields, "eval": {"num_examples": 4}, "pre_step": PRE_STEP, **changes})


def path_of(spec: RunSpec) -> Path:
    assert spec.pre_step
    return kept_at(spec.model, spec.pre_step)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and those that it starts."""
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def test_runs_that_name_a_pre_step_share_one_base_and_repeat_themselves(cache: Path) -> None:
    first = run(spec_of())
    path = path_of(spec_of())
    made = path.stat().st_mtime_ns
    again = run(spec_of())
    assert path.stat().st_mtime_ns == made
    assert first.record.curve == again.record.curve
    assert first.record.contract == again.record.contract
    without = run(spec_of(pre_step=None)).record
    assert without.curve[0] != first.record.curve[0]
    parts = first.record.contract["frozen_sha256"], without.contract["frozen_sha256"]
    assert parts[0]["language_model"] != parts[1]["language_model"]  # type: ignore[index, call-overload]
    assert parts[0]["vision_encoder"] == parts[1]["vision_encoder"]  # type: ignore[index, call-overload]
    assert [each.suffix for each in (cache / "pre_steps").iterdir() if each.name != ".lock"] == [".safetensors"]
    said = str(first.record.environment["pre_step"])
    assert said == again.record.environment["pre_step"] == provenance(spec_of())["pre_step"]
    assert said.startswith(f"{path.stem} sha256:") and len(said) == len(path.stem) + len(" sha256:") + 16
    assert "pre_step" not in without.environment


def test_a_run_that_makes_the_pre_step_keeps_none_of_its_settings(cache: Path) -> None:
    """Prefix refuses recomputed activations, which the pre-step asks for."""
    recomputed = {**PRE_STEP, "train": {**PRE_STEP["train"], "gradient_checkpointing": True}}
    spec = spec_of(method={"name": "prefix", "num_virtual_tokens": 2}, pre_step=recomputed)
    made, read = run(spec).record, run(spec).record
    assert made.curve == read.curve
    assert made.scores == read.scores


def test_the_pre_steps_own_attention_kernel_is_taken_or_refused(cache: Path) -> None:
    def weights(kernel: str) -> dict[str, torch.Tensor]:
        other = {**PRE_STEP, "train": {**PRE_STEP["train"], "attention_implementation": kernel}}
        return load_file(ensured(spec_of(pre_step=other)))

    sdpa, eager = weights("sdpa"), weights("eager")
    assert any(not torch.equal(sdpa[name], eager[name]) for name in sdpa)  # the same sums in another order
    assert all(torch.allclose(sdpa[name], eager[name], atol=1e-3) for name in sdpa)
    with pytest.raises(MmpeftError, match=r"pre_step\.train\.attention_implementation: flash_attention_2 does not load"):
        weights("flash_attention_2")


def test_no_picture_is_opened_before_a_batch_asks_for_it() -> None:
    def closed(pictures: list[Any]) -> torch.Tensor:
        raise AssertionError("a picture was opened")

    loaded = tiny(MODELS["llava-1.5-7b"])
    pre_step = PreStepSpec.model_validate(PRE_STEP)
    encoder, examples = mixed(replace(loaded, pixels=closed), pre_step)
    assert type(encoder.features) is OpenedLater
    assert {each.picture_id for each in examples} == set(encoder.features)
    assert {each.picture_id.partition("/")[0] for each in examples} == {"mini-okvqa", "mini-vqav2"}
    opened, _ = mixed(loaded, pre_step)
    assert opened.training_batch([examples[0], examples[-1]])["pixel_values"].shape[0] == 2


def test_weights_that_are_damaged_or_of_another_model_are_not_taken(cache: Path) -> None:
    path = ensured(spec_of())
    whole = unpacked(path.read_bytes())
    trained = {name: p for name, p in base_of(spec_of()).model.named_parameters() if name in whole}
    assert whole.keys() == trained.keys()
    assert all(torch.equal(whole[name], trained[name]) for name in whole)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(MmpeftError, match=r"toy-\w+\.safetensors in the cache is damaged; remove it"):
        base_of(spec_of())
    path.write_bytes(content[:100])
    with pytest.raises(MmpeftError, match="is damaged"):
        base_of(spec_of())
    name = next(iter(whole))
    save_file({**whole, name: whole[name][:1].clone()}, path)
    with pytest.raises(MmpeftError, match="does not fit 'toy'; remove it"):
        base_of(spec_of())


def test_the_processes_of_a_run_only_read_the_pre_step(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MmpeftError, match=r"the processes of a run only read it: mmpeft pre-step\."):
        base_of(spec_of())


def test_gpus_that_cannot_hold_the_training_are_told_how_many_could() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False).to(torch.bfloat16).requires_grad_(False))
    check_room(model, memory_bytes=1800, num_parts=1)
    check_room(model, memory_bytes=900, num_parts=2)
    with pytest.raises(MmpeftError, match="on 2 GPUs or more: mmpeft pre-step --accelerate fsdp"):
        check_room(model, memory_bytes=1799, num_parts=1)


@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_with_weights_in_shards_make_the_pre_step_of_one(cache: Path, name: str) -> None:
    path = Sharded(cache, 2, configuration(name)).pre_step(spec_of())
    together = unpacked(path.read_bytes())
    path.unlink()
    alone = load_file(ensured(spec_of()))
    assert together.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=0, atol=1e-4)


def test_a_pre_step_that_was_stopped_goes_on_where_it_was(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(spec_of())
    path, keep = path_of(spec_of()), Checkpointer.keep
    whole = load_file(path)
    path.unlink()

    def keep_and_stop(self: Checkpointer, step: int, *state: Any) -> None:
        keep(self, step, *state)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpointer, "keep", keep_and_stop)
        make(spec_of(), checkpoint_every=1)
    checkpoint = path.with_suffix(".checkpoint")
    assert checkpoint.exists() and not path.exists()
    torch.manual_seed(999)
    make(spec_of())
    assert not checkpoint.exists()
    made = load_file(path)
    assert all(torch.equal(made[name], weight) for name, weight in whole.items())


def test_a_run_by_several_processes_has_its_pre_step_made_first_and_says_why_that_failed(cache: Path) -> None:
    odd = {**PRE_STEP, "train": {**PRE_STEP["train"], "batch_size": 3}}
    with pytest.raises(MmpeftError, match="3 examples cannot be dealt out to 2 processes"):
        Launch(cache, 2)(spec_of(pre_step=odd))
    assert not path_of(spec_of(pre_step=odd)).exists()


def test_the_command_makes_a_pre_step_once(cache: Path) -> None:
    question = {
        **{"question": "any", "scale": "smoke", "model": "toy", "tasks": ["mini-vqav2"], "seeds": [0, 1]},
        **{"variants": [{"method": {"name": "lora", "r": 2}}], "train": {"num_steps": 2}, "eval": {}},
        **{"learning_rates": {"lora": 0.01}, "pre_step": PRE_STEP},
    }
    path = cache / "any.yaml"
    path.write_text(yaml.safe_dump(question), encoding="utf-8")
    for state in ("made", "there"):
        result = CliRunner().invoke(app, ["pre-step", str(path)])
        assert result.exit_code == 0, result.output
        assert result.output.split() == [f"{state}:", *provenance(spec_of())["pre_step"].split()]
    without = CliRunner().invoke(app, ["pre-step", "method", "--scale", "smoke"])
    assert without.output.strip() == "no run asked for has a pre-step"


def test_a_pre_step_makes_another_run_and_its_absence_leaves_the_old_id() -> None:
    bare = spec_of(pre_step=None)
    assert "pre_step" not in bare.canonical()
    other = {**PRE_STEP, "tasks": ["mini-okvqa"]}
    assert len({Planned.of(spec).run_id for spec in (bare, spec_of(), spec_of(pre_step=other))}) == 3


def test_a_pre_step_that_says_too_little_is_refused() -> None:
    with pytest.raises(MmpeftError, match=r"pre_step\.train\.learning_rate: missing"):
        spec_of(pre_step={"tasks": ["mini-okvqa"], "train": {"num_steps": 4}})


def test_the_papers_scale_starts_from_the_papers_pre_step() -> None:
    for spec in load_question("method", "paper").specs():
        assert spec.pre_step is not None
        assert spec.pre_step.tasks == ("okvqa", "vqav2", "ocrvqa")
        assert spec.pre_step.train.learning_rate == 2.0e-5
    assert {spec.seed for spec in load_question("method", "paper-tuned").specs()} == {0, 1, 2, 3, 4}


def test_the_papers_pre_step_is_too_much_for_one_gpu_of_80_gb_and_in_pieces_fits_two() -> None:
    peaks = pre_step_peaks(load_question("method", "paper").specs()[0])
    assert list(peaks) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert peaks[1] > 108e9 and peaks[2] < 73.6e9 and peaks[8] < 24e9
    said = pre_step_in_brief("paper", "h100")
    assert "108 GB" in said and "One h100 has 80. In pieces over 2, it is about 60 GB each." in said
    assert "about" not in pre_step_in_brief("paper", "h200")
    assert "there is no pre-step" in pre_step_in_brief("paper-tuned", "h100")


def test_a_scale_named_after_another_takes_what_questions_say_at_that_one() -> None:
    tuned, paper = load_question("capacity", "paper-tuned"), load_question("capacity", "paper")
    assert [variant.method.size for variant in tuned.variants] == [variant.method.size for variant in paper.variants]
    assert tuned.variants != load_question("capacity", "tiny").variants


def test_passes_that_do_not_divide_the_batch_of_a_pre_step_are_said() -> None:
    odd = {**PRE_STEP, "train": {**PRE_STEP["train"], "gradient_accumulation_steps": 3}}
    with pytest.raises(MmpeftError, match=r"pre_step\.train\.gradient_accumulation_steps: 3 do not divide a batch of 4"):
        spec_of(pre_step=odd)
