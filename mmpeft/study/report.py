"""From results to tables and sentences: what the pages of the book say is computed here, and nowhere typed.

Scores are fractions inside and percent on the page. A run without a record is counted, never filled in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mmpeft.decide import verdicts
from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.plan import Question
from mmpeft.registry import RANDOM
from mmpeft.spec import RunSpec
from mmpeft.stats import (
    Estimate,
)
from mmpeft.study.comparison import (
    CONNECTOR_SAID,
    GROUPS,
    Results,
    Variant,
    estimate,
    find,
    full_marks,
    gain,
    margin,
    mean_blind,
    variants_of,
)
from mmpeft.tasks import TASKS

MINUS, DASH, THIN = "\u2212", "\u2013", "\u202f"
RANDOM_ANSWER = "Random answer"


class Prose(str):
    """Computed text that notebooks show as Markdown and pages can glue."""

    def _repr_markdown_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, eq=False)
class Table:
    """A table: its numbers, and how a page shows it.

    Attributes:
        frame: The numbers, fractions and plain names.
        html: The same for the reader, in percent, inside a box that scrolls sideways on a narrow screen.
    """

    frame: pd.DataFrame
    html: str

    def _repr_html_(self) -> str:
        return f'<div class="wide-table">{self.html}</div>'

    def __repr__(self) -> str:
        return self.frame.to_string()


def percent(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction in percent, with a true minus; what rounds to zero has no sign."""
    text = f"{100 * value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def with_interval(e: Estimate, *, sign: bool = False) -> str:
    """``71.2 % (69.0 to 73.3)``; a difference with its sign and in points."""
    unit = " points" if sign else f"{THIN}%"
    low, high = (e.low, e.high) if sign else within_the_scale(e)
    return f"{percent(e.mean, sign=sign)}{unit} ({percent(low, sign=sign)} to {percent(high, sign=sign)})"


