"""What each method costs: parameters, bytes, seconds, memory; from records and from one measurement on one machine.

Runs of a sweep share a machine with others, so their seconds say little. ``benchmarks/efficiency.py`` measures all rows in
one process, in alternating rounds, and leaves ``<store>/efficiency/<model>.json``. Here it is read. A ratio is taken
within a round, where both rows meet the same machine, and told as the median over rounds with the least and the largest.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mmpeft.calc import costed, sizes_of
from mmpeft.entry import Location
from mmpeft.errors import MmpeftError
from mmpeft.files import write_whole
from mmpeft.methods import METHODS
from mmpeft.records import Store
from mmpeft.registry import known_dims
from mmpeft.spec import AnyMethod, Part
from mmpeft.study.comparison import Results
from mmpeft.study.differences import counted
from mmpeft.study.flops import training
from mmpeft.study.report import DASH, Prose, Table, listed, to_html

REFERENCE = "lora"
Cost = Literal["step_seconds", "generate_seconds", "peak_memory_bytes"]
COSTS: dict[Cost, str] = {
    "step_seconds": "seconds of a training step",
    "generate_seconds": "seconds of generation",
    "peak_memory_bytes": "memory added by training",
}


class Row(Part):
    """A row of a measurement: which configuration.

    Attributes:
        method: The method with its fields.
        location: Where it sits.
        connector_tuned: Whether the connector trains too.
    """

    method: AnyMethod
    location: Location
    connector_tuned: bool

    @property
    def detail(self) -> str:
        """The size that tells rows of one method apart, ``r 16``."""
        field = self.method.size_field
        return f"{field} {getattr(self.method, field)}" if field else ""

    @property
    def name(self) -> str:
        """``LoRA (r 16)``."""
        return f"{self.method.label} ({self.detail})" if self.detail else self.method.label


class Measured(Row):
    """What one row costs.

    Attributes:
        trainable_params: Trained numbers.
        stored_params: Numbers needed beside the base afterwards.
        adapter_bytes: Of the file that holds them.
        step_seconds: One a round: of a training step; empty for what trains nothing.
        generate_seconds: One a round: of the generation of ``num_new_tokens`` tokens for one picture.
        peak_memory_bytes: One a fresh process: how far training lifted the process's largest resident size.
    """

    trainable_params: int
    stored_params: int
    adapter_bytes: int
    step_seconds: list[float]
    generate_seconds: list[float]
    peak_memory_bytes: list[int]


class Series(BaseModel):
    """What every file of measurements says.

    Attributes:
        schema_version: Written as ``schema``.
        model: The base.
        settings: How it was measured.
        environment: As in a record.
        measured_at: UTC, ISO 8601.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )

    schema_version: int = Field(default=1, alias="schema")
    model: str
    settings: dict[str, JsonValue]
    environment: dict[str, JsonValue]
    measured_at: str

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_whole(path, (self.model_dump_json(indent=1, by_alias=True) + "\n").encode())


AnySeries = TypeVar("AnySeries", bound=Series)


class Measurement(Series):
    """All rows measured on one machine, one after another.

    The settings are batch_size, num_tokens (of a training step), num_new_tokens, num_rounds, steps_a_round and task; the
    environment has the processor's name.

    Attributes:
        fingerprint: Of the base's weights.
        total_params: Of the whole model.
        rows: What was measured, the untrained base first.
    """

    fingerprint: str
    total_params: int
    rows: list[Measured]

    @property
    def reference(self) -> Measured:
        """The row that others are compared with: LoRA at its size in the comparison of methods, else the first LoRA."""
        rows = [row for row in self.rows if row.method.name == REFERENCE and not row.connector_tuned]
        if not rows:
            raise MmpeftError(f"efficiency: no {METHODS[REFERENCE].label} among the rows of {self.model}; measure it.")
        default = METHODS[REFERENCE].model_fields["r"].default
        return next((row for row in rows if getattr(row.method, "r", None) == default), rows[0])


def path_of(store: Store, model: str) -> Path:
    """Where the measurement of a model lies, or would lie."""
    return store.path / "efficiency" / f"{model}.json"


