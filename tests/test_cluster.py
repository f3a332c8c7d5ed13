"""Ray: each run once, whichever machine dies and whoever stops asking.

Several nodes on one machine stand for a cluster; all of it is shut down at the end.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import log, logged, make_plan, wait_for

from mmpeft.cluster import Cluster, _Sweep
from mmpeft.errors import MmpeftError
from mmpeft.execute import Summary, run_missing
from mmpeft.leases import EXPIRY_SECONDS, _alive
from mmpeft.records import Store

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own

HERE = Path(__file__).resolve().parent
DRIVER = """
import sys
import small_runs
from mmpeft.cluster import Cluster
from mmpeft.execute import run_missing
from mmpeft.records import Store

function, folder, address, num_runs = sys.argv[1:]
print(run_missing(small_runs.make_plan(int(num_runs)), Store(folder), progress=False, run=f"small_runs.{function}",
                  engine=Cluster(address)))
"""


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match=r"--address auto: no Ray cluster there .*ray start --head"):
        run_missing(make_plan(1), Store(tmp_path), progress=False, engine=Cluster("auto"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without room for runs, and two machines for two runs each."""
    from ray.cluster_utils import Cluster as Nodes

    patch = pytest.MonkeyPatch()
    patch.setenv("MMPEFT_TEST_LOG", str(tmp_path_factory.mktemp("ray") / "log"))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
    patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    head = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    workers = [nodes.add_node(num_cpus=2, object_store_memory=80_000_000) for _ in range(2)]
    nodes.wait_for_nodes()
    nodes.workers_to_kill = workers
    yield nodes
    nodes.shutdown()
    patch.undo()


def driver(function: str, nodes: Any, store: Store, num_runs: int) -> "subprocess.Popen[str]":
    """Another process that asks the cluster for the plan."""
    command = [sys.executable, "-c", DRIVER, function, str(store.path), nodes.address, str(num_runs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(kind: str) -> Counter[str]:
    """How often each seed started or ended."""
    return Counter(event.split(":")[1] for event in logged() if event.startswith(kind))


def started_on(machine: Any) -> dict[str, int]:
    """The seeds that started on a machine, with their processes."""
    started = [event.split(":") for event in logged() if event.startswith("start") and event.endswith(machine.node_id)]
    return {seed: int(pid) for _, seed, pid, _ in started}


def test_the_runs_of_a_machine_killed_in_the_middle_end_elsewhere_none_twice_none_lost(nodes: Any, tmp_path: Path) -> None:
    store, planned = Store(tmp_path), make_plan(12)
    machine = nodes.workers_to_kill.pop()
    asking = driver("waits_for_the_signal", nodes, store, 12)
    wait_for(lambda: len(started_on(machine)) == 2, seconds=300)  # it has room for two runs
    nodes.remove_node(machine, allow_graceful=False)
    wait_for(lambda: not any(map(_alive, started_on(machine).values())))  # a lost machine takes its processes along
    log("go")
    said, errors = asking.communicate(timeout=300)
    assert asking.returncode == 0, errors
    assert said.splitlines()[-1] == str(Summary(done=12, failed=0, skipped=0))  # before it Ray says that a machine is gone
    assert store.status(planned) == {"planned": 12, "done": 12, "failed": 0}
    assert events("end") == Counter(str(seed) for seed in range(12))
    assert {seed for seed, number in events("start").items() if number > 1} == set(started_on(machine))
    assert set(events("start").values()) == {1, 2}
    assert store.quarantined() == []


def test_whoever_asks_may_be_killed_and_another_takes_over(nodes: Any, tmp_path: Path) -> None:
    Path(os.environ["MMPEFT_TEST_LOG"]).unlink(missing_ok=True)
    store, planned = Store(tmp_path), make_plan(6)
    asking = driver("takes_a_second", nodes, store, 6)
    wait_for(lambda: any(store.has(run.run_id) for run in planned), seconds=300)
    asking.send_signal(signal.SIGKILL)
    asking.communicate()
    done = [str(run.spec.seed) for run in planned if store.has(run.run_id)]
    summary = run_missing(planned, store, progress=False, run="small_runs.takes_a_second", engine=Cluster(nodes.address))
    assert summary.failed == 0
    assert store.status(planned) == {"planned": 6, "done": 6, "failed": 0}
    assert set(events("end")) == {str(seed) for seed in range(6)}
    assert {events("end")[seed] for seed in done} == {1}  # one killed between its end and its record is made again


def test_a_run_that_kills_every_worker_becomes_a_failed_row(nodes: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    summary = run_missing(
        make_plan(3), store, progress=False, run="small_runs.second_kills_its_worker", engine=Cluster(nodes.address)
    )
    assert summary == Summary(done=2, failed=1, skipped=0)
    assert "the worker process died in each of 3 attempts" in store.collect(make_plan(3))["error"][1]


class _OneKindOfTask:
    """A Ray whose tasks all end alike: each leaves a lease of another machine, a second from its expiry, and then ends so.

    Args:
        store: Where the leases are.
        end: What a task comes back with, or the name of the error of Ray that it ends in.
    """

    def __init__(self, store: Store, end: bool | str) -> None:
        from ray import exceptions

        self.exceptions, self.store, self.end, self.attempts = exceptions, store, end, 0

    def start(self, one: Any) -> str:
        self.attempts += 1
        lease = self.store.path / "leases" / f"{one.run_id}.json"
        lease.parent.mkdir(parents=True, exist_ok=True)
        lease.write_text('{"pid": 1, "host": "elsewhere", "token": "gone", "since": 0}')
        dead_in_a_second = time.time() - EXPIRY_SECONDS + 1
        os.utime(lease, (dead_in_a_second, dead_in_a_second))
        return f"attempt {self.attempts}"

    def wait(self, tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return tasks, []

    def get(self, task: str) -> bool:
        if isinstance(self.end, str):
            raise getattr(self.exceptions, self.end)(*["gone"] * (self.end == "NodeDiedError"))
        return self.end


@pytest.mark.parametrize(
    ("end", "attempts", "words"),
    [("WorkerCrashedError", 3, "the worker process died"), ("NodeDiedError", 2, "the machine was lost")],
)
def test_the_lease_of_a_worker_that_died_elsewhere_does_not_earn_its_run_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, attempts: int, words: str
) -> None:
    monkeypatch.setattr("mmpeft.cluster.MACHINES_ALLOWED", 1)
    store, planned = Store(tmp_path), make_plan(1)
    ray, reported = _OneKindOfTask(store, end), []
    _Sweep(ray, planned, store, ray.start, reported.append).finish()
    assert ray.attempts == attempts
    assert reported == [planned[0].run_id]
    assert f"{words} in each of {attempts} attempts" in store.collect(planned)["error"][0]


def test_a_store_that_the_machines_do_not_share_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpeft.cluster.UNSEEN_SECONDS", 0.5)
    store = Store(tmp_path)
    ray = _OneKindOfTask(store, True)
    with pytest.raises(MmpeftError, match=r"--store .* name a folder that all machines share"):
        _Sweep(ray, make_plan(1), store, ray.start, print).finish()
    assert ray.attempts == 1


def test_a_run_larger_than_any_machine_is_said(nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match="no machine of the cluster has 8 GPUs and 1 cores for a run"):
        run_missing(make_plan(1), Store(tmp_path), progress=False, engine=Cluster(nodes.address, num_gpus=8))
