"""A run that was stopped goes on as if nothing had happened: the same losses, weights and answers, bit by bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from mmpeft import checkpoints
from mmpeft.checkpoints import Checkpointer, parameters_of, read
from mmpeft.errors import MmpeftError
from mmpeft.files import shards_of
from mmpeft.plan import Planned
from mmpeft.records import Outcome, Store
from mmpeft.run import run
from mmpeft.spec import RunSpec

torch.set_num_threads(1)

STEPS = 6


class Stopped(Exception):
    """What a kill is to the process that it hits."""


def spec_of(**changes: Any) -> RunSpec:
    """A run with everything that has a state: dropout, two rates, warm-up, passes, questions on the way."""
    train = {"num_examples": 8, "num_epochs": 3.0, "batch_size": 4, "learning_rate": 0.01, "gradient_accumulation_steps": 2}
    fields = {
        "model": "toy",
        "task": "mini-vqav2",
        "method": {"name": "lora", "r": 2, "lora_dropout": 0.2},
        "connector": {"tuned": True, "learning_rate": 0.001},
        "train": train,
        "eval": {"num_examples": 4},
        "track": {"every_epochs": 1, "num_examples": 4},
    }
    return RunSpec.from_dict({**fields, **changes})


def compared(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome but what a clock says and where it was made."""
    fields = outcome.record.model_dump(exclude={"cost", "environment", "started_at"})
    return {**fields, "predictions": outcome.predictions, "tracked": outcome.tracked}


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills training right after the checkpoint of this step."""
    keep = Checkpointer.keep

    def keep_and_stop(self: Checkpointer, made: int, *state: Any) -> None:
        keep(self, made, *state)
        if made == step:
            raise Stopped

    monkeypatch.setattr(Checkpointer, "keep", keep_and_stop)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    return compared(run(spec_of()))


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_stopped_at_any_step_ends_as_the_one_that_never_stopped(
    step: int, uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patched:
        stop_after(step, patched)
        with pytest.raises(Stopped):
            run(spec_of(), checkpoint=path, checkpoint_every=1)
    torch.manual_seed(999)  # another process would have other random numbers
    assert compared(run(spec_of(), checkpoint=path, checkpoint_every=1)) == uninterrupted


def test_steps_after_the_last_checkpoint_are_made_again(
    uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, monitored = tmp_path / "run.safetensors", []
    from mmpeft.monitor import Monitor

    call = Monitor.__call__

    def stop_at_three(self: Monitor, step: int) -> None:
        monitored.append(step)
        if step == 3 and monitored.count(3) == 1:
            raise Stopped
        call(self, step)

    monkeypatch.setattr(Monitor, "__call__", stop_at_three)
    with pytest.raises(Stopped):
        run(spec_of(), checkpoint=path, checkpoint_every=2)
    assert compared(run(spec_of(), checkpoint=path, checkpoint_every=2)) == uninterrupted
    assert monitored == [0, 1, 2, 3, 3, 4, 5, 6]


def test_training_time_counts_what_came_before_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patched:
        stop_after(STEPS - 1, patched)
        with pytest.raises(Stopped):
            run(spec_of(), checkpoint=path, checkpoint_every=1)
    said, _ = read(path)
    record = run(spec_of(), checkpoint=path, checkpoint_every=1).record
    assert record.cost["train_seconds"] is not None
    assert record.cost["train_seconds"] > said["seconds"] - said["notes"]["monitor"]["seconds"] > 0


def test_the_checkpoint_goes_when_the_record_is_there(tmp_path: Path) -> None:
    planned, store = Planned.of(spec_of()), Store(tmp_path)
    path = store.checkpoint_path(planned.run_id)
    outcome = run(planned.spec, checkpoint=path, checkpoint_every=4)
    assert path.exists()
    store.save(*outcome)
    assert not path.exists()


def test_a_damaged_checkpoint_is_said_and_not_trained_from(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(MmpeftError, match=r"run\.safetensors: no checkpoint of this kind .*; remove it to begin anew"):
        run(spec_of(), checkpoint=path)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """A group of this process alone: its pieces are whole, but pieces."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def in_pieces(mesh: DeviceMesh) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(distribute_tensor(torch.arange(4.0), mesh, [Shard(0)]))], lr=0.1)


def step(optimizer: torch.optim.Optimizer) -> list[float]:
    """One more step; the weights after it."""
    (parameter,) = parameters_of(optimizer)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return parameter.detach().full_tensor().tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("written", [0, 1, 2], ids=["before the piece", "before the file", "before the rest goes"])
def test_a_kill_at_any_moment_of_keeping_pieces_leaves_a_whole_checkpoint(
    written: int, mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, keeper = in_pieces(mesh), Checkpointer(tmp_path / "run.safetensors", 1)
    states = [step(optimizer)]
    keeper.keep(1, [(0, 1.0)], optimizer)
    states.append(step(optimizer))
    left, write = [written], checkpoints._write

    def write_some(*what: Any) -> None:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        write(*what)

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(checkpoints, "_write", write_some)
        patched.setattr(Checkpointer, "_forget_but", stop)
        keeper.keep(2, [(0, 1.0), (1, 0.5)], optimizer)
    (shards_of(keeper.path) / ".2.0.safetensors.host.1.tmp").write_bytes(b"half")
    again = in_pieces(mesh)
    made, curve = keeper.take_up(again)
    assert made == len(curve) == (2 if written == 2 else 1)
    assert [piece.name for piece in shards_of(keeper.path).iterdir()] == [f"{made}.0.safetensors"]
    (parameter,) = parameters_of(again)
    assert parameter.detach().full_tensor().tolist() == states[made - 1]  # type: ignore[attr-defined]
    if made == 1:
        assert step(again) == states[1]  # AdamW's own state came back too
