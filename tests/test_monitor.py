"""What a run is asked on the way: at the right moments, on fixed examples, and without a trace in the training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpeft.audit import audit
from mmpeft.errors import MmpeftError
from mmpeft.execute import run_missing
from mmpeft.monitor import asked_on_the_way, due
from mmpeft.pictures import pictures_of
from mmpeft.plan import Planned
from mmpeft.records import TRACKED_COLUMNS, Store
from mmpeft.run import run
from mmpeft.spec import RunSpec
from mmpeft.tasks import TASKS

torch.set_num_threads(1)

TRACK = {"tasks": ["mini-scienceqa", "mini-pope"], "every_epochs": 2, "num_examples": 6}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"name": "lora", "r": 2, "lora_dropout": 0.5}},
    "adapter": {"method": {"name": "adapter", "bottleneck_size": 4}, "location": "mlp"},
    "prefix": {"method": {"name": "prefix", "num_virtual_tokens": 3}},
    "ia3": {"method": {"name": "ia3"}, "connector": {"tuned": True, "learning_rate": 0.01}},
}


def spec_of(name: str = "lora", *, track: dict[str, Any] | None = TRACK, **train: Any) -> RunSpec:
    settings = {"num_examples": 8, "num_epochs": 4, "batch_size": 4, "learning_rate": 0.02, **train}
    fields = {"model": "toy", "task": "mini-vqav2", "train": settings, "eval": {"num_examples": 6}, **METHODS[name]}
    return RunSpec.from_dict({**fields, "track": track} if track else fields)


@pytest.mark.parametrize("name", METHODS)
def test_being_asked_changes_the_training_by_nothing(name: str) -> None:
    plain, watched = run(spec_of(name, track=None)), run(spec_of(name))
    assert plain.record.curve == watched.record.curve
    assert plain.predictions == watched.predictions
    assert plain.record.scores == watched.record.scores
    assert plain.record.contract == watched.record.contract
    assert len(watched.record.track) == 9 and not plain.record.track
    assert plain.record.run_id != watched.record.run_id


def test_a_run_is_asked_before_training_and_after_every_so_many_epochs() -> None:
    record, _, tracked = run(spec_of())
    moments = [(point.epoch, point.step, point.task, point.split, point.num_examples) for point in record.track]
    tasks = [("mini-vqav2", "dev"), ("mini-scienceqa", "test"), ("mini-pope", "test")]
    assert moments == [(epoch, step, *task, 6) for epoch, step in ((0, 0), (2, 4), (4, 8)) for task in tasks]
    assert [set(point.scores) >= {"score", "unparsed"} for point in record.track] == [True] * 9
    assert ["loss" in point.scores for point in record.track] == [True, False, False] * 3
    assert [line["example_id"] for line in tracked] == [e.example_id for a in asked_on_the_way(record.spec) for e in a.examples]
    assert all(len(line["predictions"]) == len(line["scores"]) == 3 for line in tracked)
    for i, point in enumerate(record.track):
        mine = [line["scores"][i // 3] for line in tracked if line["task"] == point.task]
        assert point.scores["score"] == pytest.approx(sum(mine) / 6, abs=1e-3)


def test_training_lowers_the_loss_that_is_tracked_where_it_can() -> None:
    record = run(spec_of(num_examples=32, num_epochs=8, learning_rate=0.05)).record
    losses = [point.scores["loss"] for point in record.track if "loss" in point.scores]
    assert losses[0] > losses[-1]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"num_epochs": 4}, {0: 0, 4: 2, 8: 4}),
        ({"num_epochs": 3}, {0: 0, 4: 2}),
        ({"num_epochs": None, "num_steps": 5}, {0: 0, 4: 2}),
        ({"num_examples": 10, "num_epochs": 4}, {0: 0, 5: 2, 10: 4}),
        ({"num_examples": 9, "num_epochs": 2}, {0: 0, 5: 2}),
    ],
)
def test_the_moments_follow_from_epochs_and_steps(train: dict[str, Any], expected: dict[int, int]) -> None:
    spec = spec_of(**{name: value for name, value in train.items() if value is not None} | {"num_epochs": train["num_epochs"]})
    assert due(spec, spec.train.num_examples or 0) == expected


def test_what_trains_nothing_is_asked_once() -> None:
    fields = {"model": "toy", "task": "mini-vqav2", "method": {"name": "zero-shot"}, "eval": {"num_examples": 6}}
    record, _, tracked = run(RunSpec.from_dict({**fields, "track": {"tasks": ["mini-pope"], "num_examples": 6}}))
    assert [(point.epoch, point.task) for point in record.track] == [(0, "mini-vqav2"), (0, "mini-pope")]
    assert len(tracked) == 12


@pytest.mark.parametrize(
    ("track", "method", "said"),
    [
        ({"tasks": ["mini-vqav2"], "every_epochs": 1}, "lora", "'mini-vqav2' is the run's own task"),
        ({"tasks": ["mini-pope", "mini-pope"], "every_epochs": 1}, "lora", "names a task twice"),
        ({"tasks": ["mini-pope"]}, "lora", "track.every_epochs: missing; set it"),
        ({"tasks": ["mini-pope"], "every_epochs": 1}, "zero-shot", "'zero-shot' trains nothing; remove it"),
        ({"num_examples": 5}, "lora", "asks no task"),
        ({"every_epoch": 5}, "lora", "Did you mean 'every_epochs'"),
    ],
)
def test_what_cannot_be_asked_is_refused(track: dict[str, Any], method: str, said: str) -> None:
    train = {} if method == "zero-shot" else {"num_steps": 1, "learning_rate": 0.1}
    fields = {"model": "toy", "task": "mini-vqav2", "method": {"name": method}, "train": train, "track": track}
    with pytest.raises(MmpeftError, match=said):
        RunSpec.from_dict(fields)


def test_a_tracked_task_that_changes_makes_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, watched = spec_of(track=None), spec_of()
    before = [Planned.of(spec).run_id for spec in (plain, watched)]
    monkeypatch.setattr(type(TASKS["mini-pope"]), "version", 99)
    after = [Planned.of(spec).run_id for spec in (plain, watched)]
    assert before[0] == after[0] and before[1] != after[1]


def test_pictures_of_the_tracked_tasks_are_prepared_too() -> None:
    (wanted,) = pictures_of([Planned.of(spec_of())]).values()
    ids = {task.name: set(pictures) for task, pictures in wanted}
    assert set(ids) == {"mini-vqav2", "mini-scienceqa", "mini-pope"}
    for asked in asked_on_the_way(spec_of()):
        assert {e.picture_id for e in asked.examples} <= ids[asked.task.name]


def test_tracked_predictions_are_kept_read_back_and_audited(tmp_path: Path) -> None:
    store, planned = Store(tmp_path), Planned.of(spec_of())
    run_missing([planned], store, progress=False)
    frame = store.tracked(planned.run_id)
    assert tuple(frame.columns) == TRACKED_COLUMNS and len(frame) == 3 * 6 * 3
    assert sorted(frame["epoch"].unique()) == [0, 2, 4]
    again = audit(store, num_runs=1, progress=False)
    assert again.verdict == "1 of 1 reproduced (1 bit for bit)"
    record, lines = store.load(planned.run_id), store.tracked_lines(planned.run_id)
    assert record
    lines[0]["predictions"][1] = "something else"
    store.save(record, store.predictions(planned.run_id).to_dict("records"), lines)
    (one,) = audit(store, num_runs=1, progress=False).comparisons
    assert one.reproduced and one.differences == ["1 of 54 tracked predictions differ"]
