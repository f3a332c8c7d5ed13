"""A run from its spec to its record: complete, the same twice, honest when it fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpeft.errors import MmpeftError
from mmpeft.execute import run_missing
from mmpeft.models import load
from mmpeft.plan import Planned
from mmpeft.records import PREDICTION_COLUMNS, Store
from mmpeft.run import examples_of, prepare, run
from mmpeft.spec import RunSpec
from mmpeft.tasks import COLUMNS, TASKS

torch.set_num_threads(1)

METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"method": {"name": "zero-shot"}, "train": {}},
    "connector": {
        "method": {"name": "connector"},
        "connector": {"tuned": True, "learning_rate": 0.01},
        "train": {"num_examples": 8, "num_steps": 3, "batch_size": 4},
    },
    "full": {"method": {"name": "full"}, "connector": {"tuned": True, "learning_rate": 0.001}},
    "lora": {"method": {"name": "lora", "r": 2}},
    "ia3": {"method": {"name": "ia3"}},
    "adapter": {"method": {"name": "adapter", "bottleneck_size": 4}, "location": "mlp"},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 3}, "connector": {"tuned": True, "learning_rate": 0.001}},
}
TRAIN = {"num_examples": 8, "num_steps": 3, "batch_size": 4, "learning_rate": 0.01}


def spec_of(name: str, task: str = "mini-vqav2", **changes: Any) -> RunSpec:
    fields = {"model": "toy", "task": task, "train": TRAIN, "eval": {"num_examples": 6}, **METHODS[name], **changes}
    return RunSpec.from_dict(fields)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_a_whole_record_with_its_contract(name: str) -> None:
    spec = spec_of(name)
    record, predictions, _ = run(spec)
    assert record.status == "ok"
    assert record.run_id == Planned.of(spec).run_id
    assert len(record.curve) == (0 if name == "zero-shot" else 3)
    assert set(record.scores) >= {"score", "unparsed"}
    assert record.contract["trainable"]["vision_encoder"] == 0
    assert record.cost["trainable_params"] == sum(record.contract["trainable"].values())
    assert (record.cost["trainable_params"] == 0) == (name == "zero-shot")
    assert record.cost["total_params"] > 20_000
    assert {"python", "torch", "transformers", "peft", "accelerate", "device", "threads"} <= set(record.environment)
    assert [tuple(row) for row in predictions] == [PREDICTION_COLUMNS] * 6
    assert [row["example_id"] for row in predictions] == [e.example_id for e in TASKS[spec.task].examples("test", 6)]
    json.dumps(predictions, allow_nan=False)


@pytest.mark.parametrize("task", COLUMNS)
def test_every_column_can_be_trained_on(task: str) -> None:
    record, predictions, _ = run(spec_of("lora", task, train={**TRAIN, "num_steps": 1}, eval={"num_examples": 4}))
    assert len(predictions) == 4
    assert record.scores["score"] == pytest.approx(sum(row["score"] for row in predictions) / 4, abs=1e-6)


def test_a_run_repeats_itself_bit_by_bit() -> None:
    spec = spec_of("lora", connector={"tuned": True, "learning_rate": 0.001})
    (first, predictions, _), (second, again, _) = run(spec), run(spec)
    assert first.curve == second.curve
    assert first.scores == second.scores
    assert first.contract == second.contract
    assert predictions == again


def test_a_run_leaves_nothing_behind_that_the_next_one_sees() -> None:
    alone, predictions, _ = run(spec_of("ia3"))
    run(spec_of("full", seed=3))
    run(spec_of("prefix"))
    after, again, _ = run(spec_of("ia3"))
    assert alone.curve == after.curve
    assert predictions == again


def test_a_cold_cache_and_a_warm_one_give_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path))
    (cold, predictions, _), (warm, again, _) = run(spec_of("lora")), run(spec_of("lora"))
    assert list(tmp_path.rglob("*.safetensors"))
    assert cold.curve == warm.curve
    assert predictions == again


def test_training_and_judging_use_the_examples_that_the_spec_names() -> None:
    spec = spec_of("lora", eval={"split": "dev", "num_examples": 5}, train={**TRAIN, "subset_seed": 2})
    training, asked = examples_of(spec, TASKS[spec.task])
    assert training == TASKS[spec.task].examples("train", 8, subset_seed=2)
    assert asked == TASKS[spec.task].examples("dev", 5)
    assert examples_of(spec_of("zero-shot"), TASKS[spec.task])[0] == []


def test_a_run_that_diverges_becomes_a_failed_record_and_the_sweep_goes_on(tmp_path: Path) -> None:
    wild = spec_of("full", train={**TRAIN, "num_steps": 8, "learning_rate": 1e30, "warmup_ratio": 0.0})
    planned = [Planned.of(wild), Planned.of(spec_of("zero-shot"))]
    store = Store(tmp_path)
    summary = run_missing(planned, store, progress=False)
    assert (summary.done, summary.failed) == (1, 1)
    record = store.load(planned[0].run_id)
    assert record and record.status == "failed"
    assert record.error and "TrainingDiverged: training diverged: loss nan" in record.error


def test_more_examples_than_there_are_is_said(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match="num_examples: 100000 asked of mini-vqav2/test"):
        run(spec_of("zero-shot", eval={"num_examples": 100_000}))


def test_an_example_that_is_too_long_is_said_before_anything_trains() -> None:
    with pytest.raises(MmpeftError, match=r"train\.max_length: 16 of 16 examples are longer than 8 tokens"):
        run(spec_of("lora", train={**TRAIN, "num_examples": 16, "max_length": 8}))


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_learns_the_same_and_keeps_its_contract(name: str) -> None:
    """What trains stays in fp32, so that small updates are not rounded away."""
    half = {"train": {**METHODS[name].get("train", TRAIN), "precision": "bf16"}}
    record, reference = run(spec_of(name, **half)).record, run(spec_of(name)).record
    assert record.contract["reload_delta_logits"] == 0.0
    assert record.contract["frozen_unchanged"]
    for (_, loss), (_, expected) in zip(record.curve, reference.curve, strict=True):
        assert loss == pytest.approx(expected, rel=0.02)


def test_another_attention_kernel_gives_the_same_curve() -> None:
    eager = run(spec_of("lora", train={**TRAIN, "attention_implementation": "eager"})).record
    reference = run(spec_of("lora")).record
    assert eager.run_id != reference.run_id
    assert [loss for _, loss in eager.curve] == pytest.approx([loss for _, loss in reference.curve], abs=1e-4)


def test_an_attention_kernel_that_is_not_there_is_said() -> None:
    with pytest.raises(MmpeftError, match=r"train\.attention_implementation: flash_attention_2 does not load"):
        run(spec_of("lora", train={**TRAIN, "attention_implementation": "flash_attention_2"}))


def test_half_precision_leaves_rotary_frequencies_whole() -> None:
    loaded = load("toy")
    before = {name: buffer.clone() for name, buffer in loaded.model.named_buffers()}
    assert any("inv_freq" in name for name in before)
    prepare(loaded.model, loaded.entry, spec_of("lora", train={**TRAIN, "precision": "bf16"}))
    assert all(torch.equal(buffer, before[name]) for name, buffer in loaded.model.named_buffers())
    assert all(p.dtype == torch.bfloat16 for p in loaded.model.get_submodule(loaded.entry.language_model).parameters())
