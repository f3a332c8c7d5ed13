"""RunSpec: everything that decides one run's outcome, checked, and the id that follows from it.

    run_id = first 12 hex digits of sha256(non-default fields + task version + base fingerprint)

Only non-default fields count, so a field that is added later leaves every old id as it was, provided that its
default is the old behavior. A released default never changes.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmpeft.entry import Location
from mmpeft.errors import MmpeftError, unknown
from mmpeft.methods import METHODS, Method

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[reduce(or_, METHODS.values()), Field(discriminator="name")]

Split = Literal["train", "dev", "test"]
Model = TypeVar("Model", bound=BaseModel)

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Part(BaseModel):
    """A frozen group of fields: no unknown key, no silent conversion, no infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ConnectorSpec(Part):
    """Whether the connector learns too, and how fast.

    Attributes:
        tuned: False keeps it frozen.
        learning_rate: Its own rate; needed when tuned.
    """

    tuned: bool = False
    learning_rate: float | None = Field(default=None, gt=0)


class TrainSpec(Part):
    """How a run learns.

    Attributes:
        num_examples: Size of the training subset; None means all.
        subset_seed: Decides which examples are in the subset.
        num_epochs: Length of training in passes over the subset (or ``num_steps``, never both).
        num_steps: Length of training in optimizer steps.
        batch_size: Examples a step.
        learning_rate: Peak rate of what the method trains.
        schedule: What the rate does after the warm-up.
        warmup_ratio: Part of the steps in which the rate rises, 0–1.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: Gradients are clipped to this norm.
        max_length: Longest sequence in tokens, image tokens included.
        precision: Number format of the forward pass and of frozen weights; what trains is kept in fp32.
        gradient_accumulation_steps: Forward and backward passes that make one step, each on its part of the batch; several
            processes share them.
        gradient_checkpointing: Whether activations inside a decoder layer are computed again instead of kept.
        attention_implementation: transformers' name of the attention kernel.
    """

    num_examples: int | None = Field(default=None, gt=0)
    subset_seed: int = Field(default=0, ge=0)
    num_epochs: float | None = Field(default=None, gt=0)
    num_steps: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.06, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=256, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    gradient_checkpointing: bool = False
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    def passes(self, num_processes: int = 1) -> int:
        """How many passes each of so many processes makes in a step: all of one size, none larger than one process alone makes.

        Raises:
            MmpeftError: They cannot share a batch.
        """
        if self.batch_size % num_processes:
            raise MmpeftError(
                f"train.batch_size: {self.batch_size} examples cannot be dealt out to {num_processes} processes; "
                f"take a multiple of {num_processes}, or another number of processes."
            )
        share, least = self.batch_size // num_processes, -(-self.gradient_accumulation_steps // num_processes)
        return next(number for number in range(least, share + 1) if share % number == 0)


class EvalSpec(Part):
    """What a run is judged on.

    Attributes:
        split: dev for choosing, test for reporting.
        num_examples: Size of a fixed random subset; None means all.
        max_new_tokens: Longest answer; None means the task's own.
        batch_size: Examples generated at once.
    """

    split: Split = "test"
    num_examples: int | None = Field(default=None, gt=0)
    max_new_tokens: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=64, gt=0)


class TrackSpec(Part):
    """What a run is asked on the way: before training (epoch 0) and again after every so many epochs.

    Its own task is asked on dev, since dev is for choosing an epoch, and each other task on ``split``. The defaults
    ask nothing. Nothing that is asked here changes the training.

    Attributes:
        tasks: The other tasks.
        every_epochs: So many passes over the training subset lie between two times; a method that trains nothing is asked
            once and needs none.
        num_examples: Size of each task's fixed random subset; None means all.
        split: Of the other tasks.
    """

    tasks: tuple[str, ...] = ()
    every_epochs: int | None = Field(default=None, gt=0)
    num_examples: int | None = Field(default=None, gt=0)
    split: Split = "test"

    @field_validator("tasks", mode="before")
    @classmethod
    def _take_a_list(cls, tasks: Any) -> Any:
        """JSON and YAML know no tuple."""
        return tuple(tasks) if isinstance(tasks, list) else tasks

    @property
    def wanted(self) -> bool:
        """Whether anything is asked at all."""
        return bool(self.tasks) or self.every_epochs is not None


