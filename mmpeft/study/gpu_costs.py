"""What training and answering cost on a GPU: measured on the card, beside what the calculator says of the same.

`benchmarks/gpu_cost.py` leaves one file a device and model in ``results/costs``. The calculator is asked anew for each page,
so that a better one is compared with the same measurements. Its seconds are the planner's: operations over the speed on the
card's sheet and the share of it that is assumed (`USED_SHARE`); a device without a sheet counts with its measured peak.
"""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from mmpeft.calc import GIB, Setup, Shape, Sizes, answering_memory, forward_flops, step_flops, step_memory
from mmpeft.gpus import GPUS, HEADROOM_RATIO, USED_SHARE
from mmpeft.plan import project_root
from mmpeft.spec import Part
from mmpeft.study.efficiency import Row, Series, read
from mmpeft.study.report import DASH, THIN, Prose, Table, listed, percent, to_html

FOLDER = "results/costs"
COMMAND = "python benchmarks/gpu_cost.py --model llava-1.5-7b"

NOTE = (
    "Medians; below them what the calculator says. Tokens are those of pictures, texts and padding. The peak is that of large "
    "matrix products on the same card. The largest batch goes through in one pass; ≥: more was not tried. Answers wait for "
    "the first token, then come at so many tokens a second, those of a batch together."
)


class Answering(Part):
    """Answers to one batch of prompts; no seconds where it does not fit.

    Attributes:
        batch_size: Examples answered at once.
        first_token_seconds: One a repetition: reading the prompts, up to the first token of each answer.
        token_seconds: One a repetition: each further token of all answers.
        peak_memory_bytes: Of the device.
    """

    batch_size: int
    first_token_seconds: list[float]
    token_seconds: list[float]
    peak_memory_bytes: int


class Cost(Row):
    """What one configuration costs.

    Attributes:
        trainable_params: Trained numbers.
        batch_size: Examples of a measured step, all in one pass; 0 where nothing trains or not even one example fits.
        step_seconds: One a step.
        peak_memory_bytes: Of the device, in these steps.
        largest_batch: The most examples in one pass that fit, up to the settings' ``most``; None where nothing trains.
        answering: For one prompt, and for as many as a run asks at once.
        error: Why there is nothing; empty where there is something.
        measured_at: UTC, ISO 8601.
        git_commit: Of the code that measured.
    """

    trainable_params: int = 0
    batch_size: int = 0
    step_seconds: list[float] = Field(default_factory=list)
    peak_memory_bytes: int = 0
    largest_batch: int | None = None
    answering: list[Answering] = Field(default_factory=list)
    error: str = ""
    measured_at: str = ""
    git_commit: str | None = None


class GpuCosts(Series):
    """All rows of a model on a device.

    Attributes:
        device: The driver's name for it.
        memory_bytes: Of the device.
        matrix_flops: Operations a second of its fastest large bf16 matrix product, measured.
        sizes: Of the model, as the calculator knows it.
        shape: Of the sequences.
        rows: What was measured.
    """

    device: str
    memory_bytes: int
    matrix_flops: float
    sizes: Sizes
    shape: Shape
    rows: list[Cost]

    @property
    def sheet(self) -> str | None:
        """The name of the device's sheet: ``NVIDIA A100-SXM4-80GB`` has that of ``a100-80``; None where there is none.

        The sheets of H100 and H200 are those of the SXM cards.
        """
        words = {word.removesuffix("gb") for word in re.findall("[a-z0-9]+", self.device.lower())}
        if words & {"pcie", "nvl"} and not words & {"a100"}:
            return None
        return next((name for name in GPUS if set(name.split("-")) <= words), None)

    @property
    def flops(self) -> float:
        """The speed that a share is taken of: the sheet's, else the measured one."""
        return GPUS[self.sheet].flops if self.sheet else self.matrix_flops

    @property
    def prompt(self) -> Shape:
        """Of the sequences without their answers."""
        return Shape(self.shape.num_tokens - self.shape.num_answer_tokens + 1, 1)

    def setup(self, row: Cost) -> Setup:
        """A row's configuration as the calculator knows it."""
        half = self.settings["precision"] == "bf16"
        return Setup(self.sizes, row.method, row.location, row.connector_tuned, half)


def path_of(folder: Path, device: str, model: str) -> Path:
    """Where the costs of a model on a device lie, or would lie."""
    return folder / f"{model}_{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def load(path: Path) -> GpuCosts | None:
    """The costs in a file, or None if there is no file.

    Raises:
        MmpeftError: The file cannot be read.
    """
    return read(path, GpuCosts, COMMAND)


