"""What a plan of runs costs before any of it is made: hours, memory, disk, and whether it fits a GPU.

The calculator (`mmpeft.calc`) gives bytes and operations, a GPU's sheet (`mmpeft.gpus`) its memory, speed and roughly its price.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from mmpeft.calc import Setup, Shape, answering_memory, forward_flops, sizes_of, step_flops, step_memory
from mmpeft.errors import MmpeftError, unknown
from mmpeft.gpus import HEADROOM_RATIO, LAYER_SECONDS, LOADING_BANDWIDTH, USED_SHARE, Gpu, gpu_of
from mmpeft.methods import METHODS, Method
from mmpeft.plan import Question
from mmpeft.registry import known_task
from mmpeft.spec import PreStepSpec, RunSpec, TrainSpec, parse

RUN_BYTES = 3_000_000
"""Record and predictions of a run on disk, roughly: 5,000 answers, compressed. A pre-step's weights come on top."""


@dataclass(frozen=True)
class Words:
    """How long a dataset's texts are, in tokens: typical numbers, not counted."""

    prompt: int
    answer: int


WORDS = {
    "scienceqa": Words(90, 3),
    "vizwiz": Words(60, 4),
    "iconqa-txt": Words(70, 4),
    "iconqa-blank": Words(50, 3),
    "flickr30k": Words(30, 16),
    "okvqa": Words(40, 4),
    "ocrvqa": Words(40, 8),
    "vqav2": Words(40, 3),
    "pope": Words(30, 3),
    "coco-captions": Words(30, 16),
    "mmhal": Words(20, 100),
}
"""By the dataset's name; a miniature dataset takes those of the one it stands for."""


