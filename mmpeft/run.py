"""RunSpec → Record: one run from the base to its scores, with everything that proves what it did."""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from mmpeft.attach import attach, parameter_groups
from mmpeft.batches import Encoder
from mmpeft.checkpoints import Watcher, keeper
from mmpeft.contract import Watch
from mmpeft.entry import ModelEntry
from mmpeft.evaluate import evaluate
from mmpeft.features import OpenedLater
from mmpeft.leases import PLACE
from mmpeft.loading import Loaded, halve, use_kernel
from mmpeft.monitor import Monitor, asked_on_the_way, due, provenance
from mmpeft.plan import Planned
from mmpeft.pre_step import base_of
from mmpeft.pre_step import provenance as pre_step_provenance
from mmpeft.records import Outcome, Record
from mmpeft.spec import RunSpec
from mmpeft.task import Example, Task
from mmpeft.tasks import TASKS
from mmpeft.train import train

_PROBE_EXAMPLES = 4  # examples on which logits are compared for the contract


def run(spec: RunSpec, progress: bool = False, checkpoint: Path | None = None, checkpoint_every: int | None = None) -> Outcome:
    """The record of a run and its predictions, one row an example; those made on the way too, if any are wanted.

    Args:
        spec: What to run.
        progress: Whether missing vision features are computed under a progress bar.
        checkpoint: Where the training state is kept on the way, and taken up from; None keeps none.
        checkpoint_every: Optimizer steps between two checkpoints; None keeps none, unless one lies there to go on from.

    Raises:
        TrainingDiverged: On a loss that is not finite.
        ContractBroken: If the run did not do what it promised.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    planned = Planned.of(spec)
    device = own_device()  # before anything is computed: a pre-step that this process makes has its place there too
    start_memory()
    loaded, task = base_of(spec), TASKS[spec.task]
    training, asked = examples_of(spec, task)
    encoder = encoder_for(loaded, task, [*training, *asked], spec.train.max_length, progress)
    on_the_way = asked_on_the_way(spec)
    encoder.check_lengths([*training, *(example for each in on_the_way if each.own for example in each.examples)])
    for other in on_the_way:
        encoder.features |= features_of(loaded, other.task, other.examples, progress)

    prepare(loaded.model, loaded.entry, spec)  # after the pictures, whose features are kept in full precision
    model = loaded.model.to(device)
    # Not around the training: it would keep a weight's bf16 copy over the step that changes the weight.
    precision = partial(torch.autocast, device.type, torch.bfloat16, enabled=spec.train.precision == "bf16")

    watch = Watch(loaded.entry, spec.method, spec.location, spec.connector.tuned)
    with precision():
        watch.base(model, _probe(encoder, asked, device))
        model = attach(model, loaded.entry, spec.method, spec.location, spec.connector.tuned, spec.seed)
        watch.before(model)

    clock = time.perf_counter()
    steps, curve, seconds_before = 0, [], 0.0
    monitor = Monitor(spec, model, encoder, on_the_way, due(spec, len(training)))

    def ask(step: int) -> None:
        with precision():
            monitor(step)

    if spec.method.trains:
        groups = parameter_groups(model, loaded.entry, spec.train.learning_rate, spec.connector.learning_rate)
        watchers: dict[str, Watcher] = {"contract": watch, "monitor": monitor}
        kept = keeper(checkpoint, checkpoint_every, watchers)
        trained = train(model, groups, training, encoder.training_batch, spec.train, spec.seed, watch.gradients, ask, kept)
        steps, curve = trained.num_steps, trained.curve
        seconds_before = kept.seconds_before if kept else 0.0
        if trained.weights is not None:
            model = loaded.model = fresh_base(spec).to(device)
            model = attach(model, loaded.entry, spec.method, spec.location, spec.connector.tuned, spec.seed)
            model.load_state_dict(trained.weights, strict=False)
            watch.rebuilt()
    else:
        ask(0)
    train_seconds = seconds_before + time.perf_counter() - clock - monitor.seconds

    with tempfile.TemporaryDirectory() as folder, precision():
        contract = watch.after(model, steps, lambda: fresh_base(spec), Path(folder))
    clock = time.perf_counter()
    with precision():
        scores, rows = evaluate(model, encoder, task, asked, spec.eval.max_new_tokens, spec.eval.batch_size)
    eval_seconds = time.perf_counter() - clock
    cost = {
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total_params": num_parameters(model),
        "train_seconds": round(train_seconds, 3),
        "eval_seconds": round(eval_seconds, 3),
        "track_seconds": round(monitor.seconds, 3),
        "examples_per_second": round(steps * spec.train.batch_size / train_seconds, 2) if steps else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "adapter_bytes": contract["adapter_bytes"],
    }
    record = Record(
        run_id=planned.run_id,
        status="ok",
        spec=spec,
        task_version=planned.task_version,
        fingerprint=planned.fingerprint,
        scores=scores,
        cost=cost,
        curve=list(curve),
        track=monitor.checkpoints,
        contract=contract,
        environment=environment() | provenance(spec) | pre_step_provenance(spec),
        started_at=started_at,
    )
    return Outcome(record, rows, monitor.lines())


def examples_of(spec: RunSpec, task: Task) -> tuple[list[Example], list[Example]]:
    """The training subset (empty where nothing trains) and the examples a run is judged on."""
    training = task.examples("train", spec.train.num_examples, spec.train.subset_seed) if spec.method.trains else []
    return training, task.examples(spec.eval.split, spec.eval.num_examples)


def encoder_for(loaded: Loaded, task: Task, examples: Sequence[Example], max_length: int, progress: bool = False) -> Encoder:
    """The encoder of examples for a model, with their vision features from the cache."""
    return Encoder(loaded, features_of(loaded, task, examples, progress), max_length)


def features_of(
    loaded: Loaded, task: Task, examples: Sequence[Example], progress: bool = False
) -> dict[str, Tensor] | OpenedLater:
    """By picture id, vision features from the cache where they are there; pixel values, where the encoder runs each time."""
    return loaded.features().get(task, [e.picture_id for e in examples], progress)


def own_device() -> torch.device:
    """Where this process computes: with several GPUs, workers side by side and the processes of one run each have one."""
    if torch.cuda.is_available() and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(int(os.environ.get(PLACE, "0")) % torch.cuda.device_count())
    return PartialState(cpu=not torch.cuda.is_available()).device


def fresh_base(spec: RunSpec) -> nn.Module:
    """The base of a run, loaded anew, in the kernel and the number formats that the run asks for."""
    loaded = base_of(spec)
    prepare(loaded.model, loaded.entry, spec)
    return loaded.model


def num_parameters(model: nn.Module) -> int:
    """Parameters of a model, each once: beside a part that trains, peft keeps the part as it was."""
    return sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in name)


def prepare(model: nn.Module, entry: ModelEntry, spec: RunSpec) -> None:
    """Attention kernel and number formats of a base: under bf16 only what stays frozen is kept in it.

    Raises:
        MmpeftError: The kernel is not installed, or not for this device.
    """
    use_kernel(model, spec.train.attention_implementation, "train")
    if spec.train.precision == "bf16":
        halve(model)
        for path in (*spec.method.trained_parts(entry), *([entry.connector] if spec.connector.tuned else [])):
            model.get_submodule(path).float()


def _probe(encoder: Encoder, examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in encoder.training_batch(examples[:_PROBE_EXAMPLES]).items()}


def start_memory() -> None:
    """Begins the measurement of memory anew, where that can be done: a worker's run before may have needed more."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone, and not in every container
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most memory used since `start_memory`: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def environment() -> dict[str, Any]:
    """Where a run was made: versions, commit, device, threads."""
    return {
        **git_state(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "platform": sys.platform,
        "cores": os.cpu_count(),
    }


def git_state() -> dict[str, Any]:
    """Commit and cleanliness of the checkout this package runs from; None for both outside a checkout."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": ask("rev-parse", "--short=12", "HEAD"), "git_dirty": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
