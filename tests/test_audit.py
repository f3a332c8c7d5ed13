"""The audit makes recorded runs again: what is honest comes out the same, what was tampered with is reported."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import good, make_plan, make_record

from mmpeft.audit import LOSS_TOLERANCE, SCORE_TOLERANCE, audit, compare, sample
from mmpeft.errors import MmpeftError
from mmpeft.execute import run_missing
from mmpeft.plan import Planned, load_question
from mmpeft.records import Record, Store
from mmpeft.spec import RunSpec

torch.set_num_threads(1)

METHODS = [
    {"method": {"name": "zero-shot"}},
    {"method": {"name": "lora", "r": 2}, "train": {"num_examples": 8, "num_steps": 3, "batch_size": 4, "learning_rate": 0.01}},
    {"method": {"name": "ia3"}, "train": {"num_examples": 8, "num_steps": 3, "batch_size": 4, "learning_rate": 0.01}},
]


@pytest.fixture(scope="module")
def plan() -> list[Planned]:
    base = {"model": "toy", "task": "mini-vqav2", "eval": {"num_examples": 6}}
    return [Planned.of(RunSpec.from_dict({**base, **fields})) for fields in METHODS]


@pytest.fixture
def store(tmp_path: Path, plan: list[Planned]) -> Store:
    """Three real runs of the toy."""
    store = Store(tmp_path / "store")
    assert run_missing(plan, store, progress=False).done == len(plan)
    return store


def tampered(store: Store, run_id: str, **changes: Any) -> None:
    """The record with other contents under the same id; ``predictions`` says what they become."""
    record = store.load(run_id)
    assert record
    rows = store.predictions(run_id).to_dict("records")
    for row in rows:
        row.update(changes.get("predictions", {}))
    changes.pop("predictions", None)
    store.save(Record.model_validate({**record.model_dump(), **changes}), rows)


def shifted(record: Record | None, score: float = 0.0, loss: float = 0.0) -> dict[str, Any]:
    assert record
    (step, first), *rest = record.curve
    return {
        "scores": {**record.scores, "score": record.scores["score"] + score},
        "curve": [(step, (first or 0.0) + loss), *rest],
    }


def test_honest_records_are_reproduced_bit_for_bit(store: Store) -> None:
    found = audit(store, num_runs=6, progress=False)
    assert found.passed
    assert found.verdict == "3 of 3 reproduced (3 bit for bit)"
    assert [one.differences for one in found.comparisons] == [[], [], []]


def test_an_audit_leaves_the_store_as_it_was(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    audit(store, num_runs=1, progress=False)
    after = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert {path: text for path, text in after.items() if "leases" not in path.parts} == {
        path: text for path, text in before.items() if "leases" not in path.parts
    }


def test_a_tampered_score_is_reported_with_its_size(store: Store, plan: list[Planned]) -> None:
    lora = plan[1].run_id
    tampered(store, lora, **shifted(store.load(lora), score=0.5))
    found = audit(store, num_runs=3, progress=False)
    assert not found.passed
    assert found.verdict == "2 of 3 reproduced (2 bit for bit)"
    (bad,) = [one for one in found.comparisons if not one.reproduced]
    assert bad.run_id == lora
    assert bad.differences == ["score 0.0000, recorded 0.5000 (-0.5000)"]


def test_a_tampered_curve_or_parameter_count_is_reported(store: Store, plan: list[Planned]) -> None:
    lora, ia3 = plan[1].run_id, plan[2].run_id
    tampered(store, lora, **shifted(store.load(lora), loss=0.01))
    record = store.load(ia3)
    assert record
    tampered(store, ia3, cost={**record.cost, "trainable_params": 7})
    differences = {one.run_id: one for one in audit(store, num_runs=3, progress=False).comparisons}
    assert not differences[lora].reproduced and not differences[ia3].reproduced
    assert differences[lora].differences == ["first-step loss differs by 0.01"]
    assert "trainable parameters" in differences[ia3].differences[0] and differences[ia3].differences[0].endswith("recorded 7")


def test_small_differences_are_reproduced_but_not_exact(store: Store, plan: list[Planned]) -> None:
    lora = plan[1].run_id
    tampered(store, lora, **shifted(store.load(lora), score=SCORE_TOLERANCE / 2, loss=LOSS_TOLERANCE / 2))
    found = audit(store, num_runs=3, progress=False)
    assert found.passed
    assert found.verdict == "3 of 3 reproduced (2 bit for bit)"


def test_other_predictions_of_the_same_score_are_said(store: Store, plan: list[Planned]) -> None:
    lora = plan[1].run_id
    tampered(store, lora, predictions={"prediction": "something else"})
    (one,) = [one for one in audit(store, num_runs=3, progress=False).comparisons if one.run_id == lora]
    assert one.reproduced and not one.exact
    assert one.differences == ["6 of 6 predictions differ"]


def test_a_run_that_fails_now_is_not_reproduced(tmp_path: Path) -> None:
    (one,) = make_plan(1)
    before, now = Store(tmp_path / "before"), Store(tmp_path / "now")
    run_missing([one], before, progress=False, run=good)
    now.save(Record.failure(one, "ValueError: no", "2026-11-22T00:00:00+00:00"))
    compared = compare(before, now, one.run_id)
    assert not compared.reproduced
    assert compared.differences == ["the run failed: ValueError: no"]


def test_records_of_another_base_are_not_drawn_from(store: Store) -> None:
    store.save(make_record(make_plan(1)[0].spec), [])
    found = audit(store, num_runs=6, progress=False)
    assert (found.num_candidates, found.num_outdated) == (3, 1)
    assert found.passed


def test_a_store_without_finished_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match="no finished run"):
        audit(Store(tmp_path), progress=False)
    store = Store(tmp_path / "outdated")
    run_missing(make_plan(2), store, progress=False, run=good)
    with pytest.raises(MmpeftError, match="its 2 are of an earlier base or task"):
        audit(store, progress=False)


def test_a_sample_is_random_but_covers_methods_and_tasks() -> None:
    planned = load_question("method", "smoke").planned()
    drawn = sample(planned, 6, seed=1)
    assert len({one.run_id for one in drawn}) == 6
    assert Counter(one.spec.method.name for one in drawn) == {"zero-shot": 2, "lora": 2, "prefix": 2}
    assert sample(planned, 6, seed=1) == drawn == sample(planned[::-1], 6, seed=1)
    assert any(sample(planned, 6, seed=seed) != drawn for seed in range(2, 6))
    assert len(sample(planned, 100, seed=1)) == len(planned)


def test_an_audit_can_be_written_as_json(store: Store) -> None:
    content = json.loads(json.dumps(audit(store, num_runs=2, progress=False).to_dict()))
    assert (content["sample"], content["reproduced"]) == (2, 2)
    assert content["tolerances"] == {"score": SCORE_TOLERANCE, "first_step_loss": LOSS_TOLERANCE}
    assert {"run_id", "name", "exact", "differences", "score", "recorded_score"} <= set(content["comparisons"][0])
