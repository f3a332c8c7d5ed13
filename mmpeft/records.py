"""Records: one file a run, written whole or not at all, and read back as one row a run.

    <store>/records/<run_id>.json             the record: spec, scores, cost, curve, contract, environment
    <store>/predictions/<run_id>.jsonl.gz     one line an example, for paired tests and error pages
    <store>/predictions/<run_id>.track.jsonl.gz   of runs asked on the way: one line an example, its answers over the epochs
    <store>/leases/<run_id>.json              who is doing the run right now
    <store>/checkpoints/<run_id>.safetensors  where a long run can be taken up again; gone once it has a record
                        <run_id>.shards/      its weights in pieces, where several processes held them so
    <store>/quarantine/                       files that could not be read, set aside

A record is the last thing that a run writes: where there is one, the run is finished.
"""

import gzip
import hashlib
import json
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from mmpeft import leases
from mmpeft.errors import MmpeftError, RunFailed
from mmpeft.files import belonging, forget_checkpoint, pack, waiting, write_whole
from mmpeft.plan import Planned
from mmpeft.spec import RunSpec

PREDICTION_COLUMNS = ("example_id", "picture_id", "prediction", "answers", "score", "parsed")

TRACKED_COLUMNS = ("task", "example_id", "picture_id", "epoch", "prediction", "score")

ROW_COLUMNS = (
    *("run_id", "status", "model", "task", "column", "seen", "method", "label", "location", "connector"),
    *("learning_rate", "connector_learning_rate", "seed", "split", "score", "unparsed", "error"),
)
"""The columns every table of records has, in this order; scores, cost and the other settings follow."""

WORK_SECONDS = ("train_seconds", "eval_seconds", "track_seconds")
"""What a worker's time went into, by the names in a record's cost."""


class Checkpoint(BaseModel):
    """What a run scored on one task at one moment of its training.

    Attributes:
        epoch: Passes over the training subset so far; 0 is before training.
        step: Optimizer steps so far.
        task: Which task it was asked.
        split: Of that task.
        num_examples: How many of them.
        scores: As those of a record; ``loss`` is the mean cross-entropy of the answers' tokens, of the run's own task.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    epoch: int
    step: int
    task: str
    split: str
    num_examples: int
    scores: dict[str, float]


class Outcome(NamedTuple):
    """What a run comes back with.

    Attributes:
        record: The record.
        predictions: One mapping an example with the keys of PREDICTION_COLUMNS; none for a failed run.
        tracked: One mapping an example of a task asked on the way: task, example_id, picture_id, and lists with one
            prediction and one score for each epoch of the record's track.
    """

    record: "Record"
    predictions: Sequence[Mapping[str, Any]] = ()
    tracked: Sequence[Mapping[str, Any]] = ()


class Record(BaseModel):
    """What one run leaves behind.

    Attributes:
        schema_version: Written as ``schema``; grows when a field changes its meaning.
        run_id: The file's name.
        status: A failed run is a record too, with its error.
        spec: All settings, defaults included.
        task_version: Version of the task's data, prompt and metric.
        fingerprint: Hash of the base model's weights.
        scores: Fractions 0–1: ``score``, the task's main metric, ``unparsed``, and others.
        cost: trainable_params, total_params, train_seconds, eval_seconds, examples_per_second,
            peak_memory_bytes, adapter_bytes.
        curve: Training loss as (step, loss), to five digits; None where it was not finite.
        track: What it scored on the way, in the order of epochs and tasks.
        contract: What the run proved about itself.
        environment: git_commit, git_dirty, python, torch, transformers, peft, accelerate, device, threads.
        started_at: UTC, ISO 8601.
        error: Why it failed, in one line.
        predictions_sha256: Of the predictions file that belongs to this record; set when saved.
        tracked_sha256: Of the file with the predictions made on the way; set when saved.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        serialize_by_alias=True,
    )

    schema_version: int = Field(default=1, alias="schema")
    run_id: str
    status: Literal["ok", "failed"]
    spec: RunSpec
    task_version: int
    fingerprint: str
    scores: dict[str, float] = {}
    cost: dict[str, int | float | None] = {}
    curve: list[tuple[int, float | None]] = []
    track: list[Checkpoint] = []
    contract: dict[str, JsonValue] = {}
    environment: dict[str, JsonValue] = {}
    started_at: str
    error: str | None = None
    predictions_sha256: str | None = None
    tracked_sha256: str | None = None

    @field_validator("curve", mode="before")
    @classmethod
    def _written_to_five_digits(cls, curve: Any) -> Any:
        """JSON has no NaN, and the curve of a run that failed for one is worth keeping: None stands for what is not finite."""

        def written(loss: Any) -> Any:
            return (round(loss, 5) if isfinite(loss) else None) if isinstance(loss, float) else loss

        return [(step, written(loss)) for step, loss in curve]

    @classmethod
    def failure(cls, planned: Planned, error: str, started_at: str, found: RunFailed | None = None) -> "Record":
        """The record of a run that ended in an error, with what was found out until then."""
        return cls(
            curve=found.curve if found else [],
            contract=_without_nan(found.contract) if found else {},
            run_id=planned.run_id,
            status="failed",
            spec=planned.spec,
            task_version=planned.task_version,
            fingerprint=planned.fingerprint,
            started_at=started_at,
            error=error,
        )

    def to_json(self) -> str:
        """The file's text: one line a field, so that differences read well."""
        fields = self.model_dump(mode="json")
        lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, None for a number that JSON cannot write."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}


