"""Checkpoints in the middle of a run: everything training needs to go on as if it had never stopped.

    <folder>/<run_id>.safetensors    weight.i           what trains, in the optimizer's order
                                     optimizer.i.name   its AdamW state
                                     generator.p        the random numbers of process p, CPU; generator.p.cuda: of its GPU
                                     metadata           steps made, losses, seconds, the watchers' notes

Frozen weights come from the base again, the order of examples from the seed, the learning rate from the step.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmpeft.errors import MmpeftError
from mmpeft.files import write_whole


class Watcher(Protocol):
    """Whoever takes notes while a run trains, as plain values: after a stop it must know what it knew."""

    def state_dict(self) -> dict[str, Any]:
        """The notes so far."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the notes."""


@dataclass
class Checkpointer:
    """Keeps a run's training state on disk and gives it back.

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

    def keep(self, step: int, curve: list[tuple[int, float]], optimizer: Any, generators: Sequence[list[Tensor]]) -> None:
        """Write the state, whole or not at all.

        Args:
            step: Optimizer steps made.
            curve: The loss of each.
            optimizer: After that step.
            generators: For each process its generators' states, from :func:`generators`.
        """
        tensors = {f"weight.{i}": p.detach() for i, p in enumerate(parameters_of(optimizer))}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
        for rank, states in enumerate(generators):
            tensors |= {f"generator.{rank}{end}": state for end, state in zip(("", ".cuda"), states, strict=False)}
        seconds = self.seconds_before + time.perf_counter() - self._since
        notes = {name: watcher.state_dict() for name, watcher in self.watchers.items()}
        said = {"step": step, "curve": curve, "seconds": seconds, "processes": len(generators), "notes": notes}
        whole = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_whole(self.path, save(whole, metadata={"run": json.dumps(said)}))

    def take_up(self, optimizer: Any, rank: int, num_processes: int) -> tuple[int, list[tuple[int, float]]]:
        """The steps made and their losses, with everything put back as it was; (0, []) where nothing was kept.

        Args:
            optimizer: Over the same parameters, not stepped yet.
            rank: This process.
            num_processes: All of them.

        Raises:
            MmpeftError: The file is damaged or was written by another number of processes.
        """
        self._since = time.perf_counter()
        if not self.path.exists():
            return 0, []
        said, tensors = self._read()
        if said["processes"] != num_processes:
            raise MmpeftError(
                f"{self.path.name}: kept by {said['processes']} processes, this run has {num_processes}; "
                "launch as many, or remove the file to begin anew."
            )
        with torch.no_grad():
            for i, parameter in enumerate(parameters_of(optimizer)):
                parameter.copy_(tensors[f"weight.{i}"])
        _put_back(optimizer, tensors)
        torch.set_rng_state(tensors[f"generator.{rank}"])
        if f"generator.{rank}.cuda" in tensors:
            torch.cuda.set_rng_state(tensors[f"generator.{rank}.cuda"])
        for name, watcher in self.watchers.items():
            watcher.load_state_dict(said["notes"][name])
        self.seconds_before = said["seconds"]
        return said["step"], [(step, loss) for step, loss in said["curve"]]

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, framework="pt") as file:
                said = json.loads((file.metadata() or {})["run"])
                return said, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise MmpeftError(f"{self.path.name}: no checkpoint of this kind ({error}); remove it to begin anew.") from None


def generators() -> list[Tensor]:
    """The states of this process's random numbers: CPU, and its GPU where there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def parameters_of(optimizer: Any) -> list[Tensor]:
    """What an optimizer moves, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _put_back(optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """The optimizer's own state as it was; its groups stay, since what they hold follows from the spec and the step."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, what = rest.partition(".")
            state.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
