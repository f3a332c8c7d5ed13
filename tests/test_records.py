"""Records are whole or absent, corrupted ones set aside, one row a run; a lease has one holder and ends."""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError
from small_runs import (
    claim_all,
    claim_and_hang,
    logged,
    make_plan,
    make_predictions,
    make_record,
    make_spec,
    make_track,
    save,
    save_for_ever,
    wait_for,
    with_log,
)

from mmpeft.errors import MmpeftError
from mmpeft.files import belonging
from mmpeft.leases import this_host
from mmpeft.methods import METHODS
from mmpeft.records import TRACKED_COLUMNS, CorruptedRecord, Record, Store, utc_now

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["small_runs"])


@pytest.fixture(scope="module", autouse=True)
def fork_server_finds_the_small_runs() -> Iterator[None]:
    """It starts with the first process and imports them once, so that each process costs milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MMPEFT_TEST_LOG", str(tmp_path / "log"))
    return Store(tmp_path / "store")


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that does this with this test's log; the fork server has an environment of its own."""
    process = FORKED.Process(target=with_log, args=(os.environ["MMPEFT_TEST_LOG"], function, *arguments))
    process.start()
    return process


def filled(store: Store, num_runs: int) -> list[str]:
    for seed in range(num_runs):
        store.save(make_record(make_spec(seed), score=seed / 10), make_predictions())
    return [one.run_id for one in make_plan(num_runs)]


def test_a_saved_record_reads_back_with_its_predictions(store: Store) -> None:
    record = make_record(make_spec())
    store.save(record, make_predictions())
    loaded = store.load(record.run_id)
    assert loaded is not None
    assert loaded.model_copy(update={"predictions_sha256": None}) == record
    table = store.predictions(record.run_id)
    assert list(table) == ["example_id", "picture_id", "prediction", "answers", "score", "parsed"]
    assert table["prediction"].tolist() == ["café"] * 3
    assert table["answers"][0] == ["café", "bar"]


def test_the_file_holds_every_setting_under_the_agreed_names(store: Store) -> None:
    (run_id,) = filled(store, 1)
    content = json.loads(store.record_path(run_id).read_text())
    expected = "schema run_id status spec task_version scores cost curve contract environment started_at error"
    assert set(expected.split()) <= set(content)
    assert content["schema"] == 1
    assert content["spec"]["method"] == {"name": "lora", "r": 4, "lora_alpha": 32, "lora_dropout": 0.0}
    assert content["spec"]["train"]["schedule"] == "cosine"


def test_the_same_predictions_are_the_same_bytes(store: Store) -> None:
    (run_id,) = filled(store, 1)
    before = store.predictions_path(run_id).read_bytes()
    assert before[4:8] == bytes(4)  # the time of writing in gzip's header (RFC 1952)
    filled(store, 1)
    assert store.predictions_path(run_id).read_bytes() == before


def test_no_temporary_file_stays_and_a_killed_writers_one_goes(store: Store) -> None:
    (run_id,) = filled(store, 1)
    left = store.record_path(run_id).with_name(f".{run_id}.json.elsewhere.1.tmp")
    left.write_text("{")
    os.utime(left, (0, 0))
    filled(store, 1)
    assert [path.name for path in (store.path / "records").iterdir()] == [f"{run_id}.json"]


def test_a_curve_that_is_not_finite_is_kept_and_a_score_that_is_not_is_refused(store: Store) -> None:
    fields = make_record(make_spec()).model_dump(by_alias=False)
    fields["spec"] = make_spec()
    record = Record(**{**fields, "curve": [(1, 2.0), (2, float("nan"))]})
    store.save(record)
    loaded = store.load(record.run_id)
    assert loaded is not None
    assert loaded.curve == [(1, 2.0), (2, None)]
    with pytest.raises(ValidationError, match="finite"):
        Record(**{**fields, "scores": {"score": float("nan")}})