def load_all(folder: str = FOLDER) -> list[GpuCosts]:
    """Everything measured, by the names of the files; empty if nothing was.

    Args:
        folder: From the project's root.
    """
    paths = sorted(((project_root() or Path.cwd()) / folder).glob("*.json"))
    return [found for path in paths if (found := load(path))]


def provenance(measured: Sequence[GpuCosts]) -> Prose:
    """What was measured, where and when, in a line each; or that nothing was."""
    if not measured:
        return Prose(f"**Nothing has been measured on a GPU yet.** `{COMMAND}` does it, row by row.")
    return Prose("\n\n".join(_provenance(each) for each in measured))


def _provenance(costs: GpuCosts) -> str:
    s, e = costs.settings, costs.environment
    commits = dict.fromkeys(row.git_commit or "unknown" for row in costs.rows)
    return (
        f"**{costs.model}, random weights**, {len(costs.rows)} of {s['num_rows']} rows · {costs.device}, "
        f"{costs.memory_bytes / GIB:.0f} GiB, {costs.matrix_flops / 1e12:.3g} TFLOP/s in large matrix products · "
        f"sizes of the scale {s['scale']}, {s['precision']}, {costs.shape.num_tokens} tokens a sequence as in {s['task']} · "
        f"torch {e.get('torch')}, transformers {e.get('transformers')}, peft {e.get('peft')} · "
        f"commit {listed(commits)} · {costs.measured_at[:10]}"
    )


def compared(costs: GpuCosts) -> pd.DataFrame:
    """One row a configuration: medians of what was measured, and the calculator's value; missing where there is none.

    Columns in ``computed_…`` are the calculator's. Shares are fractions: ``share_of_peak`` of the measured matrix peak,
    ``used_share`` of the speed that the planner counts with.
    """
    return pd.DataFrame([_compared(costs, row) for row in costs.rows])


def _compared(costs: GpuCosts, row: Cost) -> dict[str, Any]:
    setup, size = costs.setup(row), row.batch_size
    found: dict[str, Any] = {
        "row": row,
        "method": row.name,
        "location": row.location if row.method.has_location else DASH,
        "connector": "tuned" if row.connector_tuned else "frozen",
        "largest": row.largest_batch,
        "error": row.error,
    }
    if row.step_seconds:
        seconds, flops = float(np.median(row.step_seconds)), step_flops(setup, size, costs.shape)
        found |= {
            "seconds": seconds,
            "computed_seconds": flops / (costs.flops * USED_SHARE),
            "tokens_per_second": size * costs.shape.num_tokens / seconds,
            "share_of_peak": flops / seconds / costs.matrix_flops,
            "used_share": flops / seconds / costs.flops,
            "bytes": row.peak_memory_bytes,
            "computed_bytes": step_memory(setup, size, costs.shape).total,
        }
    if row.largest_batch is not None:
        memory = GPUS[costs.sheet].memory_bytes if costs.sheet else costs.memory_bytes
        sizes, limit = range(int(str(costs.settings["most"])), 0, -1), memory * HEADROOM_RATIO
        fitting = (size for size in sizes if step_memory(setup, size, costs.shape).total <= limit)
        found["computed_largest"] = next(fitting, 0)
    return found


def table(measured: Sequence[GpuCosts]) -> Table | None:
    """A row a configuration, the calculator's value below the measured one; None where nothing was measured."""
    frames = [compared(each).assign(model=each.model, device=each.device) for each in measured]
    if not frames:
        return None
    parts = []
    for costs, frame in zip(measured, frames, strict=True):
        shown = pd.DataFrame([_shown(costs, found) for found in frame.to_dict("records")]).fillna(DASH)
        parts.append(f"<p>{costs.model} on {costs.device}</p>{to_html(shown, index=False)}")
    parts.append(f"<p>{NOTE}</p>")
    return Table(pd.concat(frames).drop(columns="row"), "".join(parts))


def _shown(costs: GpuCosts, found: dict[str, Any]) -> dict[str, str]:
    """A row for the reader."""
    row: Cost = found["row"]

    def cell(name: str, form: str, divisor: float = 1.0) -> str:
        value, computed = (float(found.get(key, np.nan)) / divisor for key in (name, f"computed_{name}"))
        small = f"<small>computed {computed:{form}}</small>" if np.isfinite(computed) else ""
        return f"{value:{form}}{small}" if np.isfinite(value) else DASH

    largest = f"≥{THIN}" if row.largest_batch == costs.settings["most"] else ""
    shown = {
        "method": f"{row.name}<small>{escape(row.error)}</small>" if row.error else row.name,
        "location": found["location"],
        "connector": found["connector"],
        "examples a step": str(row.batch_size or DASH),
        "seconds a step": cell("seconds", ".3f"),
        "tokens a second": cell("tokens_per_second", ",.0f"),
        "of the peak (%)": percent(found["share_of_peak"], 0) if row.step_seconds else DASH,
        "peak (GiB)": cell("bytes", ".1f", GIB),
        "largest batch": DASH if row.largest_batch is None else f"{largest}{cell('largest', '.0f')}",
    }
    for each in row.answering:
        shown |= _answering(costs, row, each)
    return shown


