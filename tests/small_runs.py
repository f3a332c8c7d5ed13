"""Runs that take no time and no model: the test doubles of records and execution.

Processes import these functions by name; what happens in them is logged to the file in $MMPEFT_TEST_LOG.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpeft.plan import Planned
from mmpeft.records import Checkpoint, Outcome, Record, Store
from mmpeft.spec import RunSpec, run_id


def make_spec(seed: int = 0) -> RunSpec:
    """A small LoRA run; runs differ by their seed."""
    return RunSpec.from_dict(
        {
            "model": "toy",
            "task": "mini-vqav2",
            "method": {"name": "lora", "r": 4},
            "train": {"num_steps": 3, "learning_rate": 0.001},
            "seed": seed,
        }
    )


def make_plan(num_runs: int) -> list[Planned]:
    """So many planned runs, with seeds from 0."""
    specs = [make_spec(seed) for seed in range(num_runs)]
    return [Planned(run_id(spec, task_version=1, fingerprint="none"), spec, 1, "none") for spec in specs]


def make_record(spec: RunSpec, score: float = 0.5) -> Record:
    """The record of a run that ended well."""
    return Record(
        run_id=run_id(spec, task_version=1, fingerprint="none"),
        status="ok",
        spec=spec,
        task_version=1,
        fingerprint="none",
        scores={"score": score, "unparsed": 0.0},
        cost={"trainable_params": 128, "train_seconds": 1.5},
        curve=[(1, 2.0), (2, 1.0)],
        environment={"device": "cpu", "threads": os.environ.get("OMP_NUM_THREADS")},
        started_at="2026-11-22T00:00:00+00:00",
    )


def make_predictions(score: float = 0.5, num_examples: int = 3) -> list[dict[str, Any]]:
    """So many predictions, each with this score."""
    return [
        {
            "example_id": f"e{i}",
            "picture_id": f"p{i}",
            "prediction": "café",
            "answers": ["café", "bar"],
            "score": score,
            "parsed": True,
        }
        for i in range(num_examples)
    ]


def log(event: str) -> None:
    """Append a line; short appends are atomic."""
    with Path(os.environ["MMPEFT_TEST_LOG"]).open("a") as file:
        file.write(f"{event}\n")


def logged() -> list[str]:
    """The lines so far."""
    path = Path(os.environ["MMPEFT_TEST_LOG"])
    return path.read_text().split() if path.exists() else []


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as it has happened; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def good(spec: RunSpec) -> Outcome:
    """Ends well at once."""
    return Outcome(make_record(spec), make_predictions())


def slow(spec: RunSpec) -> Outcome:
    """Ends well after a moment, and logs its seed."""
    log(str(spec.seed))
    time.sleep(0.02)
    return good(spec)


def odd_ones_fail(spec: RunSpec) -> Outcome:
    """Raises for odd seeds."""
    if spec.seed % 2:
        raise ValueError(f"seed {spec.seed} is odd,\n  see {Path.home()}/secret")
    return good(spec)


def not_a_number(spec: RunSpec) -> Outcome:
    """Comes back with a prediction that JSON cannot hold."""
    return Outcome(make_record(spec), make_predictions(score=float("nan")))


def somebody_else(spec: RunSpec) -> Outcome:
    """Comes back as another run."""
    return good(make_spec(spec.seed + 1000))


def second_kills_its_worker_once(spec: RunSpec) -> Outcome:
    """Seed 1 kills its process, the first time."""
    if spec.seed == 1 and "killed" not in logged():
        log("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return slow(spec)


def second_kills_its_worker(spec: RunSpec) -> Outcome:
    """Seed 1 kills its process, every time."""
    if spec.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return slow(spec)


def gpu_is_lost_in_the_second(spec: RunSpec) -> Outcome:
    """Seed 1 meets an error of the GPU, and after it whatever the same process makes."""
    import torch

    if spec.seed == 1 or f"lost:{os.getpid()}" in logged():
        log(f"lost:{os.getpid()}")
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return good(spec)


def waits_for_the_signal(spec: RunSpec) -> Outcome:
    """Logs its seed and where in the cluster it is made, ends when "go" is logged, and logs its seed again."""
    import ray

    log(f"start:{spec.seed}:{os.getpid()}:{ray.get_runtime_context().get_node_id()}")
    wait_for(lambda: "go" in logged(), seconds=300)
    log(f"end:{spec.seed}")
    return good(spec)


def takes_a_second(spec: RunSpec) -> Outcome:
    """Logs its seed at the start and at the end of a second, with the process that makes it."""
    log(f"start:{spec.seed}:{os.getpid()}")
    time.sleep(1)
    log(f"end:{spec.seed}:{os.getpid()}")
    return good(spec)


def hangs(spec: RunSpec) -> Outcome:
    """Logs its seed and does not end."""
    log(str(spec.seed))
    time.sleep(600)
    return good(spec)


def with_log(path: str, function: Callable[..., None], *arguments: Any) -> None:
    """Do this with that file as the log."""
    os.environ["MMPEFT_TEST_LOG"] = path
    function(*arguments)


def make_track(score: float = 0.5, num_examples: int = 3) -> tuple[list[Checkpoint], list[dict[str, Any]]]:
    """Checkpoints of two epochs, and so many tracked examples, each with this score at both."""
    made = {"task": "mini-pope", "split": "test", "num_examples": num_examples, "scores": {"score": score}}
    checkpoints = [Checkpoint(epoch=epoch, step=10 * epoch, **made) for epoch in (0, 2)]
    names = [{"task": "mini-pope", "example_id": f"t{i}", "picture_id": f"q{i}"} for i in range(num_examples)]
    return checkpoints, [{**name, "predictions": ["no", "yes"], "scores": [score, score]} for name in names]


def save(store: Store, score: float) -> None:
    """Save a record that says its score in every place."""
    record = make_record(make_spec(), score)
    curve = [(step, score) for step in range(2000)]
    checkpoints, tracked = make_track(score, 1000)
    update = {"curve": curve, "track": checkpoints}
    store.save(record.model_copy(update=update), make_predictions(score, 2000), tracked)


def save_for_ever(folder: str) -> None:
    """Save two versions of one record in turn until killed; logs when the first is there."""
    store = Store(folder)
    for turn in range(10**9):
        save(store, score=0.25 + 0.5 * (turn % 2))
        if turn == 0:
            log("ready")


def claim_and_hang(folder: str, name: str) -> None:
    """Hold a lease until killed; logs when it has it."""
    with Store(folder).claim(name):
        log("held")
        time.sleep(600)


def claim_all(folder: str, names: list[str], start: float) -> None:
    """Try to take every lease from a given moment on, log those it got, and keep them until killed."""
    store, kept = Store(folder), []
    time.sleep(max(0.0, start - time.time()))
    for name in names:
        claim = store.claim(name, expiry_seconds=60)
        if claim.__enter__():
            log(name)
        kept.append(claim)
    log("through")
    time.sleep(600)
