"""Checkpoints in the middle of a run: everything training needs to go on as if it had never stopped.

    <folder>/<run_id>.safetensors    weight.i           what trains, in the optimizer's order
                                     optimizer.i.name   its AdamW state
                                     generator.p        the random numbers of process p, CPU; generator.p.cuda: of its GPU
                                     metadata           steps made, losses, seconds, the watchers' notes
    <folder>/<run_id>.shards/        <step>.<p>.safetensors: weight.i and optimizer.i.name as process p holds them, where
                                     weights are cut into pieces; the file above then names the step, and makes them count

Frozen weights come from the base again, the order of examples from the seed, the learning rate from the step.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmpeft.errors import MmpeftError
from mmpeft.files import in_its_place, shards_of

EVERY_STEPS = 100
"""Between two checkpoints, where a run goes on from one and nothing was said."""


class Watcher(Protocol):
    """Whoever takes notes while a run trains, as plain values: after a stop it must know what it knew."""

    def state_dict(self) -> dict[str, Any]:
        """The notes so far."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the notes."""


@dataclass
class Checkpointer:
    """Keeps a run's training state on disk and gives it back; every process of the run calls it.

    Attributes:
        path: The file.
        every_steps: Optimizer steps between two checkpoints.
        watchers: Whose notes are kept, by name.
        seconds_before: Training time of the run before this process took it up.
    """

    path: Path
    every_steps: int
    watchers: Mapping[str, Watcher] = field(default_factory=dict)
    seconds_before: float = 0.0

    def __post_init__(self) -> None:
        self._since = time.perf_counter()

    def due(self, step: int, total: int) -> bool:
        """Whether to keep the state after so many steps; after the last one the run is about to leave its record."""
        return step % self.every_steps == 0 and step < total

    def keep(self, step: int, curve: list[tuple[int, float]], optimizer: Any) -> None:
        """Write the state, whole or not at all: pieces count from the moment that the file names their step.

        Args:
            step: Optimizer steps made.
            curve: The loss of each.
            optimizer: After that step.
        """
        process, cut = PartialState(), _cut(optimizer)
        states = gather_object([_generators()])
        if cut:
            _write(self._piece(step, process.process_index), _state(optimizer))
            process.wait_for_everyone()
        if process.is_main_process:
            tensors = {} if cut else _state(optimizer)
            for rank, generators in enumerate(states):
                tensors |= {f"generator.{rank}{end}": state for end, state in zip(("", ".cuda"), generators, strict=False)}
            seconds = self.seconds_before + time.perf_counter() - self._since
            notes = {name: watcher.state_dict() for name, watcher in self.watchers.items()}
            said = {"step": step, "curve": curve, "seconds": seconds, "processes": len(states), "cut": cut, "notes": notes}
            _write(self.path, tensors, {"run": json.dumps(said)})
        if cut:
            process.wait_for_everyone()
            self._forget_but(step, process.process_index)

    def take_up(self, optimizer: Any) -> tuple[int, list[tuple[int, float]]]:
        """The steps made and their losses, with everything put back as it was; (0, []) where nothing was kept.

        Args:
            optimizer: Over the same parameters, not stepped yet.

        Raises:
            MmpeftError: The file is damaged, or was written by processes of another number or kind.
        """
        self._since = time.perf_counter()
        if not self.path.exists():
            return 0, []
        process, cut = PartialState(), _cut(optimizer)
        check_kept(self.path, process.num_processes, cut)
        said, tensors = read(self.path)
        if cut:
            tensors |= read(self._piece(said["step"], process.process_index), self.path)[1]
            self._forget_but(said["step"], process.process_index)
        with torch.no_grad():
            for i, parameter in enumerate(parameters_of(optimizer)):
                _own(parameter).copy_(tensors[f"weight.{i}"])
        _put_back(optimizer, tensors)
        torch.set_rng_state(tensors[f"generator.{process.process_index}"])
        if f"generator.{process.process_index}.cuda" in tensors:
            torch.cuda.set_rng_state(tensors[f"generator.{process.process_index}.cuda"])
        for name, watcher in self.watchers.items():
            watcher.load_state_dict(said["notes"][name])
        self.seconds_before = said["seconds"]
        return said["step"], [(step, loss) for step, loss in said["curve"]]

    def _forget_but(self, step: int, rank: int) -> None:
        """Removes the pieces of this process that no file names, half-written ones of a killed process too."""
        for left in [*shards_of(self.path).glob(f"*.{rank}.safetensors"), *shards_of(self.path).glob(f".*.{rank}.safetensors.*")]:
            if left != self._piece(step, rank):
                left.unlink()

    def _piece(self, step: int, rank: int) -> Path:
        return shards_of(self.path) / f"{step}.{rank}.safetensors"


def keeper(path: Path | None, every_steps: int | None, watchers: Mapping[str, Watcher] | None = None) -> Checkpointer | None:
    """What keeps a training's state at the path; None where nobody wants it and no earlier process left one to go on from."""
    if path is None or (every_steps is None and not path.exists()):
        return None
    return Checkpointer(path, every_steps or EVERY_STEPS, watchers or {})


def check_kept(path: Path, num_processes: int, cut: bool) -> None:
    """Looks whether so many processes, with weights cut into pieces or not, can go on from a checkpoint that lies there.

    Raises:
        MmpeftError: They cannot; or the file is damaged.
    """
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})["run"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None
    if said["processes"] != num_processes:
        raise MmpeftError(
            f"{path.name}: kept by {said['processes']} processes, this run has {num_processes}; "
            "launch as many, or remove the file to begin anew."
        )
    if (kept := said.get("cut", False)) != cut:
        how = ("whole", "in pieces")
        raise MmpeftError(
            f"{path.name}: kept by processes that held the weights {how[kept]}, these hold them {how[cut]}; "
            f"take {'fsdp' if kept else 'ddp'}, or remove the file to begin anew."
        )


def parameters_of(optimizer: Any) -> list[Tensor]:
    """What an optimizer moves, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _generators() -> list[Tensor]:
    """The states of this process's random numbers: CPU, and its GPU where there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def _cut(optimizer: Any) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in parameters_of(optimizer))


def _own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its piece, or all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _state(optimizer: Any) -> dict[str, Tensor]:
    """Weights and AdamW's state, by the names in the file."""
    tensors = {f"weight.{i}": p.detach() for i, p in enumerate(parameters_of(optimizer))}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return {name: _own(tensor) for name, tensor in tensors.items()}


def _put_back(optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """The optimizer's own state as it was; its groups stay, since what they hold follows from the spec and the step."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = parameters_of(optimizer)
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, what = rest.partition(".")
            state.setdefault(int(index), {})[what] = _like(parameters[int(index)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, kept: Tensor) -> Tensor:
    """What was kept for a parameter in pieces, cut as it is; a number of steps is whole everywhere."""
    if not isinstance(parameter, DTensor) or kept.ndim == 0:
        return kept
    whole = torch.zeros_like(parameter.detach())
    _own(whole).copy_(kept)
    return whole


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with in_its_place(path) as temporary:
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary, metadata)


def read(path: Path, belongs_to: Path | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of the run, and its tensors.

    Args:
        path: The file.
        belongs_to: The checkpoint of which it is a piece.

    Raises:
        MmpeftError: It is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("run", "{}"))
            return said, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error, belongs_to) from None


def _damaged(path: Path, error: Exception, belongs_to: Path | None = None) -> MmpeftError:
    remedy = f"remove {belongs_to.name if belongs_to else 'it'} to begin anew"
    return MmpeftError(f"{path.name}: no checkpoint of this kind ({error}); {remedy}.")