def _answering(costs: GpuCosts, row: Cost, answering: Answering) -> dict[str, str]:
    """The cells of one batch of answers: milliseconds to the first token, tokens a second."""
    size, names = answering.batch_size, ("first token (ms)", "tokens a second")
    first, later = (f"{size} answer{'s' if size > 1 else ''}: {name}" for name in names)
    if not answering.token_seconds:
        return {first: "does not fit", later: DASH}
    seconds, token = np.median(answering.first_token_seconds), np.median(answering.token_seconds)
    reading = forward_flops(costs.setup(row), size, costs.prompt) / (costs.flops * USED_SHARE)
    weights = costs.sizes.total * (2 if costs.setup(row).half else 4)
    written = f"<small>computed {size * GPUS[costs.sheet].bandwidth / weights:,.0f}</small>" if costs.sheet else ""
    return {
        first: f"{1000 * seconds:,.0f}<small>computed {1000 * reading:,.0f}</small>",
        later: f"{size / token:,.0f}{written}",
    }


def finding(measured: Sequence[GpuCosts]) -> Prose | None:
    """How far the calculator was off, and which share of the speed was reached; None where nothing was measured."""
    said = [_finding(each) for each in measured]
    return Prose("\n\n".join(said)) if said else None


def _finding(costs: GpuCosts) -> str:
    found = compared(costs)
    trained = found[found["seconds"].notna()] if "seconds" in found else found[:0]
    failed = [f"{row.name}: {row.error}" for row in costs.rows if row.error]
    too_large = [f"{each['method']}, {each['connector']}" for _, each in found.iterrows() if each["row"].largest_batch == 0]
    parts = [f"**{costs.model} on {costs.device}.**"]
    if len(trained):
        reached, used = trained["share_of_peak"], trained["used_share"]
        of = f"the {costs.sheet}'s {costs.flops / 1e12:.0f} TFLOP/s" if costs.sheet else "the measured peak"
        parts += [
            f"Training reached {percent(reached.median(), 0)}{THIN}% of the measured matrix peak in the median row "
            f"({percent(reached.min(), 0)} to {percent(reached.max(), 0)}).",
            f"The calculator was off by {_off(trained, 'bytes')} in peak memory{_answers_off(costs)}, and by "
            f"{_off(trained, 'seconds')} in the seconds of a step, for which it assumes {percent(USED_SHARE, 0)}{THIN}% of {of}; "
            f"measured were {percent(used.median(), 0)}{THIN}%: `--used-share {used.median():.2g}`.",
        ]
    parts += [f"Not even one example fits with {listed(dict.fromkeys(too_large))}."] if too_large else []
    parts += [f"Failed: {'; '.join(failed)}."] if failed else []
    return " ".join([*parts, "The weights were random: what a step costs does not depend on their values."])


def _off(found: pd.DataFrame, name: str) -> str:
    """``4 % in the median row and 9 % at worst (LoRA (r 128), mlp, tuned)``."""
    off = (found[f"computed_{name}"] / found[name] - 1).abs()
    worst = found.loc[off.idxmax()]
    where = ", ".join(word for word in (worst["method"], worst["location"], worst["connector"]) if word != DASH)
    return f"{percent(off.median(), 0)}{THIN}% in the median row and {percent(off.max(), 0)}{THIN}% at worst ({where})"


def _answers_off(costs: GpuCosts) -> str:
    """The same while the larger batch of answers is written, in a parenthesis; empty where none fitted."""
    longest = costs.prompt.num_tokens + int(str(costs.settings["num_new_tokens"]))
    written = [(row, row.answering[-1]) for row in costs.rows if row.answering and row.answering[-1].token_seconds]
    off = [
        abs(answering_memory(costs.setup(row), each.batch_size, longest) / each.peak_memory_bytes - 1) for row, each in written
    ]
    return f" (by {percent(float(np.median(off)), 0)}{THIN}% in the median row while answers are written)" if off else ""