def test_collect_gives_one_row_a_run_with_settings_scores_and_cost(store: Store) -> None:
    run_ids = filled(store, 3)
    table = store.collect()
    assert sorted(table["run_id"]) == sorted(run_ids)
    row = table.set_index("run_id").loc[run_ids[2]]
    assert (row["model"], row["task"], row["column"], row["seen"]) == ("toy", "mini-vqav2", "VQAv2", True)
    assert (row["method"], row["label"], row["location"], row["connector"]) == (
        "lora",
        "LoRA",
        "both",
        "frozen",
    )
    assert (row["seed"], row["score"], row["unparsed"], row["learning_rate"]) == (2, 0.2, 0.0, 0.001)
    assert (row["r"], row["train_num_steps"], row["eval_batch_size"], row["split"]) == (4, 3, 64, "test")
    assert (row["trainable_params"], row["device"]) == (128, "cpu")


def test_collect_of_a_plan_holds_its_runs_only_in_its_order(store: Store) -> None:
    filled(store, 4)
    planned = [make_plan(6)[seed] for seed in (5, 3, 1)]
    assert store.collect(planned)["seed"].tolist() == [3, 1]
    assert store.status(planned) == {"planned": 3, "done": 2, "failed": 0}
    assert store.missing(planned) == planned[:1]


def test_an_empty_store_gives_an_empty_table_with_the_columns(store: Store) -> None:
    table = store.collect()
    assert table.empty
    assert {"run_id", "method", "label", "score", "seed", "error"} <= set(table)
    assert store.status(make_plan(2)) == {"planned": 2, "done": 0, "failed": 0}


def test_a_failed_run_is_a_row_with_its_error_and_is_not_missing(store: Store) -> None:
    (planned,) = make_plan(1)
    store.save(Record.failure(planned, "ValueError: no", utc_now()))
    row = store.collect().iloc[0]
    assert (row["status"], row["error"]) == ("failed", "ValueError: no")
    assert pd.isna(row["score"])
    assert store.status([planned]) == {"planned": 1, "done": 0, "failed": 1}
    assert store.missing([planned]) == []
    with pytest.raises(MmpeftError, match="ValueError: no"):
        store.predictions(planned.run_id)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}", b"[1]", b'{"schema": 1, "status": "fine"}'])
def test_a_corrupted_record_is_set_aside_by_name_and_the_rest_still_reads(store: Store, content: bytes) -> None:
    bad, *good = filled(store, 3)
    store.record_path(bad).write_bytes(content)
    with pytest.warns(CorruptedRecord, match=f"records/{bad}.json is corrupted"):
        table = store.collect()
    assert set(table["run_id"]) == set(good)
    assert [name.split(".")[0] for name in store.quarantined()] == [bad]
    assert [one.run_id for one in store.missing(make_plan(3))] == [bad]


def test_a_record_under_another_runs_name_is_corrupted(store: Store) -> None:
    first, second = filled(store, 2)
    store.record_path(second).write_bytes(store.record_path(first).read_bytes())
    with pytest.warns(CorruptedRecord, match=first):
        assert store.load(second) is None


@pytest.mark.parametrize("damage", [None, b"", b"not gzip"])
def test_lost_or_damaged_predictions_are_said_and_the_run_counts_as_missing(store: Store, damage: bytes | None) -> None:
    (run_id,) = filled(store, 1)
    path = store.predictions_path(run_id)
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.warns(CorruptedRecord), pytest.raises(MmpeftError, match="lost or damaged"):
        store.predictions(run_id)
    assert len(store.missing(make_plan(1))) == 1


def test_predictions_of_an_unknown_run_are_refused(store: Store) -> None:
    with pytest.raises(MmpeftError, match="no record"):
        store.predictions("0123456789ab")


