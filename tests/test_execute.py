"""Execution: each run once, failures are rows, the dead are replaced, and a killed sweep can be taken up."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from small_runs import (
    good,
    hangs,
    logged,
    make_plan,
    not_a_number,
    odd_ones_fail,
    second_kills_its_worker,
    second_kills_its_worker_once,
    slow,
    somebody_else,
    wait_for,
)

from mmpeft.errors import MmpeftError
from mmpeft.execute import GpuLost, RunFunction, Summary, run_missing, serial
from mmpeft.leases import EXPIRY_SECONDS
from mmpeft.plan import load_question
from mmpeft.records import Store

HERE = Path(__file__).resolve().parent

SWEEP = """
import sys
import small_runs
from mmpeft.execute import run_missing
from mmpeft.records import Store

function, folder, num_runs = getattr(small_runs, sys.argv[1]), sys.argv[2], int(sys.argv[3])
print(run_missing(small_runs.make_plan(num_runs), Store(folder), progress=False, run=function))
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MMPEFT_TEST_LOG", str(tmp_path / "log"))
    return Store(tmp_path / "store")


def sweep_elsewhere(function: RunFunction, store: Store, num_runs: int) -> "subprocess.Popen[str]":
    """A process of its own that runs the plan on this store."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    name = function.__name__
    command = [sys.executable, "-c", SWEEP, name, str(store.path), str(num_runs)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_missing_runs_are_made_and_recorded_ones_left_alone(store: Store) -> None:
    assert run_missing(make_plan(2), store, progress=False, run=good) == Summary(done=2, failed=0, skipped=0)
    assert run_missing(make_plan(5), store, progress=False, run=slow) == Summary(done=3, failed=0, skipped=2)
    assert logged() == ["2", "3", "4"]
    assert store.status(make_plan(5)) == {"planned": 5, "done": 5, "failed": 0}


def test_the_function_may_be_given_by_its_dotted_path(store: Store) -> None:
    assert run_missing(make_plan(1), store, progress=False, run="small_runs.good").done == 1


def test_another_engine_fits_behind_the_same_interface(store: Store) -> None:
    summary = run_missing(make_plan(2), store, workers=4, progress=False, run=good, engine=serial)
    assert summary == Summary(done=2, failed=0, skipped=0)


def test_a_log_gets_a_line_with_what_is_done_failed_and_left(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_missing(make_plan(4), store, run=odd_ones_fail)
    assert capsys.readouterr().err.splitlines() == ["2 done, 2 failed, 0 remaining, 0:00:00 left"]
    monkeypatch.setattr("mmpeft.execute.LINE_SECONDS", 0.0)
    run_missing(make_plan(6), store, run=odd_ones_fail)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"1 done, 0 failed, 1 remaining, \d+:\d\d:\d\d left", first)
    assert last.startswith("1 done, 1 failed, 0 remaining, ")


def test_a_terminal_gets_a_bar_with_the_same_counts(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run_missing(make_plan(4), store, run=odd_ones_fail)
    assert "2 done, 2 failed, 0 remaining" in capsys.readouterr().err


def test_a_failing_run_is_a_row_with_its_error_and_the_sweep_goes_on(store: Store) -> None:
    planned = make_plan(4)
    assert run_missing(planned, store, progress=False, run=odd_ones_fail) == Summary(done=2, failed=2, skipped=0)
    table = store.collect(planned)
    assert table["status"].tolist() == ["ok", "failed", "ok", "failed"]
    error = table["error"][1]
    assert error.startswith("ValueError: seed 1 is odd, see ~/secret (small_runs.py:")
    assert "\n" not in error


def test_failed_runs_are_made_again_only_when_asked_for(store: Store) -> None:
    planned = make_plan(4)
    run_missing(planned, store, progress=False, run=odd_ones_fail)
    assert run_missing(planned, store, progress=False, run=good) == Summary(done=0, failed=0, skipped=4)
    again = run_missing(planned, store, progress=False, run=good, retry_failed=True)
    assert again == Summary(done=2, failed=0, skipped=2)
    assert store.status(planned) == {"planned": 4, "done": 4, "failed": 0}


@pytest.mark.parametrize(("function", "words"), [(not_a_number, "JSON compliant"), (somebody_else, "its task or base changed")])
def test_a_run_that_cannot_be_recorded_is_a_failed_one(store: Store, function: RunFunction, words: str) -> None:
    planned = make_plan(1)
    assert run_missing(planned, store, progress=False, run=function).failed == 1
    assert words in store.collect(planned)["error"][0]


def test_a_run_that_somebody_else_is_doing_is_skipped(store: Store) -> None:
    planned = make_plan(3)
    with store.claim(planned[1].run_id):
        assert run_missing(planned, store, progress=False, run=good) == Summary(done=2, failed=0, skipped=1)


def abandoned(store: Store, run_id: str, seconds_left: float) -> None:
    """Leaves the lease of a machine that is gone, so long before it expires."""
    lease = store.path / "leases" / f"{run_id}.json"
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_text('{"pid": 1, "host": "elsewhere", "token": "gone", "since": 0}')
    last = time.time() - EXPIRY_SECONDS + seconds_left
    os.utime(lease, (last, last))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_lease_of_a_machine_that_is_gone_does_not_cost_its_run(store: Store, workers: int) -> None:
    planned = make_plan(3)
    abandoned(store, planned[1].run_id, seconds_left=3 if workers == 1 else 10)
    assert run_missing(planned, store, workers, progress=False, run=good) == Summary(done=3, failed=0, skipped=0)


def test_whoever_is_at_a_run_on_another_machine_is_not_waited_for(store: Store) -> None:
    planned = make_plan(2)
    abandoned(store, planned[1].run_id, seconds_left=50)
    lease = store.path / "leases" / f"{planned[1].run_id}.json"
    beat = threading.Timer(2, os.utime, [lease])
    beat.start()
    before = time.monotonic()
    assert run_missing(planned, store, progress=False, run=good) == Summary(done=1, failed=0, skipped=1)
    assert time.monotonic() - before < 40
    beat.join()


def test_what_goes_wrong_after_the_record_is_written_does_not_make_the_run_a_failed_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(path: Path) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr("mmpeft.records.forget_checkpoint", stumble)
    planned = make_plan(1)
    with pytest.warns(UserWarning, match=r"has its record, and then failed: OSError: stale file handle"):
        assert run_missing(planned, store, progress=False, run=good) == Summary(done=1, failed=0, skipped=0)
    assert store.collect(planned)["status"].tolist() == ["ok"]


def test_a_failed_run_that_another_worker_is_making_again_is_not_forgotten(store: Store) -> None:
    planned = make_plan(2)
    run_missing(planned, store, progress=False, run=odd_ones_fail)
    with store.claim(planned[1].run_id):
        run_missing(planned, store, progress=False, run=slow, retry_failed=True)
    assert logged() == []
    store.save(*good(planned[1].spec))  # the other one ends well
    store.forget_failed(planned[1].run_id)
    assert store.status(planned) == {"planned": 2, "done": 2, "failed": 0}


def test_a_gpu_that_can_do_nothing_more_costs_one_run_and_not_the_plan(store: Store) -> None:
    planned = make_plan(5)
    with pytest.raises(GpuLost, match=r"device-side assert.*start again"):
        run_missing(planned, store, progress=False, run="small_runs.gpu_is_lost_in_the_second")
    assert store.status(planned) == {"planned": 5, "done": 1, "failed": 1}


def test_a_worker_whose_gpu_can_do_nothing_more_is_replaced(store: Store) -> None:
    summary = run_missing(make_plan(5), store, 2, progress=False, run="small_runs.gpu_is_lost_in_the_second")
    assert summary == Summary(done=4, failed=1, skipped=0)


class Overtaken(Store):
    """A store where another worker always ends a run just before this one claims it."""

    def claim(self, run_id: str, **seconds: float) -> AbstractContextManager[bool]:
        self.save(*good(next(one.spec for one in make_plan(3) if one.run_id == run_id)))
        return super().claim(run_id, **seconds)


def test_a_run_that_was_recorded_between_looking_and_claiming_is_not_made_again(store: Store) -> None:
    assert run_missing(make_plan(3), Overtaken(store.path), progress=False, run=slow).skipped == 3
    assert logged() == []


def test_a_corrupted_record_is_made_again(store: Store) -> None:
    planned = make_plan(2)
    run_missing(planned, store, progress=False, run=good)
    store.record_path(planned[0].run_id).write_text("{")
    with pytest.warns(UserWarning, match="corrupted"):
        assert run_missing(planned, store, progress=False, run=slow).done == 1
    assert logged() == ["0"]


def test_progress_shows_how_many_are_done_and_failed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_missing(make_plan(4), store, run=odd_ones_fail)
    shown = capsys.readouterr().err
    assert "2 done, 2 failed, 0 remaining" in shown


def test_nothing_is_shown_when_nothing_is_missing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_missing([], store, workers=3, run=good) == Summary(done=0, failed=0, skipped=0)
    assert capsys.readouterr().err == ""


def test_local_processes_do_each_run_once_with_their_share_of_threads(store: Store) -> None:
    planned = make_plan(12)
    summary = run_missing(planned, store, workers=2, progress=False, run="small_runs.slow")
    assert summary == Summary(done=12, failed=0, skipped=0)
    assert sorted(map(int, logged())) == list(range(12))
    record = store.load(planned[0].run_id)
    assert record is not None
    assert record.environment["threads"] == str(max(1, len(os.sched_getaffinity(0)) // 2))


def test_failures_in_local_processes_are_rows_too(store: Store) -> None:
    summary = run_missing(make_plan(4), store, workers=2, progress=False, run=odd_ones_fail)
    assert summary == Summary(done=2, failed=2, skipped=0)


def test_the_run_of_a_killed_worker_is_made_by_another(store: Store) -> None:
    summary = run_missing(make_plan(6), store, workers=2, progress=False, run=second_kills_its_worker_once)
    assert summary == Summary(done=6, failed=0, skipped=0)
    assert sorted(logged()) == ["0", "1", "2", "3", "4", "5", "killed"]


def test_a_run_that_kills_every_worker_becomes_a_failed_row_and_the_rest_is_done(store: Store) -> None:
    planned = make_plan(4)
    summary = run_missing(planned, store, workers=2, progress=False, run=second_kills_its_worker)
    assert summary == Summary(done=3, failed=1, skipped=0)
    assert "killed by SIGKILL in each of 2 attempts" in store.collect(planned)["error"][1]


def test_workers_that_cannot_start_are_an_error_and_not_an_endless_loop(store: Store) -> None:
    with pytest.raises(MmpeftError, match="ended with code 1"):
        run_missing(make_plan(2), store, workers=2, progress=False, run="small_runs.no_such_function")


def test_two_processes_on_one_store_never_do_a_run_twice(store: Store) -> None:
    both = [sweep_elsewhere(slow, store, 40) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert all(process.returncode == 0 for process in both), said
    assert sorted(map(int, logged())) == list(range(40))
    assert store.status(make_plan(40)) == {"planned": 40, "done": 40, "failed": 0}


def test_a_sweep_killed_in_a_run_loses_only_that_run_and_the_next_call_makes_it(store: Store) -> None:
    run_missing(make_plan(2), store, progress=False, run=good)
    process = sweep_elsewhere(hangs, store, 5)
    wait_for(lambda: logged() == ["2"])
    process.kill()
    process.communicate()
    assert run_missing(make_plan(5), store, progress=False, run=slow) == Summary(done=3, failed=0, skipped=2)
    assert logged() == ["2", "2", "3", "4"]


def test_a_temporary_store_serves_local_processes_too() -> None:
    store = Store(load_question("method", "smoke").store_folder())
    assert run_missing(make_plan(2), store, workers=2, progress=False, run=good).done == 2
