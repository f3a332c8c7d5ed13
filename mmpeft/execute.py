"""Run what is missing: one after another, or in local processes; a cluster (`mmpeft.cluster`) fits behind the same interface.

Every worker walks the same plan and takes what has no record and no lease; the store is all they share, so a
sweep can be joined, killed and started again at any moment. A run that fails becomes a record with its error,
and the sweep goes on. A worker that dies is replaced; a run that killed two becomes a failed record. A lease that a
dead machine left is waited for, a minute at most.
"""

import importlib
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmpeft.errors import MmpeftError, RunFailed
from mmpeft.files import forget_checkpoint
from mmpeft.leases import PLACE
from mmpeft.plan import Planned
from mmpeft.records import Outcome, Record, Store, utc_now
from mmpeft.spec import RunSpec

RunFunction = Callable[[RunSpec], Outcome]
"""What makes a run: ``mmpeft.run.run``, or another of its kind."""

Report = Callable[[str], None]
"""Called with the run_id of each run that has just left a record."""

RUN = "mmpeft.run.run"
POLL_SECONDS = 0.2
DEATHS_ALLOWED = 1
"""How many workers may die in a run before it counts as failed: one may be an accident."""
DEATHS_BETWEEN_RUNS_ALLOWED = 3
LINE_SECONDS = 60.0
LIFE_SECONDS = 1.0
"""Between two looks whether a lease that is left over has somebody behind it."""
GPU_LOST = 87
"""The exit code of a worker whose GPU can do nothing more in its process."""
COUNTS = "{task.fields[done]} done, {task.fields[failed]} failed, {task.remaining:.0f} remaining"


@dataclass(frozen=True)
class Summary:
    """What a call to run_missing did.

    Attributes:
        done: Runs that ended well meanwhile.
        failed: Runs that ended in an error meanwhile; their records say which.
        skipped: The other planned runs: they had a record, or somebody else held them.
    """

    done: int
    failed: int
    skipped: int


class GpuLost(MmpeftError):
    """After this error of a GPU every further call to it fails in the same process; the run's record says which it was."""


class Engine(Protocol):
    """A way of running: does every planned run that has no record, and reports each as it ends."""

    def __call__(self, planned: Sequence[Planned], store: Store, run: RunFunction | str, report: Report) -> None:
        """Return when every planned run has a record or is held by somebody else."""


def run_missing(
    planned: Sequence[Planned],
    store: Store,
    workers: int = 1,
    progress: bool = True,
    *,
    run: RunFunction | str = RUN,
    retry_failed: bool = False,
    engine: Engine | None = None,
) -> Summary:
    """What came of the planned runs that had no record.

    Args:
        planned: The plan.
        store: Where records are, and go.
        workers: 1 runs here; more start that many processes, each with its share of the cores.
        progress: Whether to show a bar with the time left.
        run: The function that makes a run, or its dotted path; processes import it by name.
        retry_failed: Whether to make failed runs again.
        engine: Another way of running; by default ``serial``, or ``processes`` for more than one worker.

    Raises:
        MmpeftError: The workers cannot start.
    """
    if retry_failed:
        for failed in store.failed(planned):
            store.forget_failed(failed.run_id)
    for left in store.checkpoints():  # of a run killed between its record and this
        if (record := store.load(left.stem)) and record.status == "ok":
            forget_checkpoint(left)
    missing = store.missing(planned)
    engine = engine or (serial if workers == 1 else partial(processes, workers=workers))
    ended: Counter[str] = Counter()
    with _bar(len(missing), shown=progress and bool(missing)) as advance:

        def report(run_id: str) -> None:
            record = store.load(run_id)
            ended[record.status if record else "lost"] += 1
            advance(ended["ok"], ended["failed"])

        if missing:
            engine(missing, store, run, report)
    return Summary(ended["ok"], ended["failed"], len(planned) - ended["ok"] - ended["failed"])


