"""The pre-step changes the base and nothing else: made once, shared, part of what a run is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpeft.errors import MmpeftError
from mmpeft.plan import Planned, load_question
from mmpeft.pre_step import kept_at
from mmpeft.run import run
from mmpeft.spec import RunSpec

torch.set_num_threads(1)

PRE_STEP = {
    "tasks": ["mini-okvqa", "mini-vqav2"],
    "train": {"num_examples": 8, "num_steps": 4, "batch_size": 4, "learning_rate": 0.01},
}


def spec_of(**changes: Any) -> RunSpec:
    train = {"num_examples": 8, "num_steps": 2, "batch_size": 4, "learning_rate": 0.01}
    fields = {"model": "toy", "task": "mini-vqav2", "method": {"name": "lora", "r": 2}, "train": train}
    return RunSpec.from_dict({**fields, "eval": {"num_examples": 4}, "pre_step": PRE_STEP, **changes})


def test_runs_that_name_a_pre_step_share_one_base_and_repeat_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path))
    first = run(spec_of())
    path = kept_at("toy", spec_of().pre_step)  # type: ignore[arg-type]
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
    assert len(list((tmp_path / "pre_steps").glob("*.safetensors"))) == 1


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


def test_a_scale_named_after_another_takes_what_questions_say_at_that_one() -> None:
    tuned, paper = load_question("capacity", "paper-tuned"), load_question("capacity", "paper")
    assert [variant.method.size for variant in tuned.variants] == [variant.method.size for variant in paper.variants]
    assert tuned.variants != load_question("capacity", "tiny").variants