def utc_now() -> str:
    """The time as records write it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class CorruptedRecord(UserWarning):
    """A record or predictions file could not be read; it was set aside and the run counts as missing."""


class Store:
    """A folder of records, shared by any number of readers and writers.

    Args:
        path: The folder; empty means a temporary one that lasts as long as this object.
    """

    def __init__(self, path: str | Path) -> None:
        if not str(path):
            path = tempfile.mkdtemp(prefix="mmpeft-")
            weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        self.path = Path(path)

    def record_path(self, run_id: str) -> Path:
        """Where the record of this run lies, or would lie."""
        return self.path / "records" / f"{run_id}.json"

    def predictions_path(self, run_id: str) -> Path:
        """Where the predictions of this run lie, or would lie."""
        return self.path / "predictions" / f"{run_id}.jsonl.gz"

    def tracked_path(self, run_id: str) -> Path:
        """Where the predictions that this run made on the way lie, or would lie."""
        return self.path / "predictions" / f"{run_id}.track.jsonl.gz"

    def checkpoint_path(self, run_id: str) -> Path:
        """Where the training state of this run lies, or would lie, while it is being made."""
        return self.path / "checkpoints" / f"{run_id}.safetensors"

    def checkpoints(self) -> list[Path]:
        """The training states of runs that were stopped."""
        return sorted(self.checkpoint_path("").parent.glob("*.safetensors"))

    def save(
        self, record: Record, predictions: Iterable[Mapping[str, Any]] = (), tracked: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Write record and predictions; a kill at any moment leaves the old or the new, never a mixture.

        The new predictions wait beside the old ones until the record that belongs to them is there.

        Args:
            record: The finished run.
            predictions: As in Outcome.
            tracked: As in Outcome.
        """
        files = {self.predictions_path(record.run_id): pack(predictions), self.tracked_path(record.run_id): pack(tracked)}
        digests = [hashlib.sha256(packed).hexdigest() if packed else None for packed in files.values()]
        record = record.model_copy(update={"predictions_sha256": digests[0], "tracked_sha256": digests[1]})
        for path, packed in files.items():
            if packed:
                write_whole(waiting(path), packed)
        write_whole(self.record_path(record.run_id), record.to_json().encode())
        for path, packed in files.items():
            if packed:
                waiting(path).replace(path)
        if record.status == "ok":  # a failed run may be taken up again where it was
            forget_checkpoint(self.checkpoint_path(record.run_id))

    def load(self, run_id: str) -> Record | None:
        """The record of this run, or None; one that cannot be read is set aside with a warning."""
        return self._read(self.record_path(run_id))

    def has(self, run_id: str) -> bool:
        """Whether the run left a record, ok or failed."""
        return self.record_path(run_id).exists()

    def forget_failed(self, run_id: str) -> None:
        """Remove the record if it is a failure and nobody is at the run, so that it counts as missing."""
        with self.claim(run_id) as mine:
            if mine and (record := self.load(run_id)) and record.status == "failed":
                self.record_path(run_id).unlink(missing_ok=True)

    def missing(self, planned: Sequence[Planned]) -> list[Planned]:
        """The planned runs without a record; a failed run is not missing."""
        return [run for run in planned if self.load(run.run_id) is None]

    def failed(self, planned: Sequence[Planned]) -> list[Planned]:
        """The planned runs that failed."""
        return [run for run in planned if (record := self.load(run.run_id)) and record.status == "failed"]

    def status(self, planned: Sequence[Planned]) -> dict[str, int]:
        """How far a plan is: ``{planned, done, failed}``."""
        states = [record.status for run in planned if (record := self.load(run.run_id))]
        return {"planned": len(planned), "done": states.count("ok"), "failed": states.count("failed")}

    def records(self, planned: Sequence[Planned] | None = None) -> list[Record]:
        """The records there are, failed ones included.

        Args:
            planned: Only of these runs, in this order; without it, every record of the store.
        """
        if planned is None:
            found = [self._read(path) for path in sorted((self.path / "records").glob("*.json"))]
        else:
            found = [self.load(run.run_id) for run in planned]
        return [record for record in found if record]

    def collect(self, planned: Sequence[Planned] | None = None) -> pd.DataFrame:
        """One row a run, failed ones included: settings, scores (0–1) and cost.

        Args:
            planned: As for :meth:`records`.
        """
        rows = [row_of(record) for record in self.records(planned)]
        columns = dict.fromkeys([*ROW_COLUMNS, *(name for row in rows for name in row)])
        return pd.DataFrame(rows, columns=pd.Index(list(columns)))

    def predictions(self, run_id: str) -> pd.DataFrame:
        """One row an example: example_id, picture_id, prediction, answers, score, parsed.

        Raises:
            MmpeftError: The run has no record, it failed, or its predictions are lost or damaged; in the last
                case record and predictions are set aside, so that the next sweep makes the run again.
        """
        lines = self._lines(run_id, self.predictions_path(run_id), "predictions")
        return pd.DataFrame(lines, columns=pd.Index(dict.fromkeys([*PREDICTION_COLUMNS, *lines[0]])))

    def tracked(self, run_id: str) -> pd.DataFrame:
        """One row an example and an epoch of what a run was asked on the way, with the columns TRACKED_COLUMNS.

        Raises:
            MmpeftError: As for :meth:`predictions`, or the run was asked nothing.
        """
        epochs = self._epochs(run_id)
        rows = [
            (line["task"], line["example_id"], line["picture_id"], epoch, prediction, score)
            for line in self.tracked_lines(run_id)
            for epoch, prediction, score in zip(epochs, line["predictions"], line["scores"], strict=True)
        ]
        return pd.DataFrame(rows, columns=pd.Index(TRACKED_COLUMNS))

    def tracked_lines(self, run_id: str) -> list[dict[str, Any]]:
        """The same as it is stored: one mapping an example, see Outcome.

        Raises:
            MmpeftError: As for :meth:`tracked`.
        """
        return self._lines(run_id, self.tracked_path(run_id), "tracked")

    def _epochs(self, run_id: str) -> list[int]:
        record = self.load(run_id)
        return list(dict.fromkeys(point.epoch for point in record.track)) if record else []

    def _lines(self, run_id: str, path: Path, kind: Literal["predictions", "tracked"]) -> list[dict[str, Any]]:
        """The lines of one of a record's files; set aside with the record if they are not its own."""
        what = "predictions" if kind == "predictions" else "tracked predictions"
        for _ in range(2):  # between two looks a writer may move the file to its place, or replace the record
            record = self.load(run_id)
            digest = getattr(record, f"{kind}_sha256", None)
            if record is None or digest is None:
                reason = "it has no record" if record is None else record.error or "its record came without any"
                raise MmpeftError(f"no {what} of run {run_id}: {reason}.")
            if packed := belonging(path, digest):
                return [json.loads(line) for line in gzip.decompress(packed).splitlines()]
        for each in (path, self.record_path(run_id)):
            self._set_aside(each, f"the {what} are not those of the record")
        raise MmpeftError(f"the {what} of run {run_id} are lost or damaged; the run counts as missing now.")

    def claim(
        self,
        run_id: str,
        *,
        heartbeat_seconds: float = leases.HEARTBEAT_SECONDS,
        expiry_seconds: float = leases.EXPIRY_SECONDS,
    ) -> AbstractContextManager[bool]:
        """A context in which this process alone does the run: True, or False if another one is doing it.

        Args:
            run_id: The run.
            heartbeat_seconds: Time between two signs of life.
            expiry_seconds: After this long without one, the holder counts as dead.
        """
        path = self.path / "leases" / f"{run_id}.json"
        return leases.lease(path, heartbeat_seconds=heartbeat_seconds, expiry_seconds=expiry_seconds)

    def held(self, run_id: str) -> bool:
        """Whether somebody alive holds the run right now."""
        return leases.held(self.path / "leases" / f"{run_id}.json")

    def sign_of_life(self, run_id: str) -> float | None:
        """When whoever holds the run last gave a sign of life, see :func:`mmpeft.leases.sign_of_life`."""
        return leases.sign_of_life(self.path / "leases" / f"{run_id}.json")

    def held_by(self, pid: int) -> list[str]:
        """The runs that a process of this host holds, or held when it died."""
        here = leases.this_host()
        held = {path.stem: leases.holder(path) for path in sorted((self.path / "leases").glob("*.json"))}
        return [run_id for run_id, lease in held.items() if lease.get("pid") == pid and lease.get("host") == here]

    def quarantined(self) -> list[str]:
        """The names of the files that were set aside."""
        return sorted(path.name for path in (self.path / "quarantine").glob("*"))

    def _read(self, path: Path) -> Record | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            record = Record.model_validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            self._set_aside(path, f"{field}: {first['msg']}" if field else first["msg"], content)
            return None
        if record.run_id != path.stem:
            self._set_aside(path, f"it says that it is run {record.run_id}", content)
            return None
        return record

    def _set_aside(self, path: Path, reason: str, content: bytes | None = None) -> None:
        """Move a file to the quarantine and say so; put it back if it was mended since it was read."""
        folder = self.path / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{path.name}.{time.time_ns()}"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if content is not None and aside.read_bytes() != content:
            aside.rename(path)
            return
        warnings.warn(
            f"{path.parent.name}/{path.name} is corrupted ({reason}); moved to {aside}; the run counts as missing.",
            CorruptedRecord,
            stacklevel=4,
        )