def test_tracked_predictions_read_back_one_row_an_example_and_epoch(store: Store) -> None:
    checkpoints, tracked = make_track()
    record = make_record(make_spec()).model_copy(update={"track": checkpoints})
    store.save(record, make_predictions(), tracked)
    loaded = store.load(record.run_id)
    assert loaded is not None and loaded.track == checkpoints
    frame = store.tracked(record.run_id)
    assert tuple(frame.columns) == TRACKED_COLUMNS
    assert frame["epoch"].tolist() == [0, 2] * 3 and frame["prediction"].tolist() == ["no", "yes"] * 3
    assert store.tracked_lines(record.run_id) == tracked


def test_a_run_that_was_asked_nothing_on_the_way_says_so(store: Store) -> None:
    (run_id,) = filled(store, 1)
    with pytest.raises(MmpeftError, match=r"no tracked predictions .* its record came without any"):
        store.tracked(run_id)
    assert store.load(run_id)


@pytest.mark.parametrize("damage", [None, b"", b"not gzip"])
def test_lost_or_damaged_tracked_predictions_make_the_run_missing(store: Store, damage: bytes | None) -> None:
    save(store, 0.25)
    run_id = make_plan(1)[0].run_id
    path = store.tracked_path(run_id)
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.warns(CorruptedRecord), pytest.raises(MmpeftError, match=r"tracked predictions .* lost or damaged"):
        store.tracked(run_id)
    assert len(store.missing(make_plan(1))) == 1


def test_predictions_that_wait_for_their_record_are_read(store: Store) -> None:
    save(store, 0.25)
    run_id = make_plan(1)[0].run_id
    for path in (store.predictions_path(run_id), store.tracked_path(run_id)):
        path.replace(path.with_name(path.name.replace(".jsonl", ".waiting.jsonl")))
    assert len(store.predictions(run_id)) == len(store.tracked(run_id)) == 2000


def test_a_record_written_before_anything_was_tracked_still_reads(store: Store) -> None:
    (run_id,) = filled(store, 1)
    content = json.loads(store.record_path(run_id).read_text())
    for field in ("track", "tracked_sha256"):
        del content[field]
    del content["spec"]["track"]
    store.record_path(run_id).write_text(json.dumps(content))
    record = store.load(run_id)
    assert record is not None and record.track == [] and not record.spec.track.wanted


def test_an_unnamed_store_is_temporary() -> None:
    store = Store("")
    folder = store.path
    filled(store, 1)
    assert len(store.collect()) == 1
    del store
    assert not folder.exists()


def test_every_method_has_a_label_for_its_rows() -> None:
    assert all(method.label for method in METHODS.values())


def test_a_kill_during_a_write_leaves_the_old_record_or_the_new_one(store: Store) -> None:
    planned, chance, seen = make_plan(1), random.Random(0), set()
    before = time.monotonic()
    save(store, 0.25)
    one_save = time.monotonic() - before
    for _ in range(25):
        process = start(save_for_ever, str(store.path))
        wait_for(lambda: "ready" in logged())
        time.sleep(chance.uniform(0, min(5 * one_save, 0.1)))
        process.kill()
        process.join()
        Path(os.environ["MMPEFT_TEST_LOG"]).unlink()
        record = store.load(planned[0].run_id)  # a half-written one would warn, and a warning fails the test
        assert record is not None
        assert {loss for _, loss in record.curve} == {record.scores["score"]}
        assert len(record.curve) == 2000
        seen.add(record.scores["score"])
        assert store.predictions(record.run_id)["score"].tolist() == [record.scores["score"]] * 2000
        assert store.tracked(record.run_id)["score"].tolist() == [record.scores["score"]] * 2000
    assert seen <= {0.25, 0.75}


def test_a_run_is_claimed_once_and_is_free_afterwards(store: Store) -> None:
    with store.claim("a") as first, store.claim("a") as second, store.claim("b") as other:
        assert (first, second, other) == (True, False, True)
        assert store.held_by(os.getpid()) == ["a", "b"]
    with store.claim("a") as again:
        assert again
    assert store.held_by(os.getpid()) == []


