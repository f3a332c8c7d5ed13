"""What a plan of runs costs before any of it is made: hours, memory, disk, and whether it fits a GPU.

The calculator (`mmpeft.calc`) gives bytes and operations; a GPU's sheet gives its memory, speed and, roughly, its price. The
share of that speed which training reaches is an assumption, said with every table: measure yours and pass it on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmpeft.calc import GIB, Setup, Shape, forward_flops, measured_error, sizes_of, step_flops, step_memory
from mmpeft.errors import MmpeftError, unknown
from mmpeft.methods import METHODS
from mmpeft.plan import Question
from mmpeft.spec import RunSpec

USED_SHARE = 0.35
"""Of a GPU's matrix peak, in training and in reading a prompt: what such models often reach, an assumption."""

HEADROOM_RATIO = 0.92
"""Of a GPU's memory a step may ask for; the rest goes to the runtime and to gaps between tensors."""

RUN_BYTES = 3_000_000
"""Record and predictions of a run on disk, roughly: 5,000 answers, compressed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its sheet.

    Attributes:
        memory_bytes: Of the card.
        flops: Dense bf16 matrix operations a second.
        bandwidth: Bytes a second from its memory.
        dollars_per_hour: Rented, order of magnitude at the end of 2026.
    """

    memory_bytes: float
    flops: float
    bandwidth: float
    dollars_per_hour: float


GPUS = {
    "h200": Gpu(141e9, 989e12, 4.8e12, 3.5),
    "h100": Gpu(80e9, 989e12, 3.35e12, 2.5),
    "a100-80": Gpu(80e9, 312e12, 2.0e12, 1.8),
    "a100-40": Gpu(40e9, 312e12, 1.55e12, 1.3),
    "l40s": Gpu(48e9, 362e12, 0.86e12, 1.0),
    "rtx-4090": Gpu(24e9, 165e12, 1.0e12, 0.5),
}


@dataclass(frozen=True)
class Column:
    """The size of a dataset as the study uses it: examples to train on and to be asked, tokens of text, prompt and answer.

    The token counts are typical ones, not counted.
    """

    num_train: int
    num_test: int
    prompt_tokens: int
    answer_tokens: int


COLUMNS = {
    "scienceqa": Column(12_726, 4_241, 90, 3),
    "vizwiz": Column(20_523, 4_319, 60, 4),
    "iconqa-txt": Column(18_946, 6_316, 70, 4),
    "iconqa-blank": Column(10_913, 3_638, 50, 3),
    "flickr30k": Column(29_000, 1_000, 30, 16),
    "okvqa": Column(9_009, 5_046, 40, 4),
    "ocrvqa": Column(20_000, 5_000, 40, 8),
    "vqav2": Column(20_000, 5_000, 40, 3),
    "pope": Column(0, 9_000, 30, 3),
    "mmhal": Column(0, 96, 20, 100),
}
"""By the paper's columns; a miniature dataset takes its column's token counts."""


@dataclass(frozen=True)
class Estimate:
    """What one run needs on a kind of GPU.

    Attributes:
        label: Method, connector and location.
        trained: Parameters that train.
        num_steps: Optimizer steps.
        batch_size: Examples of one pass on one GPU.
        passes: Of one step, so that it fits: the smallest number that divides the batch.
        peak_bytes: Of one GPU.
        fits: Whether that is within the GPU's memory.
        gpu_hours: Training and evaluation, over all its GPUs.
    """

    label: str
    trained: int
    num_steps: int
    batch_size: int
    passes: int
    peak_bytes: float
    fits: bool
    gpu_hours: float


