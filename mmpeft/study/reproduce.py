"""What a reproduction at full size would need, for the book: tables and sentences from the planner."""

import pandas as pd

from mmpeft.calc import GIB, Setup, measurements, sizes_of, step_memory
from mmpeft.gpus import GPUS, HEADROOM_RATIO, USED_SHARE, assumptions, gpu_of
from mmpeft.methods import METHODS
from mmpeft.plan import load_question, questions
from mmpeft.planner import budget, budgets, shape_of, total
from mmpeft.spec import RunSpec, parse
from mmpeft.study.report import Prose, Table, percent, to_html


def study_table(scale: str, gpu: str, num_gpus: int = 1) -> Table:
    """Every question with its runs, GPU-hours, rent and largest peak memory; what questions share counts in the first alone.

    Args:
        scale: A file of ``params/scales``.
        gpu: On which GPU.
        num_gpus: That share one run, each with the whole model.
    """
    found = budgets([load_question(name, scale) for name in questions()], gpu, num_gpus)
    rows = [{"question": each.question, **_sums(each.to_dict())} for each in found]
    rows.append({"question": "all", **_sums(total(found))})
    return _table(rows)


def gpu_table(question: str, scale: str) -> Table:
    """One question on each GPU whose sheet is known."""
    rows = []
    for gpu in GPUS:
        found = budget(load_question(question, scale), gpu)
        rows.append({"GPU": gpu, **_sums(found.to_dict()), "passes": max(row["passes"] for row in found.rows)})
    return _table(rows)


def method_table(question: str, scale: str, gpu: str) -> Table:
    """The rows of one question: what trains, the largest pass that fits, hours a run."""
    shown = [
        {
            "row": row["label"],
            "trained parameters": f"{row['trained']:,}",
            "passes a step": row["passes"],
            "peak (GiB)": f"{row['peak_bytes'] / GIB:.1f}",
            "longest run (hours)": f"{row['hours_a_run']:.1f}",
            "fits": "yes" if row["fits"] else "no",
        }
        for row in budget(load_question(question, scale), gpu).rows
    ]
    return Table(pd.DataFrame(shown), to_html(pd.DataFrame(shown), index=False))


def error_table() -> Table:
    """How far the calculator was from what was measured, by method: median and worst, of kept bytes and operations."""
    found = measurements()
    off = pd.DataFrame(
        {
            "method": found["method"],
            "bytes": (found["computed_bytes"] / found["measured_bytes"] - 1).abs(),
            "operations": (found["computed_flops"] / found["measured_flops"] - 1).abs(),
        }
    )
    frame = off.groupby("method").agg(["size", "median", "max"]).reset_index()
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "configurations": frame[("bytes", "size")],
            "kept bytes, median (%)": [percent(value) for value in frame[("bytes", "median")]],
            "worst (%)": [percent(value) for value in frame[("bytes", "max")]],
            "operations, median (%)": [percent(value) for value in frame[("operations", "median")]],
            "worst (%) ": [percent(value) for value in frame[("operations", "max")]],
        }
    )
    return Table(frame, to_html(shown, index=False, fitted=True))


def in_brief(scale: str, gpu: str) -> Prose:
    """What all questions need at a scale, in a sentence."""
    found = budgets([load_question(name, scale) for name in questions()], gpu)
    whole, large = total(found), dict.fromkeys(label for each in found for label in each.too_large)
    too_large = f" One such card does not hold: {'; '.join(large)}." if large else ""
    return Prose(
        f"{whole['num_runs']:,} runs, {whole['gpu_hours']:,.0f} hours of one {gpu}, about {whole['dollars']:,.0f} dollars of "
        f"rent and {whole['disk_bytes'] / 1e9:.1f} GB on disk; what questions share is counted once.{too_large}"
    )


def pre_step_in_brief(scale: str, gpu: str) -> Prose:
    """What the pre-step of a scale asks of GPUs: all on one, and cut into one piece a GPU over as few as hold it."""
    run = load_question(questions()[0], scale).specs()[0]
    if run.pre_step is None:
        return Prose("Runs of this scale start from the published base; there is no pre-step.")
    full, card = _pre_step_setup(run), gpu_of(gpu)
    states = 16 * full.trained
    peaks = pre_step_peaks(run)
    least = next((number for number, peak in peaks.items() if peak <= card.memory_bytes * HEADROOM_RATIO), None)
    said = (
        f"{full.trained:,} parameters train, and each takes sixteen bytes (weight, gradient, two moments, in fp32): "
        f"{states / 1e9:.0f} GB, {peaks[1] / 1e9:.0f} with all else. One {gpu} has {card.memory_bytes / 1e9:.0f}."
    )
    if least is None:
        return Prose(f"{said} No number of them that divides a batch holds it.")
    return Prose(f"{said} In pieces over {least}, it is about {peaks[least] / 1e9:.0f} GB each." if least > 1 else said)


def pre_step_peaks(run: RunSpec) -> dict[int, float]:
    """By number of GPUs, bytes that one needs for its piece of the run's pre-step and its share of each pass.

    As many as divide a batch; a whole layer's weights, which are put together for a moment, among them.
    """
    assert run.pre_step is not None
    full, train = _pre_step_setup(run), run.pre_step.train
    shape = max((shape_of(run.model, task) for task in run.pre_step.tasks), key=lambda each: each.num_tokens)
    peaks = {}
    for number in [number for number in range(1, train.batch_size + 1) if train.batch_size % number == 0]:
        memory = step_memory(full, train.batch_size // (number * train.passes(number)), shape)
        kept = memory.weights + memory.gradients + memory.optimizer
        layer = 4 * full.sizes.dims.num_parameters / full.sizes.dims.num_layers if number > 1 else 0
        peaks[number] = kept / number + layer + memory.activations + memory.working
    return peaks


def _pre_step_setup(run: RunSpec) -> Setup:
    assert run.pre_step is not None
    train = run.pre_step.train
    full = parse(METHODS["full"], {"name": "full"})
    return Setup(sizes_of(run.model), full, "both", True, train.precision == "bf16", train.gradient_checkpointing)


def stands_on(gpu: str) -> Prose:
    """What was assumed and how far the calculator was off."""
    return Prose(assumptions(gpu, USED_SHARE))


def _sums(found: dict[str, object]) -> dict[str, object]:
    return {name: found[name] for name in ("num_runs", "gpu_hours", "dollars", "peak_bytes", "fits")}


def _table(rows: list[dict[str, object]]) -> Table:
    frame = pd.DataFrame(rows)
    first = frame.columns[0]
    shown = pd.DataFrame(
        {
            first: frame[first],
            "runs": [f"{value:,}" for value in frame["num_runs"]],
            "GPU-hours": [f"{value:,.0f}" for value in frame["gpu_hours"]],
            "rent (dollars)": [f"{value:,.0f}" for value in frame["dollars"]],
            "peak (GiB)": [f"{value / GIB:.1f}" for value in frame["peak_bytes"]],
            "fits": ["yes" if value else "no" for value in frame["fits"]],
        }
    )
    if "passes" in frame:
        shown["passes a step"] = frame["passes"]
    return Table(frame, to_html(shown, index=False))