@dataclass(frozen=True)
class Estimate:
    """What one run needs on a kind of GPU.

    Attributes:
        label: Method, connector and location.
        trained: Parameters that train.
        num_steps: Optimizer steps.
        batch_size: Examples of one pass on one GPU.
        passes: Of one step, so that it fits: the smallest number that divides the batch.
        peak_bytes: Of one GPU, in training or while answers are written, whichever is more.
        fits: Whether that is within the GPU's memory.
        hours: From beginning to end, training and questions shared by all its GPUs; each of them loads the base.
        gpu_hours: The same over all its GPUs.
    """

    label: str
    trained: int
    num_steps: int
    batch_size: int
    passes: int
    peak_bytes: float
    fits: bool
    hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Budget:
    """What a question's runs need together.

    Attributes:
        question: Its name.
        num_asked: All runs that it asks.
        num_runs: Those that are counted here, and not with another question; hours, dollars and disk are theirs.
        gpu_hours: Of all GPUs.
        dollars: At the GPU's price.
        peak_bytes: Of the run that needs most, on one GPU.
        fits: Whether every run does.
        disk_bytes: Of records and of what pre-steps keep.
        rows: One a variant and length of training.
    """

    question: str
    num_asked: int
    num_runs: int
    gpu_hours: float
    dollars: float
    peak_bytes: float
    fits: bool
    disk_bytes: float
    rows: list[dict[str, Any]]

    @property
    def too_large(self) -> list[str]:
        """The rows that do not fit."""
        return [row["label"] for row in self.rows if not row["fits"]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def words_of(task: str) -> Words:
    """The lengths of a task's texts; of a task that somebody added, a short question's and half of what it may answer."""
    name = task.removeprefix("mini-").removesuffix("-llava")
    return WORDS.get(name) or Words(60, max(1, known_task(task).max_new_tokens // 2))


def shape_of(model: str, task: str) -> Shape:
    """The sequences of a task before a model."""
    words = words_of(task)
    return sizes_of(model).shape(words.prompt, words.answer)


def num_examples(task: str, split: str, wanted: int | None) -> int:
    """How many examples of a split a run takes: as many as it says, else all.

    Raises:
        MmpeftError: Nobody knows how many that are.
    """
    number = wanted or known_task(task).size(split)
    if number is None:
        raise MmpeftError(f"{task}/{split}: its size is not known before it is downloaded; say num_examples.")
    return number


@dataclass(frozen=True)
class Learning:
    """A training: the configuration, how it learns, and from how many examples of which tasks."""

    model: str
    setup: Setup
    train: TrainSpec
    sources: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, spec: RunSpec) -> "Learning":
        """That of a run; of a method that trains nothing, none."""
        sources = ((spec.task, num_examples(spec.task, "train", spec.train.num_examples)),) if spec.method.trains else ()
        return cls(spec.model, Setup.of(spec), spec.train, sources)

    @classmethod
    def before(cls, model: str, pre_step: PreStepSpec) -> "Learning":
        """That of a pre-step: decoder and connector on all its tasks."""
        train = pre_step.train
        full: Method = parse(METHODS["full"], {"name": "full"})
        setup = Setup(sizes_of(model), full, "both", True, train.precision == "bf16", train.gradient_checkpointing)
        return cls(model, setup, train, tuple((one, num_examples(one, "train", train.num_examples)) for one in pre_step.tasks))

    @property
    def num_examples(self) -> int:
        """Of all sources together."""
        return sum(number for _, number in self.sources)

    @property
    def num_steps(self) -> int:
        """Optimizer steps, as `mmpeft.train` counts them."""
        if not self.sources:
            return 0
        return self.train.num_steps or max(1, ceil((self.train.num_epochs or 0) * self.num_examples / self.train.batch_size))

    def flops(self) -> float:
        """Operations of all steps."""
        shapes = [(shape_of(self.model, task), number) for task, number in self.sources]
        an_example = sum(number * step_flops(self.setup, 1, shape) for shape, number in shapes) / max(1, self.num_examples)
        return self.num_steps * self.train.batch_size * an_example

    def cut(self, limit: float, num_gpus: int) -> tuple[int, int, float]:
        """The size of a pass, passes of a step and peak bytes of a GPU, in as few passes as stay within the limit.

        Raises:
            MmpeftError: The batch cannot be dealt out to so many GPUs.
        """
        if not self.sources:
            return 0, 0, 0.0
        share = self.train.batch_size // num_gpus
        sizes = [share // n for n in range(self.train.passes(num_gpus), share + 1) if share % n == 0]
        shape = max((shape_of(self.model, task) for task, _ in self.sources), key=lambda shape: shape.num_tokens)
        peaks = {size: step_memory(self.setup, size, shape).total for size in sizes}
        size = next((size for size in sizes if peaks[size] <= limit), sizes[-1])
        return size, share // size, peaks[size]


def estimate(spec: RunSpec, gpu: Gpu, num_gpus: int = 1, used_share: float = USED_SHARE) -> Estimate:
    """What a run needs, its batch cut into as few passes as fit; its pre-step apart.

    Args:
        spec: The run; its own number of passes is where the search begins.
        gpu: On which.
        num_gpus: That share one run, each with the whole model.
        used_share: Of the GPU's matrix peak that is reached.

    Raises:
        MmpeftError: The batch cannot be dealt out to so many GPUs.
    """
    learning = Learning.of(spec)
    asking = _asking_seconds(spec, learning, gpu, used_share)
    return _estimate(_label(spec), learning, gpu, num_gpus, used_share, asking, _asking_bytes(spec, learning.setup))


def _label(spec: RunSpec) -> str:
    name = f"{spec.method.label}, {'connector tuned' if spec.connector.tuned else 'frozen'}"
    return name if spec.location == "both" else f"{name}, {spec.location}"


def estimate_pre_step(
    model: str, pre_step: PreStepSpec, gpu: Gpu, num_gpus: int = 1, used_share: float = USED_SHARE
) -> Estimate:
    """What a pre-step needs, which all runs that name it share."""
    label = f"Full fine-tuning before all runs, on {', '.join(pre_step.tasks)}"
    return _estimate(label, Learning.before(model, pre_step), gpu, num_gpus, used_share)


def _estimate(
    label: str,
    learning: Learning,
    gpu: Gpu,
    num_gpus: int,
    used_share: float,
    asking_seconds: float = 0.0,
    asking_bytes: float = 0.0,
) -> Estimate:
    limit = gpu.memory_bytes * HEADROOM_RATIO
    size, passes, training_bytes = learning.cut(limit, num_gpus)
    layers, peak = learning.setup.sizes.dims.num_layers, max(training_bytes, asking_bytes)
    starting = 3 * layers * LAYER_SECONDS * learning.num_steps * passes * num_gpus  # forwards, and twice that backwards
    training = max(starting, learning.flops() / (gpu.flops * used_share))
    loading = 2 * 2 * learning.setup.sizes.total / LOADING_BANDWIDTH  # two bytes a weight, twice; on each of the GPUs
    hours = ((training + asking_seconds) / num_gpus + loading) / 3600
    return Estimate(
        label=label,
        trained=learning.setup.trained,
        num_steps=learning.num_steps,
        batch_size=size,
        passes=passes,
        peak_bytes=peak,
        fits=peak <= limit,
        hours=hours,
        gpu_hours=hours * num_gpus,
    )


def _asking_seconds(spec: RunSpec, learning: Learning, gpu: Gpu, used_share: float) -> float:
    """Reading the prompts, which is arithmetic, and writing the answers, for each token of which all weights are read.

    At the end the run's own questions; on the way, each time, its own of dev, whose loss is one more reading, and the others'.
    """
    setup, track, times = learning.setup, spec.track, 1
    if track.every_epochs:
        epochs = spec.train.num_epochs or learning.num_steps * spec.train.batch_size / learning.num_examples
        times += int(epochs // track.every_epochs)

    def reading(task: str, number: int) -> float:
        return number * forward_flops(setup, 1, shape_of(spec.model, task)) / (gpu.flops * used_share)

    def asking(task: str, number: int) -> float:
        weights = setup.sizes.total * (2 if setup.half else 4)
        token = max(weights / gpu.bandwidth, setup.sizes.dims.num_layers * LAYER_SECONDS)
        return reading(task, number) + ceil(number / spec.eval.batch_size) * words_of(task).answer * token

    seconds = asking(spec.task, num_examples(spec.task, spec.eval.split, spec.eval.num_examples))
    if track.wanted:
        own = num_examples(spec.task, "dev", track.num_examples)
        seconds += times * (asking(spec.task, own) + reading(spec.task, own))
        seconds += times * sum(asking(task, num_examples(task, track.split, track.num_examples)) for task in track.tasks)
    return seconds


def _asking_bytes(spec: RunSpec, setup: Setup) -> float:
    """While the longest questions are answered; on the way the optimizer's states are there too."""
    written = {task: known_task(task).max_new_tokens for task in (spec.task, *spec.track.tasks)}
    written[spec.task] = spec.eval.max_new_tokens or written[spec.task]
    longest = sizes_of(spec.model).num_image_tokens + max(words_of(task).prompt + most for task, most in written.items())
    return answering_memory(setup, spec.eval.batch_size, longest) + 8 * setup.trained * spec.track.wanted


Counted = set[RunSpec | tuple[str, PreStepSpec]]
"""Runs and pre-steps (with their model) whose hours are already in a sum."""


def budgets(plan: Sequence[Question], gpu_name: str, num_gpus: int = 1, used_share: float = USED_SHARE) -> list[Budget]:
    """What each question needs; a run that several ask is counted in the first of them alone."""
    counted: Counted = set()
    return [budget(question, gpu_name, num_gpus, used_share, counted) for question in plan]


def budget(
    question: Question, gpu_name: str, num_gpus: int = 1, used_share: float = USED_SHARE, counted: Counted | None = None
) -> Budget:
    """What a question needs, with one row for each of its variants and lengths of training, and one for a pre-step.

    Args:
        question: Which runs.
        gpu_name: On which GPU.
        num_gpus: That share one run.
        used_share: Of the GPU's matrix peak that is reached.
        counted: What is counted elsewhere: it adds no runs and no hours here, only its memory. What is counted here is added.

    Raises:
        MmpeftError: No such GPU, or a run cannot be estimated.
    """
    gpu, counted = gpu_of(gpu_name), set() if counted is None else counted
    rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    pre_steps: dict[tuple[str, PreStepSpec], None] = {}
    kept_bytes, num_runs, specs = 0.0, 0, question.specs()
    for spec in specs:
        new = spec not in counted
        num_runs += new
        _add(rows, estimate(spec, gpu, num_gpus, used_share), spec.method.size, new, 1)
        counted.add(spec)
        if spec.pre_step:
            pre_steps[spec.model, spec.pre_step] = None
    for key in pre_steps:
        new, found = key not in counted, estimate_pre_step(*key, gpu, num_gpus, used_share)
        _add(rows, found, None, new, 0)
        kept_bytes += 4 * found.trained * new
        counted.add(key)
    hours = sum(row["gpu_hours"] for row in rows.values())
    return Budget(
        question=question.question,
        num_asked=len(specs),
        num_runs=num_runs,
        gpu_hours=hours,
        dollars=hours * gpu.dollars_per_hour,
        peak_bytes=max(row["peak_bytes"] for row in rows.values()),
        fits=all(row["fits"] for row in rows.values()),
        disk_bytes=num_runs * RUN_BYTES + kept_bytes,
        rows=list(rows.values()),
    )


def _add(rows: dict[tuple[str, int | None], dict[str, Any]], found: Estimate, size: int | None, new: bool, num_runs: int) -> None:
    row = rows.setdefault(
        (found.label, size), {**asdict(found), "size": size, "num_runs": 0, "gpu_hours": 0.0, "hours_a_run": 0.0}
    )
    row["num_runs"] += num_runs * new
    row["gpu_hours"] += found.gpu_hours * new
    row["hours_a_run"] = max(row["hours_a_run"], found.hours)
    row["passes"] = max(row["passes"], found.passes)
    row["peak_bytes"] = max(row["peak_bytes"], found.peak_bytes)
    row["fits"] = row["fits"] and found.fits


def total(found: Sequence[Budget]) -> dict[str, Any]:
    """The sums over questions, of :func:`budgets`."""
    sums = {name: sum(getattr(each, name) for each in found) for name in ("num_runs", "gpu_hours", "dollars", "disk_bytes")}
    return {**sums, "peak_bytes": max(each.peak_bytes for each in found), "fits": all(each.fits for each in found)}


def one_setup(what: Mapping[str, Any], train: Mapping[str, Any], size: tuple[int, int, int], gpu_name: str) -> dict[str, Any]:
    """What one configuration needs on one device: parameters, bytes by what they are for, operations, whether it fits.

    What was asked for stands first, in words.

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
    size_said = f", {kind.size_field} {spec.method.size}" if kind.size_field else ""
    said = f"{batch_size} examples of {text} tokens of text, {answer} of them the answer's, in {spec.train.precision}"
    return {
        "configuration": f"{_label(spec)}{size_said}, on {spec.model}; {said}",
        "trained_parameters": setup.trained,
        "base_parameters": setup.sizes.total,
        "sequence_tokens": shape.num_tokens,
        **{f"{name}_bytes": value for name, value in asdict(memory).items()},
        "peak_bytes": memory.total,
        "step_flops": f"{step_flops(setup, batch_size, shape):.3e}",
        "fits": "yes" if memory.total <= gpu.memory_bytes * HEADROOM_RATIO else "no",
    }