def serial(planned: Sequence[Planned], store: Store, run: RunFunction | str, report: Report) -> None:
    """Make the runs one after another, here.

    Raises:
        GpuLost: This process cannot go on; what is left needs another.
    """
    function = imported(run)
    for one in offered(planned, store):
        if take(one, store, function):
            report(one.run_id)


def processes(planned: Sequence[Planned], store: Store, run: RunFunction | str, report: Report, *, workers: int) -> None:
    """Make the runs in local processes, each with ``cores // workers`` threads.

    Raises:
        MmpeftError: Workers die before they take up a run.
    """
    team = _Team(planned, store, run, min(workers, len(planned)))
    waiting = {one.run_id for one in planned}
    try:
        while True:
            working = team.tend()
            for run_id in [run_id for run_id in waiting if store.has(run_id)]:
                waiting.discard(run_id)
                report(run_id)
            if not working:
                return
            time.sleep(POLL_SECONDS)
    finally:
        team.stop()


class _Team:
    """The worker processes: started together, replaced when one dies in a run."""

    def __init__(self, planned: Sequence[Planned], store: Store, run: RunFunction | str, workers: int) -> None:
        self.planned = {one.run_id: one for one in planned}
        self.store = store
        self.run = run
        self.threads = max(1, _num_cores() // workers)
        self.deaths: Counter[str] = Counter()
        self.deaths_between_runs = 0
        self.members: list[BaseProcess] = []
        for _ in range(workers):
            self._start()

    def tend(self) -> bool:
        """Whether anyone is still working; sees to the dead first."""
        for member in [member for member in self.members if member.exitcode is not None]:
            self.members.remove(member)
            if member.exitcode:
                self._replace(member)
        return bool(self.members)

    def stop(self) -> None:
        """End whoever is left; what they held is free at once, since their processes are gone."""
        for member in self.members:
            member.terminate()
        for member in self.members:
            member.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        place = min(set(range(len(self.members) + 1)) - {int(member.name) for member in self.members})
        arguments = (list(self.planned.values()), self.store.path, self.run, self.threads, place)
        member = context.Process(target=_work, args=arguments, name=str(place))
        member.start()
        self.members.append(member)

    def _replace(self, dead: BaseProcess) -> None:
        exitcode, held = dead.exitcode or 0, self._unfinished_by(dead)
        if exitcode == GPU_LOST:
            self._start()
            return
        self.deaths_between_runs += not held
        if not held and (exitcode > 0 or self.deaths_between_runs > DEATHS_BETWEEN_RUNS_ALLOWED):
            raise MmpeftError(f"a worker ended with code {exitcode} outside any run; its message is above.")
        for run_id in held:
            self.deaths[run_id] += 1
            if self.deaths[run_id] > DEATHS_ALLOWED:
                how = f"was killed by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"exited with code {exitcode}"
                hint = "; out of memory?" if exitcode == -signal.SIGKILL else ""
                error = f"the worker process {how} in each of {self.deaths[run_id]} attempts{hint}"
                give_up(self.planned[run_id], self.store, error)
        self._start()

    def _unfinished_by(self, dead: BaseProcess) -> list[str]:
        """The runs that a dead worker was in: it holds their leases and left no record."""
        held = self.store.held_by(dead.pid or 0)
        return [run_id for run_id in held if run_id in self.planned and not self.store.has(run_id)]


def give_up(one: Planned, store: Store, error: str) -> None:
    """Record a run as failed that no worker lived through."""
    with store.claim(one.run_id) as mine:
        if mine and not store.has(one.run_id):
            store.save(Record.failure(one, error, utc_now()))


def _work(planned: Sequence[Planned], folder: Path, run: RunFunction | str, threads: int, place: int) -> None:
    """A worker's life: take every run that nobody has done or is doing, while there is one and a parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the team.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ[PLACE] = str(place)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    function, store, parent = imported(run), Store(folder), multiprocessing.parent_process()
    for one in offered(planned, store):
        if parent is None or not parent.is_alive():
            return
        try:
            take(one, store, function)
        except GpuLost:
            sys.exit(GPU_LOST)


def offered(planned: Sequence[Planned], store: Store) -> Iterator[Planned]:
    """The runs to try: each in its turn; then those again whose lease ended without a record.

    A machine that died, or was started again, leaves leases that hold until they expire. So the end is reached when each run
    has a record, or whoever holds it has shown to be alive since.
    """
    yield from planned
    first_sign: dict[str, float | None] = {}
    while left := [one for one in planned if not store.has(one.run_id)]:
        free = [one for one in left if not store.held(one.run_id)]
        yield from free
        signs = {one.run_id: store.sign_of_life(one.run_id) for one in left if one not in free}
        alive = [sign == math.inf or sign != first_sign.setdefault(run_id, sign) for run_id, sign in signs.items()]
        if not free:
            if all(alive):
                return
            time.sleep(LIFE_SECONDS)


def take(one: Planned, store: Store, run: RunFunction) -> bool:
    """Whether this call made the run: not if it has a record by now, or somebody else holds it."""
    if store.has(one.run_id):
        return False
    with store.claim(one.run_id) as mine:
        if not mine or store.has(one.run_id):
            return False
        make(one, store, run)
        return True


def make(one: Planned, store: Store, run: RunFunction) -> None:
    """Leave the run's record, or the record of its failure.

    Raises:
        GpuLost: It failed, and so would every other run in this process.
    """
    started_at = utc_now()
    try:
        outcome = run(one.spec)
        if outcome.record.run_id != one.run_id:
            raise MmpeftError(f"came back as run {outcome.record.run_id}: its task or base changed meanwhile")
        store.save(*outcome)
    except Exception as error:  # whatever it is, it ends this run and not the sweep
        if store.has(one.run_id):  # it is written already, here or by another worker: what failed came after
            warnings.warn(f"run {one.run_id} has its record, and then failed: {_in_one_line(error)}", stacklevel=2)
            return
        found = error if isinstance(error, RunFailed) else None
        store.save(Record.failure(one, _in_one_line(error), started_at, found))
        if "torch" in sys.modules and isinstance(error, sys.modules["torch"].AcceleratorError):
            raise GpuLost(f"run {one.run_id}: {error}; the GPU can do nothing more in this process: start again.") from error


def _in_one_line(error: Exception) -> str:
    """What went wrong and where, without this machine's folders."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-4:])
    message = " ".join(str(error).split()).replace(f"{Path.home()}/", "~/")
    return f"{type(error).__name__}: {message}" + (f" ({where})" if where else "")


def _num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def imported(run: RunFunction | str) -> RunFunction:
    """The function itself, imported from its dotted path if need be."""
    if not isinstance(run, str):
        return run
    module, _, name = run.rpartition(".")
    function: RunFunction = getattr(importlib.import_module(module), name)
    return function


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how far the sweep is, given how many runs are done and how many have failed so far.

    A terminal gets a bar; a file or a pipe gets a line, at most once in LINE_SECONDS and at the end.
    """
    console = Console(stderr=True, highlight=False)
    if not shown:
        yield lambda done, failed: None
    elif console.is_terminal:
        columns = (BarColumn(), TextColumn(COUNTS), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, console=console, speed_estimate_period=600) as bar:
            task = bar.add_task("runs", total=total, done=0, failed=0)
            yield lambda done, failed: bar.update(task, completed=done + failed, done=done, failed=failed)
    else:
        yield _Lines(total, console)


class _Lines:
    """Progress for a log: a line now and then."""

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.console = total, console
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, failed: int) -> None:
        now, ended = time.monotonic(), done + failed
        if now - self.said < LINE_SECONDS and ended < self.total:
            return
        self.said = now
        remaining = self.total - ended
        left = timedelta(seconds=round((now - self.started) / ended * remaining)) if ended else "unknown"
        self.console.print(f"{done} done, {failed} failed, {remaining} remaining, {left} left", soft_wrap=True)