def test_a_claim_is_given_back_when_the_run_raises(store: Store) -> None:
    with pytest.raises(ValueError, match="oh"), store.claim("a"):
        raise ValueError("oh")
    with store.claim("a") as again:
        assert again


def test_a_heartbeat_keeps_a_claim_alive(store: Store) -> None:
    lease = store.path / "leases" / "a.json"
    with store.claim("a", heartbeat_seconds=0.02):
        os.utime(lease, (0, 0))
        wait_for(lambda: time.time() - lease.stat().st_mtime < 60)
        with store.claim("a") as second:
            assert not second


def test_a_claim_without_a_heartbeat_expires_and_its_first_holder_does_not_give_back_the_second(
    store: Store,
) -> None:
    lease, first = store.path / "leases" / "a.json", store.claim("a", heartbeat_seconds=600)
    assert first.__enter__()
    os.utime(lease, (0, 0))
    with store.claim("a") as second:
        assert second
        first.__exit__(None, None, None)
        with store.claim("a") as third:
            assert not third
    assert not lease.exists()


def test_the_lease_of_a_killed_process_expires_at_once(store: Store) -> None:
    process = start(claim_and_hang, str(store.path), "a")
    wait_for(lambda: "held" in logged())
    with store.claim("a") as mine:
        assert not mine
    process.kill()
    process.join()
    with store.claim("a") as mine:
        assert mine


def test_a_process_that_ended_and_that_nobody_asks_after_holds_nothing(store: Store) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    lease = store.path / "leases" / "a.json"
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"pid": ended.pid, "host": this_host(), "token": "x", "since": 0}))
    assert not store.held("a") and store.sign_of_life("a") != math.inf
    ended.wait()


def test_a_heartbeat_outlives_a_file_system_that_stumbles(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, touch, stumbles = store.path / "leases" / "a.json", os.utime, iter(range(3))

    def sometimes(path: Path) -> None:
        if next(stumbles, None) is not None:
            raise OSError("stale file handle")
        touch(path)

    with store.claim("a", heartbeat_seconds=0.02):
        touch(lease, (0, 0))
        monkeypatch.setattr("mmpeft.leases.os.utime", sometimes)
        wait_for(lambda: time.time() - lease.stat().st_mtime < 60)
    assert not lease.exists()


def test_a_lease_that_comes_or_goes_between_two_looks_is_an_answer_and_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        store.path.joinpath("leases").mkdir(parents=True)
        patch.setattr(Path, "exists", lambda self: True)  # as a network file system may still have it
        assert not store.held("a")
        with store.claim("a") as mine:
            assert mine
    with store.claim("a"), monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: False)
        with store.claim("a") as second:
            assert not second


def test_predictions_that_are_moved_to_their_place_while_they_are_looked_for_are_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = filled(store, 1)
    looks = iter([None])

    def moved(path: Path, digest: str) -> bytes | None:
        return next(looks, belonging(path, digest))

    monkeypatch.setattr("mmpeft.records.belonging", moved)
    assert len(store.predictions(run)) == 3
    assert store.quarantined() == []


@pytest.mark.parametrize("content", ["", '{"pid": 1, "host": "elsewhere", "token": "x", "since": 0}'])
def test_a_lease_of_another_host_or_without_words_expires_with_time(store: Store, content: str) -> None:
    path = store.path / "leases" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with store.claim("a") as mine:
        assert not mine
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))
    with store.claim("a") as mine:
        assert mine


def test_an_expired_lease_is_taken_over_by_one_process_only(store: Store) -> None:
    names = [f"run{i}" for i in range(60)]
    folder = store.path / "leases"
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.json").write_text('{"pid": 1, "host": "elsewhere", "token": "x", "since": 0}')
        os.utime(folder / f"{name}.json", (0, 0))
    at = time.time() + 1.0
    team = [start(claim_all, str(store.path), names, at) for _ in range(4)]
    wait_for(lambda: logged().count("through") == len(team))
    for process in team:
        process.kill()
        process.join()
    assert sorted(name for name in logged() if name != "through") == sorted(names)