class PreStepSpec(Part):
    """Full fine-tuning on some tasks together before the run: what the paper calls making them seen (its Appendix A.2).

    Decoder and connector train at one rate, the vision encoder stays; the result takes the place of the base. It is made
    once for all runs that name it, and kept in the cache.

    Attributes:
        tasks: Whose training sets are mixed.
        train: How it learns; ``num_examples`` are of each task.
        seed: Of the order of examples.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    train: TrainSpec
    seed: int = Field(default=0, ge=0)

    @field_validator("tasks", mode="before")
    @classmethod
    def _take_a_list(cls, tasks: Any) -> Any:
        """JSON and YAML know no tuple."""
        return tuple(tasks) if isinstance(tasks, list) else tasks

    @model_validator(mode="after")
    def _check_the_training(self) -> "PreStepSpec":
        if self.train.learning_rate is None:
            raise ValueError("pre_step.train.learning_rate: missing; set it")
        if (self.train.num_epochs is None) == (self.train.num_steps is None):
            raise ValueError("pre_step.train.num_epochs, num_steps: set exactly one of them")
        if self.train.batch_size % (parts := self.train.gradient_accumulation_steps):
            size = self.train.batch_size
            raise ValueError(f"pre_step.train.gradient_accumulation_steps: {parts} do not divide a batch of {size}")
        return self


UNTRAINED_FIELDS = ("max_length", "precision", "attention_implementation")
"""The fields of TrainSpec that also decide how an untrained model is evaluated."""


class RunSpec(Part):
    """One run: a model, a task, a method, how it trains, what it is judged on, a seed; and what its base learned before.

    Two specs that mean the same run are equal: what a method does not use must be left out.
    """

    model: str
    task: str
    method: AnyMethod
    location: Location = "both"
    connector: ConnectorSpec = ConnectorSpec()
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    track: TrackSpec = TrackSpec()
    pre_step: PreStepSpec | None = None
    seed: int = Field(default=0, ge=0)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "RunSpec":
        """The checked spec.

        Raises:
            MmpeftError: A field is unknown, of the wrong type or at odds with another; says what to do.
        """
        return parse(cls, fields)

    @model_validator(mode="before")
    @classmethod
    def _tune_connector_where_implied(cls, fields: Any) -> Any:
        """The connector method means nothing with a frozen connector, so it need not be said."""
        if not isinstance(fields, dict):
            return fields
        method, connector = fields.get("method"), fields.get("connector", {})
        name = method.get("name") if isinstance(method, dict) else getattr(method, "name", None)
        implied = str(name) in METHODS and METHODS[str(name)].tunes_connector
        if not implied or not isinstance(connector, dict):
            return fields
        return {**fields, "connector": {"tuned": True, **connector}}

    @model_validator(mode="after")
    def _check_that_fields_agree(self) -> "RunSpec":
        problems = self._location_problems() + self._connector_problems() + self._train_problems()
        problems += self._track_problems()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _location_problems(self) -> list[str]:
        if self.method.has_location or self.location == "both":
            return []
        return [f"location: '{self.method.name}' has none to choose; remove '{self.location}'"]

    def _connector_problems(self) -> list[str]:
        tuned, rate, name = self.connector.tuned, self.connector.learning_rate, self.method.name
        if tuned and not self.method.trains:
            return [f"connector.tuned: '{name}' trains nothing; remove it"]
        if self.method.tunes_connector and not tuned:
            return [f"connector.tuned: '{name}' trains the connector alone; set it to true"]
        if tuned and rate is None:
            return ["connector.learning_rate: a tuned connector needs one; set it"]
        if not tuned and rate is not None:
            return ["connector.learning_rate: the connector is frozen; remove it or set connector.tuned: true"]
        return []

    def _train_problems(self) -> list[str]:
        name, given = self.method.name, _non_default(self.train)
        if not self.method.trains:
            spare = [f"train.{field}" for field in given if field not in UNTRAINED_FIELDS]
            spare += ["seed"] if self.seed else []
            return [f"{', '.join(spare)}: '{name}' trains nothing; remove"] if spare else []
        problems = []
        if self.method.tunes_connector and self.train.learning_rate is not None:
            problems.append(f"train.learning_rate: '{name}' learns at connector.learning_rate; remove it")
        if not self.method.tunes_connector and self.train.learning_rate is None:
            problems.append(f"train.learning_rate: '{name}' needs one; set it")
        if (self.train.num_epochs is None) == (self.train.num_steps is None):
            problems.append("train.num_epochs, train.num_steps: set exactly one of them")
        if self.train.batch_size % (parts := self.train.gradient_accumulation_steps):
            problems.append(f"train.gradient_accumulation_steps: {parts} do not divide a batch of {self.train.batch_size}")
        if self.train.gradient_checkpointing and not self.method.checkpointable:
            problems.append(f"train.gradient_checkpointing: '{name}' cannot: its keys and values enter from outside; remove it")
        return problems

    def _track_problems(self) -> list[str]:
        track, name = self.track, self.method.name
        if not track.wanted:
            return ["track: asks no task; set track.every_epochs or track.tasks, or leave it out"] if _non_default(track) else []
        problems = []
        if self.task in track.tasks:
            problems.append(f"track.tasks: '{self.task}' is the run's own task, asked on dev anyway; remove it")
        if len(set(track.tasks)) < len(track.tasks):
            problems.append("track.tasks: names a task twice; once is enough")
        if self.method.trains and track.every_epochs is None:
            problems.append("track.every_epochs: missing; set it")
        if not self.method.trains and track.every_epochs is not None:
            problems.append(f"track.every_epochs: '{name}' trains nothing; remove it")
        return problems

    def canonical(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and the method's name: what the run_id is made of."""
        return {**_non_default(self), "method": {"name": self.method.name, **_non_default(self.method)}}


