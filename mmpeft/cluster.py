"""The missing runs on a Ray cluster: one task a run, wherever its share of cores and GPUs is free.

The store lies on a folder that every machine sees, and each run is leased there as everywhere else. So a machine that is lost
in the middle costs its runs in flight: they are made again elsewhere as soon as their leases have died. Whoever calls may stop
and call again, from any machine of the cluster. While no machine has room, Ray waits for one.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpeft.errors import MmpeftError
from mmpeft.execute import GpuLost, Report, RunFunction, give_up, imported, take
from mmpeft.plan import Planned
from mmpeft.records import Store

POLL_SECONDS = 1.0
DEATHS_ALLOWED = 2
"""How many times the worker of a run may die while its machine lives on, before the run counts as failed."""

MACHINES_ALLOWED = 9
"""How many machines a run may lose: machines are taken away, but one after the other is brought down by what runs on it."""

UNSEEN_SECONDS = 60.0
"""How long a record that a machine has written may take to be seen from another."""

CARRIED = ("MMPEFT_CACHE", "MMPEFT_DATA", "HF_HOME", "HF_TOKEN")
"""Environment variables that the tasks get from whoever calls. They go with the task and not as Ray's runtime environment,
which asks for much more of Ray to be installed on every machine."""


@dataclass(frozen=True)
class Cluster:
    """An engine: the machines of a Ray cluster.

    Attributes:
        address: Of the cluster; "auto" finds the one this machine belongs to, "local" starts one of this machine alone.
        num_gpus: GPUs of one run; a fraction puts several runs on one. None: one, where any machine has a GPU.
        num_cpus: Cores of one run.
    """

    address: str = "auto"
    num_gpus: float | None = None
    num_cpus: float = 1.0

    def __call__(self, planned: Sequence[Planned], store: Store, run: RunFunction | str, report: Report) -> None:
        """Return when every planned run has a record.

        Raises:
            MmpeftError: Ray is not installed, the cluster is not there, or has no machine on which a run fits.
        """
        ray = _ray()
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError) as error:
            raise MmpeftError(f"--address {self.address}: no Ray cluster there ({error}); start one: ray start --head.") from None
        try:
            num_gpus = self._found_room(ray.nodes())
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=num_gpus, max_retries=0)(_make)
            carried = {name: os.environ[name] for name in CARRIED if name in os.environ}
            start = partial(task.remote, folder=str(store.path.resolve()), run=run, variables=carried)
            _Sweep(ray, planned, store, start, report).finish()
        finally:
            ray.shutdown()

    def _found_room(self, machines: list[dict[str, Any]]) -> float:
        """GPUs of one run, for which some machine has room. A task without one would see them all and take the first."""
        alive = [machine["Resources"] for machine in machines if machine["Alive"]]
        num_gpus = self.num_gpus if self.num_gpus is not None else float(any(each.get("GPU", 0) for each in alive))
        if not any(each.get("GPU", 0) >= num_gpus and each.get("CPU", 0) >= self.num_cpus for each in alive):
            raise MmpeftError(
                f"no machine of the cluster has {num_gpus:g} GPUs and {self.num_cpus:g} cores for a run; "
                "ask for less: --gpus-per-run, --cores-per-run."
            )
        return num_gpus


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MmpeftError("--engine ray: Ray is not installed; pip install 'mmpeft[ray]' on every machine.") from None
    return ray


def _make(one: Planned, *, folder: str, run: RunFunction | str, variables: dict[str, str]) -> bool:
    """A task: make the run, unless somebody did or does. Whether it has a record then."""
    os.environ.update(variables)
    store = Store(folder)
    with suppress(GpuLost):  # Ray gives no second task to a process that had a GPU
        take(one, store, imported(run))
    return store.has(one.run_id)


class _Sweep:
    """The runs of one call: each is given to a task while it has no record and nobody's lease."""

    def __init__(self, ray: Any, planned: Sequence[Planned], store: Store, start: Any, report: Report) -> None:
        self.ray = ray
        self.waiting = {one.run_id: one for one in planned}
        self.store = store
        self.start = start
        self.report = report
        self.tasks: dict[Any, str] = {}
        self.deaths: Counter[str] = Counter()
        self.lost_machines: Counter[str] = Counter()
        self.doomed: dict[str, str] = {}
        self.written: dict[str, float] = {}

    def finish(self) -> None:
        """Return when every run has a record."""
        self._submit()
        while self.waiting:
            if self.tasks:
                ended, _ = self.ray.wait(list(self.tasks), timeout=POLL_SECONDS)
                for task in ended:
                    self._see_to(task, self.tasks.pop(task))
            else:
                time.sleep(POLL_SECONDS)
            for run_id in [run_id for run_id in self.waiting if self.store.has(run_id)]:
                del self.waiting[run_id]
                self.report(run_id)
            self._submit()

    def _submit(self) -> None:
        for run_id, one in self.waiting.items():
            if run_id in self.written:
                self._check_seen(run_id)
                continue
            if run_id in self.tasks.values() or self.store.held(run_id):
                continue  # the lease of a worker that died outlives it for a moment, and on another machine until it expires
            if run_id in self.doomed:
                give_up(one, self.store, self.doomed[run_id])
            else:
                self.tasks[self.start(one)] = run_id

    def _check_seen(self, run_id: str) -> None:
        """Look how long a record is on its way from the machine that wrote it."""
        if time.monotonic() - self.written[run_id] > UNSEEN_SECONDS and not self.store.held(run_id):
            raise MmpeftError(
                f"--store {self.store.path}: a machine of the cluster has written run {run_id} there, and this one does not see "
                "it; name a folder that all machines share."
            )

    def _see_to(self, task: Any, run_id: str) -> None:
        """Look at a task that ended: a lost machine is nobody's fault, a worker that died alone may be its run's."""
        errors = self.ray.exceptions
        try:
            if self.ray.get(task):
                self.written[run_id] = time.monotonic()
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as death:
            self.deaths[run_id] += 1
            if self.deaths[run_id] > DEATHS_ALLOWED:
                how = "ran out of memory" if isinstance(death, errors.OutOfMemoryError) else "died"
                self.doomed[run_id] = f"the worker process {how} in each of {self.deaths[run_id]} attempts"
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            self.lost_machines[run_id] += 1  # the run is given to another machine once the lease has died
            if self.lost_machines[run_id] > MACHINES_ALLOWED:
                self.doomed[run_id] = f"the machine was lost in each of {self.lost_machines[run_id]} attempts"
        except errors.RayError as failure:
            raise MmpeftError(f"a task failed outside any run: {str(failure).strip().splitlines()[-1]}") from None
