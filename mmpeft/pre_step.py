"""The pre-step: a base that has been fully fine-tuned on some tasks together, before any method is put on it.

    base ─► full fine-tuning of decoder and connector on the tasks' training sets, mixed ─► weights in the cache
    base, loaded anew ─► the weights over its own ─► the base of the runs

The weights are kept under everything they follow from, so that runs which name the same pre-step share one; whoever needs it
first makes it, the others wait. It asks for more memory than any run, so `mmpeft pre-step` makes it ahead, on several GPUs.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import ior
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmpeft.attach import attach, part_of
from mmpeft.batches import Encoder
from mmpeft.checkpoints import Checkpointer, keeper
from mmpeft.errors import MmpeftError
from mmpeft.files import cache_folder, forget_checkpoint, in_its_place
from mmpeft.leases import lease
from mmpeft.loading import Loaded, use_kernel
from mmpeft.methods import METHODS
from mmpeft.models import load
from mmpeft.registry import fingerprint, task_version
from mmpeft.spec import PreStepSpec, RunSpec, parse
from mmpeft.task import Example
from mmpeft.tasks import TASKS
from mmpeft.train import told_to_shard, train

WAIT_SECONDS = 5.0
TRAINED = ("language_model", "connector")
"""The parts that train."""


def base_of(spec: RunSpec) -> Loaded:
    """The base that a run starts from, fresh: the published one, or with its pre-step's weights, made now if nobody has.

    Raises:
        MmpeftError: The base is out of reach, or the pre-step cannot be made here, or its file is damaged.
    """
    path = ensured(spec) if spec.pre_step else None
    loaded = load(spec.model, spec.train.precision)
    if path is not None:
        _give(path, loaded)
    return loaded


def provenance(spec: RunSpec) -> dict[str, str]:
    """What a record should say about the pre-step: the name of its weights and their digest; nothing for a run without one."""
    if spec.pre_step is None:
        return {}
    path = kept_at(spec.model, spec.pre_step)
    with safe_open(path, framework="pt") as file:
        return {"pre_step": f"{path.stem} sha256:{(file.metadata() or {}).get('sha256', '')[:16]}"}


def kept_at(model: str, pre_step: PreStepSpec) -> Path:
    """Where the weights lie: the name follows from the base, the tasks and every setting."""
    identity = {
        "fingerprint": fingerprint(model),
        "pre_step": pre_step.model_dump(mode="json", exclude_defaults=True),
        "versions": {task: task_version(task) for task in pre_step.tasks},
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / "pre_steps" / f"{model}-{digest}.safetensors"


def make(spec: RunSpec, checkpoint_every: int | None = None) -> None:
    """Trains the base on the pre-step's tasks and keeps what trained. The processes of a launch do it together.

    Args:
        spec: A run that names one.
        checkpoint_every: Optimizer steps between two checkpoints; None keeps none, unless one lies there to go on from.

    Raises:
        MmpeftError: The GPUs are too small, a task has too few examples, or the loss left the finite numbers.
    """
    assert spec.pre_step is not None
    path = kept_at(spec.model, spec.pre_step)
    checkpoint = checkpoint_of(path)
    weights = _trained(load(spec.model, spec.pre_step.train.precision), spec.pre_step, keeper(checkpoint, checkpoint_every))
    clear_device_cache(garbage_collection=True)  # what trained is gone; the run's own base comes next
    if os.environ.get("RANK", "0") == "0":
        with in_its_place(path) as temporary:
            save_file(weights, temporary, metadata={"sha256": _digest((name, weights[name]) for name in sorted(weights))})
        forget_checkpoint(checkpoint)


def ensured(spec: RunSpec, how: Callable[[RunSpec], None] = make) -> Path:
    """Where the weights of the run's pre-step lie, made before this returns if nobody has.

    Args:
        spec: A run that names one.
        how: Makes them; called by whoever gets the lease first, while all others wait.

    Raises:
        MmpeftError: They cannot be made; or this is one of several processes of a run, which only read them.
    """
    assert spec.pre_step is not None
    path = kept_at(spec.model, spec.pre_step)
    if not path.exists() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MmpeftError(f"pre_step: no {path.name} in the cache; the processes of a run only read it: mmpeft pre-step.")
    while not path.exists():
        with lease(path.with_suffix(".lease")) as mine:
            if mine and not path.exists():
                how(spec)
        if not path.exists():
            time.sleep(WAIT_SECONDS)
    forget_checkpoint(checkpoint_of(path))  # whoever made it may have been killed before that
    return path


def checkpoint_of(path: Path) -> Path:
    """Where the training state of a pre-step lies while its weights are being made."""
    return path.with_suffix(".checkpoint")


def mixed(loaded: Loaded, pre_step: PreStepSpec) -> tuple[Encoder, list[Example]]:
    """The training examples of all its tasks and their encoder, which opens no live picture before a batch asks for it."""
    settings, store = pre_step.train, loaded.features()
    sets = {name: TASKS[name].examples("train", settings.num_examples, settings.subset_seed) for name in pre_step.tasks}
    features = [store.get(TASKS[name], [each.picture_id for each in mine], True) for name, mine in sets.items()]
    encoder, examples = Encoder(loaded, reduce(ior, features), settings.max_length), [e for mine in sets.values() for e in mine]
    encoder.check_lengths(examples)
    return encoder, examples


def check_room(model: nn.Module, memory_bytes: int, num_parts: int) -> None:
    """Nothing, if a GPU can hold its part of weights, gradients and optimizer states; activations come on top.

    Args:
        model: Where what trains has ``requires_grad``: sixteen bytes each.
        memory_bytes: Of one GPU.
        num_parts: Into how many pieces, one a GPU, all of that is cut at best.

    Raises:
        MmpeftError: It cannot.
    """
    needed = sum(16 * p.numel() if p.requires_grad else p.element_size() * p.numel() for p in model.parameters())
    if needed / num_parts > memory_bytes:
        raise MmpeftError(
            f"pre_step: full fine-tuning asks for {needed / num_parts / 1e9:,.1f} GB a GPU and more, this one has "
            f"{memory_bytes / 1e9:,.1f}; make it first, on {math.ceil(needed / memory_bytes)} GPUs or more: "
            "mmpeft pre-step --accelerate fsdp --processes …"
        )


def _trained(loaded: Loaded, pre_step: PreStepSpec, kept: Checkpointer | None) -> dict[str, Tensor]:
    """The trained weights by name, whole, on the CPU."""
    full, rate = parse(METHODS["full"], {"name": "full"}), pre_step.train.learning_rate
    model = attach(loaded.model, loaded.entry, full, "both", True, pre_step.seed)
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        check_room(model, room, int(os.environ.get("WORLD_SIZE", "1")) if told_to_shard() else 1)
    encoder, examples = mixed(loaded, pre_step)
    use_kernel(loaded.model, pre_step.train.attention_implementation, "pre_step.train")  # after the pictures, as in a run
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{"name": "all", "params": list(trained.values()), "lr": rate}]
    done = train(model, groups, examples, encoder.training_batch, pre_step.train, pre_step.seed, checkpointer=kept)
    weights: Mapping[str, Tensor] = done.weights if done.weights is not None else trained
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


@torch.no_grad()
def _give(path: Path, loaded: Loaded) -> None:
    """Puts the kept weights over the base's own, one by one: two copies of all would be as large as the base."""
    own = {name: p for name, p in loaded.model.named_parameters() if part_of(name, loaded.entry) in TRAINED}
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
            if shapes != {name: list(parameter.shape) for name, parameter in own.items()}:
                raise MmpeftError(f"pre_step: {path.name} does not fit '{loaded.entry.name}'; remove it.")

            def put(name: str) -> tuple[str, Tensor]:
                weight = file.get_tensor(name)
                own[name].copy_(weight)
                return name, weight

            whole = _digest(map(put, sorted(shapes))) == (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        whole = False
    if not whole:
        raise MmpeftError(f"pre_step: {path.name} in the cache is damaged; remove it, and it is made again.")


def _digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names and bytes."""
    total = hashlib.sha256()
    for name, weight in weights:
        total.update(name.encode())
        total.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