def listed(names: Iterable[object]) -> str:
    """``a, b and c``."""
    words = [str(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def cell(
    e: Estimate | None, *, sign: bool = False, bold: bool = False, plain: bool = False, beyond: bool = False
) -> str:
    """A table's cell: the mean, its interval below; a dash for what is not known.

    Args:
        e: A share; with ``sign`` a difference, with ``plain`` any number.
        sign: Shows signs.
        bold: Shows the mean in bold.
        plain: Shows the number as it is and not in percent.
        beyond: For a share that may lie beyond the ends of the scale.
    """
    if e is None:
        return DASH
    ends = (e.low, e.high) if sign or plain or beyond else within_the_scale(e)
    mean, low, high = (f"{n:.1f}".replace("-", MINUS) if plain else percent(n, sign=sign) for n in (e.mean, *ends))
    return f"{f'<b>{mean}</b>' if bold else mean}<small>{low} to {high}</small>"


def within_the_scale(e: Estimate) -> tuple[float, float]:
    """The ends of a share's interval, at most those of the scale: no true share lies beyond."""
    return min(max(e.low, 0.0), 1.0), min(max(e.high, 0.0), 1.0)


# --------------------------------------------------------------------------------------------------
# Provenance, tables
# --------------------------------------------------------------------------------------------------


def provenance(results: Results, *, plain: bool = False, brief: bool = False) -> Prose:
    """Where the numbers of a page come from: ``31 of 48 planned runs · scale tiny · model … · commit …``.

    Args:
        results: From :func:`read`.
        plain: Without Markdown's marks, to be glued into a sentence.
        brief: Without machines and commits.
    """
    counts, q = results.counts, results.question
    runs = f"{counts['done']} of {counts['planned']} planned runs"
    notes = [f"{counts[state]} {state}" for state in ("failed", "missing") if counts[state]]
    parts = [
        (runs if plain else f"**{runs}**") + (f" ({', '.join(notes)})" if notes else ""),
        f"scale {q.scale}",
        f"model {q.model}",
        f"judged on {q.split}",
    ]
    if not brief:
        parts += [_several(results.runs, "device", "device"), _several(results.runs, "git_commit", "commit")]
    line = " · ".join(part for part in parts if part)
    if q.model in RANDOM:
        line += f".{' ' if plain else chr(10) * 2}The model is random: these numbers only show that the code runs."
    return Prose(line)


def margin_told() -> Prose:
    """How large a difference between two scores must be to matter, as the claims ledger fixed it."""
    return Prose(f"The margin between scores is {percent(margin(), 0)} points, fixed in `params/claims.yaml` before looking.")


def _several(runs: pd.DataFrame, field: str, word: str) -> str:
    found = sorted(set(runs[field].dropna())) if field in runs else []
    return f"{word}{'s' if len(found) > 1 else ''} {listed(found)}" if found else ""


def plan_table(question: Question) -> Table:
    """The plan: one row a variant, with its settings, how fast it learns, and its runs; tried rates share a row."""
    rows: dict[tuple[str, str, str], list[RunSpec]] = {}
    for variant, planned in variants_of(question.planned()).items():
        spec = planned[0].spec
        settings: list[str] = [spec.location] if spec.method.has_location else []
        settings += [f"{name} {value}" for name, value in spec.method.model_dump().items() if name != "name" and value]
        rows.setdefault((variant.label, variant.connector, ", ".join(settings)), []).extend(run.spec for run in planned)
    frame = pd.DataFrame(list(rows), columns=["method", "connector", "settings"])
    frame["learning rate"] = [_rates(map(_own_rate, specs)) for specs in rows.values()]
    beside = [_rates(s.connector.learning_rate for s in specs if not s.method.tunes_connector) for specs in rows.values()]
    if any(beside):
        frame["of the connector"] = beside
    frame["tasks"] = [len({spec.task for spec in specs}) for specs in rows.values()]
    frame["seeds"] = [len({spec.seed for spec in specs}) for specs in rows.values()]
    frame["runs"] = [len(specs) for specs in rows.values()]
    return Table(frame, to_html(frame, index=False))


def _own_rate(spec: RunSpec) -> float | None:
    """The rate of what the method trains."""
    return spec.connector.learning_rate if spec.method.tunes_connector else spec.train.learning_rate


def rate_text(rate: float) -> str:
    """A learning rate as people write it: ``5e-4``, ``0.03``."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if rate < 0.01 else f"{rate:g}"


def _rates(rates: Iterable[float | None]) -> str:
    return ", ".join(rate_text(rate) for rate in dict.fromkeys(rates) if rate is not None)


def method_table(results: Results) -> Table:
    """Scores with 95 % intervals: a row for each variant, a column for each task, and the two averages.

    The first rows need no picture: a random answer, and always the most frequent one; a dash where a dataset is not at hand.
    """
    columns = {what: _heading(what) for what in _columns(results)}
    best = {what: _best(results, what) for what in columns}
    shown, frame = {}, {}
    for name, scores in _blind(results).items():
        known = [scores[what] for what in columns]
        shown[name] = ["–" if score is None else percent(score) for score in known]
        frame[name] = [np.nan if score is None else score for score in known]
    for variant in results.variants:
        found = {what: estimate(results, variant, what) for what in columns}
        shown[row_name(variant)] = [cell(e, bold=best[what] == variant) for what, e in found.items()]
        frame[row_name(variant)] = [e.mean if e else np.nan for e in found.values()]
    heads = pd.MultiIndex.from_tuples(columns.values())
    table = pd.DataFrame(list(shown.values()), index=list(shown), columns=heads)
    failed = _failed_by_row(results)
    if any(failed.values()):
        table["runs", "failed"] = [failed.get(row, "") for row in shown]
    return Table(pd.DataFrame(list(frame.values()), index=list(frame), columns=heads), to_html(table))


def _columns(results: Results) -> list[str]:
    """The averages first, then the tasks, unseen before seen."""
    averages = [group for group in GROUPS if results.tasks(group)]
    return averages + sorted(results.tasks(), key=lambda task: TASKS[task].seen)


def _heading(what: str) -> tuple[str, str]:
    if what in GROUPS:
        return "average (%)", what
    task = TASKS[what]
    full = full_marks(what)
    unit = "%" if full == 1 else f"% of {full:g}, {task.metric}"
    return f"{'seen' if task.seen else 'unseen'} tasks", f"{task.column}<small>{unit}</small>"


def row_name(variant: Variant) -> str:
    """The variant's name in tables and figures: ``LoRA, tuned``."""
    named = variant.label + (f" ({variant.detail})" if variant.detail else "")
    return named if variant.label in CONNECTOR_SAID else f"{named}, {variant.connector}"


def _blind(results: Results) -> dict[str, dict[str, float | None]]:
    """What answers without looking score on each task and, averaged, on each group; test split only."""
    if results.question.split != "test":
        return {}
    size = results.question.eval.get("num_examples")
    rows = {}
    for kind, name in (("chance", RANDOM_ANSWER), ("majority", "Most frequent answer")):
        groups = {task: [task] for task in results.tasks()} | {group: results.tasks(group) for group in GROUPS}
        rows[name] = {what: mean_blind(tasks, kind, size) for what, tasks in groups.items()}
    return rows


def _best(results: Results, what: str) -> Variant | None:
    """The row with the highest score, if there is one and only one."""
    found = {v: e.mean for v in results.variants if (e := estimate(results, v, what))}
    top = [v for v, mean in found.items() if mean == max(found.values())]
    return top[0] if len(top) == 1 else None


def _failed_by_row(results: Results) -> dict[str, int]:
    failed = set(results.runs.loc[results.runs["status"] == "failed", "run_id"])
    return {row_name(v): sum(run.run_id in failed for run in runs) for v, runs in results.variants.items()}


def failures(results: Results) -> Table | Prose:
    """The failed runs and why they failed, or the sentence that none did."""
    failed = results.runs[results.runs["status"] == "failed"]
    if failed.empty:
        return Prose("No run failed.")
    frame = failed[["column", "label", "connector", "seed", "error"]]
    frame = frame.rename(columns={"column": "task", "label": "method"})
    return Table(frame, to_html(frame.map(lambda value: escape(str(value))), index=False))


def comparisons(results: Results, over: str) -> list[tuple[Variant, Variant]]:
    """(a variant, the one it is compared with), for all such pairs of the plan: see differences.paired_table."""
    if over == "frozen":
        tuned = [variant for variant in results.variants if variant.connector == "tuned"]
        pairs = [(variant, _with_connector(results, variant, "frozen")) for variant in tuned]
        return [(variant, frozen) for variant, frozen in pairs if frozen]
    if over not in ("connector", "zero-shot"):
        raise unknown("baseline", over, ["frozen", "connector", "zero-shot"])
    base, untrained = (find(results, METHODS[name].label) for name in (over, "zero-shot"))
    return [(variant, base) for variant in results.variants if base and variant not in (base, untrained)]


def _with_connector(results: Results, variant: Variant, connector: str) -> Variant | None:
    """The row that differs in the connector alone."""
    rank = variant.rank - (variant.connector == "tuned") + (connector == "tuned")
    other = Variant(rank, variant.label, connector, variant.detail)
    return other if other in results.variants else None


def to_html(table: pd.DataFrame, *, index: bool = True, fitted: bool = False) -> str:
    """The table as HTML; cells may hold markup. A fitted one breaks its lines to the width of its place."""
    classes = ["fitted", "report"] if fitted else "report"
    html: str = table.to_html(escape=False, border=0, index=index, na_rep="", classes=classes)
    return html


def grids(results: Results) -> dict[str, list[float]]:
    """The rates of the question's grid by the method's printed name."""
    return {METHODS[name].label: list(rates) for name, rates in results.question.learning_rate_grid.items()}


def best_rates(results: Results) -> Table:
    """For each swept method, the rate of its grid with the best average dev score, and whether it lies at the grid's end."""
    rows = []
    for label, tried in rate_curves(results).items():
        curve = tried[tried.index.isin(grids(results).get(label, tried.index))]
        if curve.empty:
            continue
        best = curve["score"].idxmax()
        at_end = best in (curve.index.min(), curve.index.max())
        rows.append((label, len(curve), best, curve["score"][best], at_end))
    frame = pd.DataFrame(rows, columns=["method", "rates", "best rate", "score", "at the end"])
    words: dict[str, Callable[[Any], str]] = {
        "best rate": rate_text,
        "score": percent,
        "at the end": lambda value: "yes" if value else "no",
    }
    shown = frame.assign(**{name: frame[name].map(word) for name, word in words.items()})
    names = {"score": "average score (%)", "rates": "rates tried", "at the end": "at the end of the grid"}
    return Table(frame, to_html(shown.rename(columns=names), index=False))


def rates_told(results: Results) -> Prose:
    """The best rate of each method, as far as the grid has been tried."""
    best = best_rates(results).frame
    if best.empty:
        return Prose("No rate has all its runs yet.")
    named = [f"{row['method']} {rate_text(row['best rate'])}" for _, row in best.iterrows()]
    ends = [str(row["method"]) for _, row in best.iterrows() if row["at the end"]]
    text = f"The best rates of those tried, by the average {results.question.split} score: {', '.join(named)}."
    return Prose(f"{text} At the end of its grid, so that a better one may lie beyond: {listed(ends)}." if ends else text)


def rates_in_use(results: Results) -> Prose:
    """Which methods use another rate, at this question's scale, than the best one of the sweep."""
    labels = {METHODS[name].label: rate for name, rate in results.question.learning_rates.items()}
    best = {row["method"]: row["best rate"] for _, row in best_rates(results).frame.iterrows()}
    if not best:
        return Prose("No rate has all its runs yet.")
    differing = {label: rate for label, rate in best.items() if labels.get(label) not in (None, rate)}
    other = [f"{label} ({rate_text(labels[label])} instead of {rate_text(rate)})" for label, rate in differing.items()]
    where = f"The file of the scale {results.question.scale}"
    if not other:
        return Prose(f"{where} uses the best rate of each method here.")
    return Prose(f"{where} uses another rate than the best one here for {listed(other)}.")


def rate_curves(results: Results) -> dict[str, pd.DataFrame]:
    """For each method run at several rates: index the rate, a column a task and ``score``, their average.

    A rate with a failed or missing run has no average.
    """
    runs = results.runs[results.runs["status"] == "ok"]
    rate = runs["learning_rate"].fillna(runs["connector_learning_rate"])
    tasks = results.tasks()
    share = runs["score"] / runs["task"].map(full_marks)
    curves = {}
    for label, mine in runs.assign(rate=rate.astype(float), score=share).groupby("label", sort=False):
        curve = mine.pivot_table(index="rate", columns="task", values="score", aggfunc="mean").reindex(columns=tasks)
        if len(curve) > 1:
            curves[str(label)] = curve.assign(score=curve.mean(axis=1, skipna=False))
    return {label: curve.dropna(subset="score") for label, curve in curves.items() if curve["score"].notna().any()}


# --------------------------------------------------------------------------------------------------
# Findings
# --------------------------------------------------------------------------------------------------


def standing(results: Results, group: str) -> Prose:
    """Who scores highest on the seen or unseen tasks, and who cannot be told apart from it."""
    found = {v: e for v in results.variants if (e := estimate(results, v, group))}
    if len(found) < 2:
        return Prose(f"On the {group} tasks nothing can be compared yet: too few runs have a record.")
    best = max(found, key=lambda variant: found[variant].mean)
    text = f"On the {group} tasks the highest average is that of {best}: {with_interval(found[best])}."
    leads = {variant: gain(results, best, variant, group) for variant in found if variant != best}
    sure = verdicts(leads, 0.0)
    equals = [variant for variant in leads if sure[variant] != "higher"]
    text += f" {_equals(equals, len(leads))}"
    base = find(results, METHODS["zero-shot"].label)
    if base in found and base is not None and base != best:
        text += f" The base without any training scores {with_interval(found[base])}."
    return Prose(text)


def _equals(equals: Sequence[Variant], num_others: int) -> str:
    """Who stands beside the best row; by name if they are few."""
    if not equals:
        return "Every other row is clearly below it."
    if len(equals) == num_others:
        return "No other row can be told apart from it."
    if len(equals) > 3:
        return f"Of the other {num_others} rows, {len(equals)} cannot be told apart from it."
    return f"Not told apart from it: {listed(equals)}."


def connector_gains(results: Results) -> dict[tuple[Variant, str], Estimate | None]:
    """What tuning the connector as well does to each row, by row and group: the differences that are one family."""
    return {(v, g): gain(results, v, frozen, g) for v, frozen in comparisons(results, "frozen") for g in GROUPS}


def connector_effect(results: Results, group: str, *, brief: bool = False) -> Prose:
    """What tuning the connector as well does to each method's average; ``brief`` leaves the numbers out.

    The family of differences is that of the table: both groups.
    """
    family = connector_gains(results)
    known = {v: e for (v, g), e in family.items() if g == group and e}
    if not known:
        return Prose(f"What the connector does on the {group} tasks is not known yet: no pair of runs is complete.")
    found = verdicts(family, margin())
    sides = {
        "raises the average of {}": "higher",
        "lowers the average of {}": "lower",
        f"changes the average of {{}} by less than {percent(margin(), 0)} points": "equal",
        "has an effect not told apart from none on {}": "undecided",
    }
    labels = {words: [v.label for v in known if found[v, group] == side] for words, side in sides.items()}
    effect = listed(words.format(listed(names)) for words, names in labels.items() if names)
    text = f"On the {group} tasks, tuning the connector as well {effect}."
    if not brief:
        numbers = ", ".join(f"{v.label} {with_interval(e, sign=True)}" for v, e in known.items())
        text += f" In numbers, each interval by itself: {numbers}."
    return Prose(text)