def load(store: Store, model: str) -> Measurement | None:
    """The measurement of a model, or None if there is none.

    Raises:
        MmpeftError: The file cannot be read.
    """
    return read(path_of(store, model), Measurement, "python benchmarks/efficiency.py")


def read(path: Path, kind: type[AnySeries], command: str) -> AnySeries | None:
    """The measurements in a file, or None if there is no file.

    Args:
        path: The file.
        kind: What it holds.
        command: Makes it anew.

    Raises:
        MmpeftError: The file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MmpeftError(f"{path.name}: {where}: {first['msg']}; measure again: {command}.") from None


def ratios(measurement: Measurement, row: Measured, cost: Cost) -> list[float]:
    """The row's cost over the reference's, round by round; empty where one of them has none."""
    mine, other = getattr(row, cost), getattr(measurement.reference, cost)
    return [a / b for a, b in zip(mine, other, strict=False) if b > 0]


def provenance(measurement: Measurement | None) -> Prose:
    """What was measured, where and when, in a line."""
    if measurement is None:
        return Prose("**Nothing was measured here yet.** `python benchmarks/efficiency.py` measures it.")
    e, s = measurement.environment, measurement.settings
    return Prose(
        f"**{len(measurement.rows)} rows measured one after another** · model {measurement.model} · {e.get('processor')} · "
        f"{e.get('threads')} thread{'' if e.get('threads') == 1 else 's'} · torch {e.get('torch')} · "
        f"{s.get('num_rounds')} rounds of {s.get('steps_a_round')} steps of {s.get('batch_size')} examples · "
        f"commit {e.get('git_commit')} · {measurement.measured_at[:10]}"
    )


def costs_table(measurement: Measurement | None) -> Table:
    """A row a method and size: how many numbers, bytes, whether it merges, and its costs as multiples of the reference's."""
    if measurement is None:
        return Table(pd.DataFrame(), "<p>Nothing was measured yet.</p>")
    rows, shown = [], []
    for row in measurement.rows:
        found = {cost: ratios(measurement, row, cost) for cost in COSTS}
        medians: dict[str, Any] = {cost: float(np.median(values)) if values else math.nan for cost, values in found.items()}
        rows.append(
            {
                "method": row.method.label,
                "size": row.detail,
                "trained": row.trainable_params,
                "stored": row.stored_params,
                "bytes": row.adapter_bytes,
                "mergeable": row.method.mergeable,
                **medians,
            }
        )
        shown.append(
            {
                "method": row.name,
                "trained": f"{row.trainable_params:,}",
                "stored": f"{row.stored_params:,}",
                "bytes": f"{row.adapter_bytes:,}",
                "merges": _merges(row),
                **{f"{words}, of LoRA's": spread(values) for words, values in zip(COSTS.values(), found.values(), strict=True)},
            }
        )
    return Table(pd.DataFrame(rows), to_html(pd.DataFrame(shown), index=False, fitted=True))


def _merges(row: Measured) -> str:
    """Whether the weights can be folded into the base; what trains the base's own weights has nothing to fold."""
    if not row.method.trains or row.method.name in ("full", "connector"):
        return "is the base"
    return "yes" if row.method.mergeable else "no"


def spread(values: Sequence[float]) -> str:
    """The median of ratios with the least and the largest below it."""
    if not values:
        return DASH
    return f"{np.median(values):.2f}<small>{min(values):.2f} to {max(values):.2f}</small>"


def finding(measurement: Measurement | None, cost: Cost) -> Prose:
    """Which methods cost more than the reference, and which less, in every round."""
    if measurement is None:
        return Prose(f"Not measured yet: {COSTS[cost]}.")
    found = {
        row.name: values
        for row in measurement.rows
        if row != measurement.reference and (values := ratios(measurement, row, cost))
    }
    if not found:
        return Prose(f"Not measured yet: {COSTS[cost]}.")
    above = [f"{name} ({np.median(v):.2f})" for name, v in found.items() if min(v) > 1]
    below = [f"{name} ({np.median(v):.2f})" for name, v in found.items() if max(v) < 1]
    parts = [f"more than {measurement.reference.name} in every round: {listed(above)}"] if above else []
    parts += [f"less in every round: {listed(below)}"] if below else []
    rest = len(found) - len(above) - len(below)
    parts += [f"not the same in every round: the other {rest if rest > 1 else 'one'}"] if rest else []
    return Prose(f"As multiples of {measurement.reference.name}, {COSTS[cost]}: {'; '.join(parts)}.")


