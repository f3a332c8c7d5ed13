"""What a run is asked while it trains: its own task on dev, other tasks, before training and after every so many epochs.

Watching changes nothing: answers are greedy, the random numbers and the model's mode are put back.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmpeft.batches import IGNORED, Encoder
from mmpeft.evaluate import generate, scores
from mmpeft.records import Checkpoint
from mmpeft.spec import RunSpec
from mmpeft.task import Example, Task
from mmpeft.tasks import TASKS
from mmpeft.train import answer_loss, num_steps


@dataclass(frozen=True)
class Asked:
    """Fixed examples of one task: which task, of which split, and whether it is the run's own."""

    task: Task
    split: str
    examples: list[Example]
    own: bool


def asked_on_the_way(spec: RunSpec) -> list[Asked]:
    """What a run is asked while it trains: its own task first; nothing if its spec wants nothing."""
    track = spec.track
    if not track.wanted:
        return []
    own = TASKS[spec.task]
    others = [TASKS[name] for name in track.tasks]
    return [
        Asked(own, "dev", own.examples("dev", track.num_examples), True),
        *(Asked(task, track.split, task.examples(track.split, track.num_examples), False) for task in others),
    ]


def provenance(spec: RunSpec) -> dict[str, str]:
    """Where the data of a run came from: its own task's, and under ``task:`` that of every other one it meets."""
    others = dict.fromkeys([*spec.track.tasks, *(spec.pre_step.tasks if spec.pre_step else ())])
    found = TASKS[spec.task].provenance()
    for name in others:
        if name != spec.task:
            found |= {f"{name}: {key}": value for key, value in TASKS[name].provenance().items()}
    return found


def due(spec: RunSpec, num_examples: int) -> dict[int, int]:
    """When a run is asked: optimizer steps → epochs, 0 → 0 first.

    Args:
        spec: The run.
        num_examples: Size of its training subset.
    """
    found = {0: 0}
    every = spec.track.every_epochs
    if every is None:
        return found
    total, epoch = num_steps(spec.train, num_examples), every
    while (step := math.ceil(epoch * num_examples / spec.train.batch_size)) <= total:
        found[step] = epoch
        epoch += every
    return found


@dataclass
class Monitor:
    """Asks a model on the way and keeps every answer; called by the training loop with the number of steps made.

    Attributes:
        spec: The run.
        model: The model that trains.
        encoder: Makes its inputs.
        asked: From :func:`asked_on_the_way`.
        due: From :func:`due`.
        checkpoints: What it scored so far.
        seconds: Time spent asking.
    """

    spec: RunSpec
    model: nn.Module
    encoder: Encoder
    asked: list[Asked]
    due: dict[int, int]
    checkpoints: list[Checkpoint] = field(default_factory=list)
    seconds: float = 0.0
    _lines: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def __call__(self, step: int) -> None:
        """Ask, if it is time."""
        if not self.asked or step not in self.due:
            return
        start, training = time.perf_counter(), self.model.training
        self.model.eval()
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            for asked in self.asked:
                self._ask(asked, step)
        self.model.train(training)
        self.seconds += time.perf_counter() - start

    def _ask(self, asked: Asked, step: int) -> None:
        task, examples, size = asked.task, asked.examples, self.spec.eval.batch_size
        answers = generate(self.model, self.encoder, examples, task.max_new_tokens, size)
        scored = task.score(examples, answers)
        found = scores(scored)
        if asked.own:
            found["loss"] = mean_loss(self.model, self.encoder, examples, size)
        self.checkpoints.append(
            Checkpoint(
                epoch=self.due[step],
                step=step,
                task=task.name,
                split=asked.split,
                num_examples=len(examples),
                scores={name: round(value, 6) for name, value in found.items()},
            )
        )
        for example, answer, score in zip(examples, answers, scored.per_item, strict=True):
            line = self._lines.setdefault((task.name, example.example_id), _line(task, example))
            line["predictions"].append(answer)
            line["scores"].append(round(score, 4))

    def state_dict(self) -> dict[str, Any]:
        """What it was told so far, for a checkpoint."""
        told = [point.model_dump() for point in self.checkpoints]
        return {"checkpoints": told, "seconds": self.seconds, "lines": self.lines()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.checkpoints = [Checkpoint(**point) for point in state["checkpoints"]]
        self.seconds = state["seconds"]
        self._lines = {(line["task"], line["example_id"]): line for line in state["lines"]}

    def lines(self) -> list[dict[str, Any]]:
        """One mapping an example, as Outcome has them."""
        return list(self._lines.values())


def _line(task: Task, example: Example) -> dict[str, Any]:
    names = {"task": task.name, "example_id": example.example_id, "picture_id": example.picture_id}
    return {**names, "predictions": [], "scores": []}


@torch.inference_mode()
def mean_loss(model: nn.Module, encoder: Encoder, examples: Sequence[Example], batch_size: int) -> float:
    """Mean cross-entropy over all answer tokens of the examples, in nats."""
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for start in range(0, len(examples), batch_size):
        inputs = {k: v.to(device) for k, v in encoder.training_batch(examples[start : start + batch_size]).items()}
        count = int((inputs["labels"] != IGNORED).sum())
        total += answer_loss(model, inputs).item() * count
        tokens += count
    return total / tokens