def run_id(
    spec: RunSpec, *, task_version: int, fingerprint: str, tracked_versions: Mapping[str, int] | None = None
) -> str:
    """The run's id: 12 hex digits.

    Args:
        spec: The run.
        task_version: Version of the task's data, prompt and metric.
        fingerprint: Hash of the base model's weights.
        tracked_versions: The same of the tasks it is asked on the way or that its base learned before, by name; none where
            there are none.
    """
    identity = {"spec": spec.canonical(), "task_version": task_version, "fingerprint": fingerprint}
    if tracked_versions:
        identity["tracked_versions"] = dict(tracked_versions)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _non_default(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(exclude_defaults=True)


def parse(kind: type[Model], fields: Mapping[str, Any]) -> Model:
    """The checked instance of a pydantic class.

    Raises:
        MmpeftError: One line for each mistake, with the field's name and the remedy.
    """
    try:
        return kind.model_validate(dict(fields), strict=True)
    except ValidationError as error:
        problems = [_explained(kind, problem) for problem in error.errors(include_url=False)]
        raise MmpeftError("\n".join(_told_once(problems))) from None


def _told_once(problems: Sequence[str]) -> list[str]:
    """The first of those that are alike but for a place in a list, and how many more there are."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(re.sub(r"\[\d+\]", "[]", problem), []).append(problem)
    return [first + (f" ({len(more)} more like it.)" if more else "") for first, *more in alike.values()]


def _explained(kind: type[BaseModel], problem: Any) -> str:
    """One line for one of pydantic's problems: the field's dotted name, what is wrong, what to write."""
    *parents, last = problem["loc"] or ("",)
    value, field = problem["input"], _dotted(problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return str(unknown(f"{_dotted(parents)} field".strip(), last, _fields_at(kind, parents)))
        case "union_tag_invalid":
            return str(unknown("method", problem["ctx"]["tag"], METHODS))
        case "union_tag_not_found":
            return f"{field}.name: missing. Valid: {', '.join(sorted(METHODS))}."
        case "literal_error":
            hint = " YAML reads a bare on, off, yes or no as true or false." if isinstance(value, bool) else ""
            return str(unknown(field, value, re.findall(r"'([^']*)'", problem["ctx"]["expected"]))) + hint
        case "missing":
            return f"{field}: missing; set it."
        case "float_type" if isinstance(value, str) and NUMBER.fullmatch(value):
            return f"{field}: '{value}' is text, not a number; {_as_yaml_number(value)}."
        case "int_type" if isinstance(value, str) and NUMBER.fullmatch(value):
            return f"{field}: '{value}' is text; write the digits of a whole number, without quotes."
        case "model_attributes_type" | "model_type" | "dict_type":
            return f"{field}: must hold 'name: value' pairs, found {value!r}."
        case "value_error":
            return f"{problem['ctx']['error']}."
    return f"{field}: {problem['msg'][0].lower()}{problem['msg'][1:]} (found {value!r})."


def _as_yaml_number(text: str) -> str:
    """How to write it in the parameter files: YAML 1.1 takes 1e-4 for text but 1.0e-4 for a number."""
    mantissa, exponent, power = text.lower().partition("e")
    if not exponent:
        return f"write {text} without quotes"
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    sign = "" if power[0] in "+-" else "+"
    return f"YAML reads a number like this as text: write {mantissa}e{sign}{power}"


def _dotted(path: Sequence[str | int]) -> str:
    """A pydantic location as the reader wrote it: without the union's tag, list positions in brackets."""
    text = ""
    for before, part in zip(("", *path), path, strict=False):
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (before == "method" and part in METHODS):
            text += f".{part}" if text else part
    return text


def _fields_at(kind: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The names of the fields that exist at this place."""
    for part in path:
        if part in kind.model_fields:
            kind = _model_in(kind.model_fields[str(part)].annotation) or kind
        elif part in METHODS:
            kind = METHODS[str(part)]
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic class inside a type, for example Variant in ``list[Variant]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
