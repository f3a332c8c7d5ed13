"""The training loop: one for every method, task and model; it knows none of them by name."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from mmpeft.batches import IGNORED
from mmpeft.errors import MmpeftError
from mmpeft.spec import TrainSpec
from mmpeft.task import Example


class TrainingDiverged(MmpeftError):
    """The loss left the finite numbers; ``curve`` holds what was seen until then."""

    def __init__(self, step: int, loss: float, curve: list[tuple[int, float]]) -> None:
        super().__init__(f"training diverged: loss {loss} at step {step}; lower train.learning_rate.")
        self.curve = curve


@dataclass
class Trained:
    """What training leaves beside the weights: steps made, and the loss of each as (step, loss)."""

    num_steps: int
    curve: list[tuple[int, float]]


def num_steps(spec: TrainSpec, num_examples: int) -> int:
    """Optimizer steps of a run: as given, or those of its epochs."""
    if spec.num_steps is not None:
        return spec.num_steps
    return max(1, math.ceil((spec.num_epochs or 0) * num_examples / spec.batch_size))


def rate(spec: TrainSpec, step: int, total: int) -> float:
    """The learning rate at a step (from 0) as a fraction of its peak: linear warm-up, then cosine to zero or constant."""
    warmup = max(1, round(spec.warmup_ratio * total))
    if step < warmup:
        return (step + 1) / warmup
    if spec.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def shuffled(examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches: every pass in a new order, a pass's last short batch filled from the next pass."""
    rng = Random(f"order:{seed}")
    queue: list[Example] = []
    while True:
        while len(queue) < batch_size:
            order = list(examples)
            rng.shuffle(order)
            queue += order
        yield queue[:batch_size]
        del queue[:batch_size]


def answer_loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the answer tokens of a left-padded batch.

    Only the positions from the last prompt token on go through the output head.

    Args:
        model: A causal multimodal model that knows ``logits_to_keep``.
        inputs: Its inputs with ``labels`` (B, T), −100 outside the answers.
    """
    labels = inputs["labels"]
    first = int((labels != IGNORED).any(0).nonzero()[0])
    kept = labels.shape[1] - first + 1
    given = {k: v for k, v in inputs.items() if k != "labels"}
    logits = model(**given, logits_to_keep=kept, use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, first:].flatten(), ignore_index=IGNORED)


def train(
    model: nn.Module,
    groups: list[dict[str, Any]],
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example]], dict[str, Tensor]],
    spec: TrainSpec,
    seed: int,
    after_backward: Callable[[], None] = lambda: None,
    at_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains the parameters in ``groups`` on answer tokens: AdamW, clipped gradients, warm-up and schedule.

    The same call on the same CPU with the same number of threads gives the same weights, bit by bit.

    Args:
        model: The model with a method attached; what is not in ``groups`` stays as it is.
        groups: Optimizer groups with ``params`` and ``lr``.
        examples: The training subset.
        collate: Examples → model inputs with labels.
        spec: Steps, batch size, schedule.
        seed: Of the order of examples and of dropout.
        after_backward: Called after each backward pass, before the step.
        at_step: Called with the number of steps made: 0 before the first, then after each. It may look at the model, and
            must leave it and the random numbers as they were.

    Raises:
        TrainingDiverged: On a loss that is not finite.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if spec.precision == "bf16" else "no")
    optimizer = torch.optim.AdamW(groups, weight_decay=spec.weight_decay)
    total = num_steps(spec, len(examples))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(spec, step, total))
    model, optimizer = accelerator.prepare(model, optimizer)
    parameters = [p for g in groups for p in g["params"]]
    torch.manual_seed(seed)
    model.train()
    curve: list[tuple[int, float]] = []
    at_step(0)
    for step, batch in zip(range(total), shuffled(examples, spec.batch_size, seed), strict=False):
        inputs = {k: v.to(accelerator.device) for k, v in collate(batch).items()}
        loss = answer_loss(model, inputs)
        value = loss.item()
        curve.append((step, round(value, 5)))
        if not math.isfinite(value):
            raise TrainingDiverged(step, value, curve)
        accelerator.backward(loss)
        after_backward()
        accelerator.clip_grad_norm_(parameters, spec.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        at_step(step + 1)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # bf16's rounding around `forward` is for training alone
    model.eval()
    return Trained(total, curve)