def worker_hours(records: Iterable[Record]) -> float:
    """The hours that workers spent training, evaluating and asking on the way; of a failed run none are known."""
    return sum(record.cost.get(part) or 0.0 for record in records for part in WORK_SECONDS) / 3600


def row_of(record: Record) -> dict[str, Any]:
    """The record as one flat row: a method's fields keep their names, train's and eval's are prefixed."""
    from mmpeft.tasks import TASKS

    spec, task = record.spec, TASKS.get(record.spec.task)
    train, evaluation = spec.train.model_dump(), spec.eval.model_dump()
    return {
        "run_id": record.run_id,
        "status": record.status,
        "model": spec.model,
        "task": spec.task,
        "column": task.column if task else None,
        "seen": task.seen if task else None,
        "method": spec.method.name,
        "label": spec.method.label,
        "location": spec.location,
        "connector": "tuned" if spec.connector.tuned else "frozen",
        "learning_rate": train.pop("learning_rate"),
        "connector_learning_rate": spec.connector.learning_rate,
        "seed": spec.seed,
        "split": evaluation.pop("split"),
        **record.scores,
        "error": record.error,
        **{name: value for name, value in spec.method.model_dump().items() if name != "name"},
        **{f"train_{name}": value for name, value in train.items()},
        **{f"eval_{name}": value for name, value in evaluation.items()},
        **record.cost,
        "device": record.environment.get("device"),
        "git_commit": record.environment.get("git_commit"),
        "started_at": record.started_at,
    }
