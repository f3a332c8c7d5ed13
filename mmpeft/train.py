"""The training loop: one for every method, task and model; it knows none of them by name."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from random import Random
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast, broadcast_object_list, parse_flag_from_env
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from mmpeft.batches import IGNORED, ahead
from mmpeft.checkpoints import Checkpointer, parameters_of
from mmpeft.errors import MmpeftError, RunFailed
from mmpeft.spec import TrainSpec
from mmpeft.task import Example

SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""What may cut weights or optimizer states into pieces, one a process."""


class TrainingDiverged(RunFailed):
    """The loss left the finite numbers; ``curve`` holds what was seen until then."""

    def __init__(self, step: int, loss: float, curve: list[tuple[int, float]]) -> None:
        super().__init__(f"training diverged: loss {loss:g} at step {step}; lower train.learning_rate.", curve)


@dataclass
class Trained:
    """What training leaves beside the weights.

    Attributes:
        num_steps: Steps made.
        curve: The loss of each as (step, loss).
        weights: Only where training cut the model into shards: what trained, whole, by name.
    """

    num_steps: int
    curve: list[tuple[int, float]]
    weights: dict[str, Tensor] | None = None


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


def parts_of(batch: Sequence[Example], num_parts: int) -> list[list[Example]]:
    """The batch dealt out into parts, one a process and forward pass."""
    return [list(batch[part::num_parts]) for part in range(num_parts)]


def train(
    model: nn.Module,
    groups: list[dict[str, Any]],
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example]], dict[str, Tensor]],
    spec: TrainSpec,
    seed: int,
    after_backward: Callable[[], None] = lambda: None,
    at_step: Callable[[int], None] = lambda step: None,
    checkpointer: Checkpointer | None = None,
) -> Trained:
    """Trains the parameters in ``groups`` on answer tokens: AdamW, clipped gradients, warm-up and schedule.

    The same call on the same CPU with the same number of threads gives the same weights, bit by bit. Under `accelerate
    launch` every process draws the same batch and takes its part; each answer token weighs the same wherever it is.

    Args:
        model: The model with a method attached; what is not in ``groups`` stays as it is.
        groups: Optimizer groups with ``params`` and ``lr``.
        examples: The training subset.
        collate: Examples → model inputs with labels.
        spec: Steps, batch size, schedule.
        seed: Of the order of examples and of dropout.
        after_backward: Called when a step's gradients are whole, before the step; not where they are cut into shards.
        at_step: Called with the number of steps made: 0 before the first, then after each. It may look at the model, and
            must leave it and the random numbers as they were.
        checkpointer: Keeps the state on the way, and knows where an earlier process stopped.

    Raises:
        TrainingDiverged: On a loss that is not finite.
        MmpeftError: The batch cannot be dealt out to the processes.
    """
    accelerator, passes = _accelerator(spec)
    if spec.gradient_checkpointing:
        recompute_activations(model)
    peaks = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=spec.weight_decay)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(model, optimizer)
    whole = accelerator.distributed_type not in SHARDING
    precision = partial(torch.autocast, accelerator.device.type, torch.bfloat16, enabled=spec.precision == "bf16")
    rank, world, total = accelerator.process_index, accelerator.num_processes, num_steps(spec, len(examples))
    torch.manual_seed(seed + rank)
    model.train()
    start, curve = checkpointer.take_up(optimizer) if checkpointer else (0, [])
    if not start:
        at_step(0)
    batches = islice(shuffled(examples, spec.batch_size, seed), start, total)
    parts = (parts_of(batch, world * passes)[rank::world] for batch in batches)
    for step, mine in enumerate(ahead([collate(part) for part in each] for each in parts), start):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(spec, step, total)
        value = torch.zeros((), device=accelerator.device)
        for inputs, weight in _weighted(mine, accelerator):
            with accelerator.accumulate(model):
                with precision():
                    loss = answer_loss(model, inputs) * weight
                value += loss.detach() / len(mine)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    if whole:
                        after_backward()
                    accelerator.clip_grad_norm_(parameters_of(optimizer), spec.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        curve.append((step, accelerator.reduce(value, "mean").item()))
        if not math.isfinite(curve[-1][1]):
            raise TrainingDiverged(*curve[-1], curve)
        at_step(step + 1)
        if checkpointer and checkpointer.due(step + 1, total):
            checkpointer.keep(step + 1, curve, optimizer)
    model.eval()
    return Trained(total, curve, None if whole else gathered(accelerator, model, trained))


def told_to_shard() -> bool:
    """Whether accelerate's launcher was given a configuration that cuts weights into pieces."""
    return any(parse_flag_from_env(f"ACCELERATE_USE_{kind.value}") for kind in SHARDING)


def _accelerator(spec: TrainSpec) -> tuple[Accelerator, int]:
    """What places the model on this machine's device or on those that `accelerate launch` named; passes a step of each."""
    # One precision is accelerate's for the whole process; a sweep may have several.
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    if told_to_shard() and accelerator.distributed_type not in SHARDING:
        raise MmpeftError("accelerate: weights are cut into shards on GPUs alone, and none was found; take ddp.")
    passes = spec.passes(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = passes  # DeepSpeed's launcher sets its own
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:  # it reads these from a data loader or from its file; here the spec has them
        plugin.deepspeed_config |= {
            "gradient_accumulation_steps": passes,
            "train_micro_batch_size_per_gpu": spec.batch_size // (accelerator.num_processes * passes),
            "gradient_clipping": spec.max_grad_norm,
        }
        unset_hf_deepspeed_config()  # else transformers cuts whatever is made after it, a fresh base too
    return accelerator, passes


def _weighted(parts: Sequence[dict[str, Tensor]], accelerator: Accelerator) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """This process's parts of a batch on its device, with the weights that make every answer token of the batch count the same.

    A part's loss is the mean over its own tokens; the gradients are averaged over parts and processes.
    """
    inputs = [{name: tensor.to(accelerator.device) for name, tensor in part.items()} for part in parts]
    counts = torch.stack([(each["labels"] != IGNORED).sum() for each in inputs])
    num_parts = len(parts) * accelerator.num_processes
    yield from zip(inputs, counts * num_parts / accelerator.reduce(counts.sum(), "sum"), strict=True)


def recompute_activations(model: nn.Module) -> None:
    """Switches gradient checkpointing on, in the form that frozen inputs do not break."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # transformers 5.17 has no other name for it
        cast(Any, model).gradient_checkpointing_enable({"use_reentrant": False})


def gathered(accelerator: Accelerator, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """These weights of a prepared model, whole, on every process; sent one by one, since all at once might not fit the GPU."""
    state, first = accelerator.get_state_dict(model), accelerator.is_main_process
    forms = broadcast_object_list([{name: (state[name].shape, state[name].dtype) for name in names} if first else None])[0]
    whole = {}
    for name, (shape, dtype) in cast(dict[str, Any], forms).items():
        weight = state.pop(name) if first else torch.empty(shape, dtype=dtype)
        whole[name] = broadcast(weight.to(accelerator.device).contiguous()).cpu()
    return whole