@dataclass(frozen=True)
class Budget:
    """What a question's runs need together."""

    question: str
    num_runs: int
    gpu_hours: float
    dollars: float
    peak_bytes: float
    fits: bool
    disk_bytes: float
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def gpu_of(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        MmpeftError: Its sheet is not here.
    """
    if name not in GPUS:
        raise unknown("gpu", name, GPUS)
    return GPUS[name]


def column_of(task: str) -> Column:
    """The sizes of a task's column.

    Raises:
        MmpeftError: They are not written down.
    """
    name = task.removeprefix("mini-")
    if name not in COLUMNS:
        raise unknown("task with known sizes", task, COLUMNS)
    return COLUMNS[name]


def shape_of(model: str, task: str) -> Shape:
    """The sequences of a task before a model."""
    column = column_of(task)
    tokens = sizes_of(model).num_image_tokens + column.prompt_tokens + column.answer_tokens
    return Shape(tokens, column.answer_tokens + 1)


def estimate(spec: RunSpec, gpu: Gpu, num_gpus: int = 1, used_share: float = USED_SHARE) -> Estimate:
    """What a run needs, its batch cut into as few passes as fit.

    Args:
        spec: The run; its own number of passes is where the search begins.
        gpu: On which.
        num_gpus: That share one run, each with the whole model.
        used_share: Of the GPU's matrix peak that is reached.

    Raises:
        MmpeftError: The batch cannot be dealt out to so many GPUs.
    """
    setup, column, shape = Setup.of(spec), column_of(spec.task), shape_of(spec.model, spec.task)
    if spec.train.batch_size % num_gpus:
        raise MmpeftError(f"--gpus: a batch of {spec.train.batch_size} examples cannot be dealt out to {num_gpus}.")
    share = spec.train.batch_size // num_gpus
    sizes = [share // n for n in range(spec.train.gradient_accumulation_steps, share + 1) if share % n == 0] or [1]
    limit = gpu.memory_bytes * HEADROOM_RATIO
    peaks = {size: step_memory(setup, size, shape).total for size in sizes}
    size = next((size for size in sizes if peaks[size] <= limit), sizes[-1])
    num_steps = _num_steps(spec, column)
    train = num_steps * step_flops(setup, spec.train.batch_size, shape) / (gpu.flops * used_share) if spec.method.trains else 0.0
    label = f"{spec.method.label}, {'connector tuned' if spec.connector.tuned else 'frozen'}"
    return Estimate(
        label=label if spec.location == "both" else f"{label}, {spec.location}",
        trained=setup.trained,
        num_steps=num_steps,
        batch_size=size,
        passes=share // size,
        peak_bytes=peaks[size],
        fits=peaks[size] <= limit,
        gpu_hours=(train + _evaluation_seconds(spec, setup, column, shape, gpu, used_share)) / 3600,
    )


def _num_steps(spec: RunSpec, column: Column) -> int:
    train = spec.train
    if not spec.method.trains:
        return 0
    if train.num_steps is not None:
        return train.num_steps
    return max(1, round((train.num_epochs or 0) * (train.num_examples or column.num_train) / train.batch_size))


def _evaluation_seconds(spec: RunSpec, setup: Setup, column: Column, shape: Shape, gpu: Gpu, used_share: float) -> float:
    """Reading the prompts, which is arithmetic, and writing the answers, for each token of which all weights are read."""
    num_examples = spec.eval.num_examples or column.num_test
    prefill = num_examples * forward_flops(setup, 1, shape) / (gpu.flops * used_share)
    weights = setup.sizes.total * (2 if setup.half else 4)
    written = num_examples / spec.eval.batch_size * column.answer_tokens * weights / gpu.bandwidth
    times = 1 + (spec.train.num_epochs or 1) / spec.track.every_epochs if spec.track.every_epochs else 1
    return times * (prefill + written)


def budget(question: Question, gpu_name: str, num_gpus: int = 1, used_share: float = USED_SHARE) -> Budget:
    """What a question needs, with one row for each of its variants and lengths of training."""
    gpu = gpu_of(gpu_name)
    rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    for spec in question.specs():
        found = estimate(spec, gpu, num_gpus, used_share)
        row = rows.setdefault(
            (found.label, spec.method.size),
            {**asdict(found), "size": spec.method.size, "num_runs": 0, "gpu_hours": 0.0, "hours_a_run": 0.0},
        )
        row["num_runs"] += 1
        row["gpu_hours"] += found.gpu_hours
        row["hours_a_run"] = max(row["hours_a_run"], found.gpu_hours / num_gpus)
        row["passes"] = max(row["passes"], found.passes)
        row["peak_bytes"] = max(row["peak_bytes"], found.peak_bytes)
        row["fits"] = row["fits"] and found.fits
    hours = sum(row["gpu_hours"] for row in rows.values())
    num_runs = sum(row["num_runs"] for row in rows.values())
    return Budget(
        question=question.question,
        num_runs=num_runs,
        gpu_hours=hours,
        dollars=hours * gpu.dollars_per_hour,
        peak_bytes=max(row["peak_bytes"] for row in rows.values()),
        fits=all(row["fits"] for row in rows.values()),
        disk_bytes=num_runs * RUN_BYTES,
        rows=list(rows.values()),
    )


def total(budgets: Sequence[Budget]) -> dict[str, Any]:
    """The sums over questions; runs that two of them share are counted in both."""
    return {
        "num_runs": sum(each.num_runs for each in budgets),
        "gpu_hours": sum(each.gpu_hours for each in budgets),
        "dollars": sum(each.dollars for each in budgets),
        "peak_bytes": max(each.peak_bytes for each in budgets),
        "fits": all(each.fits for each in budgets),
        "disk_bytes": sum(each.disk_bytes for each in budgets),
    }


def one_setup(what: Mapping[str, Any], train: Mapping[str, Any], size: tuple[int, int, int], gpu_name: str) -> dict[str, Any]:
    """What one configuration needs on one device: parameters, bytes by what they are for, operations, whether it fits.

    Args:
        what: model, method, its size (None: its default), location, connector (frozen or tuned).
        train: precision, gradient_checkpointing.
        size: Examples of a pass, tokens of text, and of these the answer's.
        gpu_name: The device.

    Raises:
        MmpeftError: Something does not exist, or does not go together.
    """
    if what["method"] not in METHODS:
        raise unknown("method", what["method"], METHODS)
    kind = METHODS[what["method"]]
    if what["size"] is not None and kind.size_field is None:
        raise MmpeftError(f"--size: '{what['method']}' has one size; leave it out.")
    if what["connector"] not in ("frozen", "tuned"):
        raise unknown("connector", what["connector"], ("frozen", "tuned"))
    rate: dict[str, float] = {"num_steps": 1} if kind.trains else {}
    rate |= {"learning_rate": 1.0} if kind.trains and not kind.tunes_connector else {}
    tuned = what["connector"] == "tuned" or kind.tunes_connector
    spec = RunSpec.from_dict(
        {
            "model": what["model"],
            "task": "any",
            "method": {"name": what["method"], **({kind.size_field: what["size"]} if what["size"] is not None else {})},
            "location": what["location"],
            "connector": {"tuned": True, "learning_rate": 1.0} if tuned else {},
            "train": {**{name: value for name, value in train.items() if value}, **rate},
        }
    )
    setup, (batch_size, text, answer), gpu = Setup.of(spec), size, gpu_of(gpu_name)
    shape = Shape(setup.sizes.num_image_tokens + text, answer + 1)
    memory = step_memory(setup, batch_size, shape)
    return {
        "trained_parameters": setup.trained,
        "base_parameters": setup.sizes.total,
        "sequence_tokens": shape.num_tokens,
        **{f"{name}_bytes": value for name, value in asdict(memory).items()},
        "peak_bytes": memory.total,
        "step_flops": f"{step_flops(setup, batch_size, shape):.3e}",
        "fits": "yes" if memory.total <= gpu.memory_bytes * HEADROOM_RATIO else "no",
    }


def assumptions(gpu_name: str, used_share: float = USED_SHARE) -> str:
    """What the figures stand on, in two sentences."""
    found, gpu = measured_error(), gpu_of(gpu_name)
    return (
        f"Assumed: {used_share:.0%} of {gpu_name}'s {gpu.flops / 1e12:.0f} TFLOP/s are reached, {HEADROOM_RATIO:.0%} of its "
        f"{gpu.memory_bytes / GIB:.0f} GiB can be used, an hour costs ${gpu.dollars_per_hour:.2f}; cached vision features. "
        f"Error of the calculator on {found.num_setups} small models on a CPU: kept bytes {found.memory_median:.1%} (median), "
        f"{found.memory_worst:.1%} (worst); operations {found.flops_median:.1%}, {found.flops_worst:.1%}. "
        "Hours were not measured on a GPU."
    )