def counts_table(results: Results) -> Table:
    """What the records say of each row: trained and stored numbers, bytes on disk, share of the model; first seed and task."""
    dims = known_dims(results.question.model)
    rows = []
    for variant, planned in results.variants.items():
        done = results.runs[results.runs["run_id"].isin([run.run_id for run in planned]) & (results.runs["status"] == "ok")]
        method = planned[0].spec.method
        first: dict[str, Any] = done.iloc[0].to_dict() if len(done) else {}
        size = f"{method.size_field} {getattr(method, method.size_field)}" if method.size_field else ""
        adds = method.name not in ("full", "connector") and not planned[0].spec.connector.tuned
        stored = method.num_stored(dims, planned[0].spec.location) if dims and adds else first.get("trainable_params")
        rows.append(
            (variant.label, size, first.get("trainable_params"), stored, first.get("total_params"), first.get("adapter_bytes"))
        )
    frame = pd.DataFrame(rows, columns=["method", "size", "trained", "stored", "in all", "bytes on disk"])
    frame["trained, share"] = frame["trained"].astype(float) / frame["in all"].astype(float)
    shown = frame.drop(columns="trained, share").astype(object)
    for name in ("trained", "stored", "in all", "bytes on disk"):
        shown[name] = [DASH if value is None or pd.isna(value) else f"{int(value):,}" for value in shown[name]]
    shown["trained (%)"] = [DASH if math.isnan(value) else f"{100 * value:.2f}" for value in frame["trained, share"]]
    return counted(Table(frame, to_html(shown, index=False)), results)


def formula_finding(measurement: Measurement | None) -> Prose:
    """Whether the paper's count puts the rows in the order in which they stand on a clock, pair by pair."""
    if measurement is None:
        return Prose("Nothing was measured yet.")
    operations = dict(formula_table(measurement).frame[["method", "operations of a step"]].itertuples(index=False))
    clocked = {row.name: ratios(measurement, row, "step_seconds") for row in measurement.rows if row.name in operations}
    agreeing = []
    for one, other in combinations(clocked, 2):
        sides = {math.copysign(1, a - b) for a, b in zip(clocked[one], clocked[other], strict=True)}
        if len(sides) == 1:
            agreeing.append(sides == {math.copysign(1, operations[one] - operations[other])})
    if not agreeing:
        return Prose("No two rows differ the same way in every round, so that the formula cannot be judged.")
    answer = "puts the methods" if all(agreeing) else "does not put the methods"
    pairs = f"of {len(agreeing)} pairs of rows whose times differ the same way in every round, {sum(agreeing)} stand in its order"
    return Prose(f"The paper's formula {answer} in the order of the clock: {pairs}.")


def formula_table(measurement: Measurement | None) -> Table:
    """The paper's count of a training step for our own rows, as a multiple of the reference's, beside the measured one.

    A step reads cached vision features, so the vision encoder's parameters are left out where they are known.
    """
    if measurement is None:
        return Table(pd.DataFrame(), "<p>Nothing was measured yet.</p>")
    tokens = float(str(measurement.settings["num_tokens"]))
    idle = sizes_of(measurement.model).vision_encoder if measurement.model in costed() else 0

    def count(row: Measured) -> float:
        used = measurement.total_params - idle
        return training(used - row.trainable_params if row.method.name == "full" else used, row.trainable_params, tokens)

    reference = count(measurement.reference)
    rows = []
    for row in measurement.rows:
        values = ratios(measurement, row, "step_seconds")
        if values:
            rows.append((row.name, count(row), count(row) / reference, float(np.median(values))))
    frame = pd.DataFrame(rows, columns=["method", "operations of a step", "by the formula, of LoRA's", "measured, of LoRA's"])
    shown = frame.assign(**{"operations of a step": frame["operations of a step"].map("{:.2e}".format)}).round(2)
    return Table(frame, to_html(shown, index=False))
