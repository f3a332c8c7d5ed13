"""Two things switched on alone and together: a method, and a tuned connector.

method alone       frozen − base            connector beside it   tuned − frozen
connector alone    connector only − base    method beside it      tuned − connector only
both               tuned − base             more than the sum     (tuned − frozen) − (connector only − base)
"""

from collections.abc import Mapping
from functools import cache

import numpy as np

from mmpeft.decide import Verdict, verdicts
from mmpeft.methods import METHODS
from mmpeft.stats import Estimate, hierarchical_bootstrap
from mmpeft.study import comparison
from mmpeft.study.comparison import Results, Variant, find, margin
from mmpeft.study.curve_report import groups_of
from mmpeft.study.curves import combined, pooled
from mmpeft.study.differences import Cells, compared
from mmpeft.study.report import Prose, Table, listed, percent, with_interval

EFFECTS: Mapping[str, Mapping[str, float]] = {
    "method alone": {"frozen": 1, "base": -1},
    "connector alone": {"connector": 1, "base": -1},
    "both": {"tuned": 1, "base": -1},
    "connector beside the method": {"tuned": 1, "frozen": -1},
    "method beside the connector": {"tuned": 1, "connector": -1},
    "more than the sum": {"tuned": 1, "frozen": -1, "connector": -1, "base": 1},
}
"""Each effect as a weighted sum of four rows."""

HEADS = {name: name.replace(" beside", "<br>beside").replace(" than", " than<br>") for name in EFFECTS}
BASE, CONNECTOR = METHODS["zero-shot"].label, METHODS["connector"].label


def labels(results: Results) -> list[str]:
    """The methods that the plan runs with the connector frozen and tuned, once each."""
    names = dict.fromkeys(variant.label for variant in results.variants)
    return [name for name in names if find(results, name, "frozen") and find(results, name, "tuned")]


@cache
def effect(results: Results, label: str, name: str, what: str) -> Estimate | None:
    """One of EFFECTS for a method, paired run by run and item by item; None if a row of it has no run.

    Args:
        results: From comparison.read.
        label: The method's printed name.
        name: A key of EFFECTS.
        what: A task, or ``unseen`` or ``seen`` for the average.
    """
    rows = _rows(results, label)
    scores = {part: pooled(results, (row,), what) if row else {} for part, row in rows.items() if part in EFFECTS[name]}
    if not all(scores.values()):
        return None
    total = combined([(weight, scores[part]) for part, weight in EFFECTS[name].items()])
    return hierarchical_bootstrap(total, np.random.default_rng(0), num_draws=comparison.NUM_DRAWS) if total else None


def _rows(results: Results, label: str) -> dict[str, Variant | None]:
    return {
        "frozen": find(results, label, "frozen"),
        "tuned": find(results, label, "tuned"),
        "connector": find(results, CONNECTOR),
        "base": find(results, BASE),
    }


def effects_table(results: Results, group: str) -> Table:
    """A row for each method, a column for each effect, in points of a group's average."""
    rows: Cells = {}
    shown: Cells = {}
    for label in labels(results):
        found = {name: effect(results, label, name, group) for name in EFFECTS}
        rows[label] = {(name, part): getattr(e, part, None) for name, e in found.items() for part in ("mean", "low", "high")}
        shown[label] = {HEADS.get(name, name): e for name, e in found.items()}
    return compared(rows, shown, "The plan holds no method with the connector frozen and tuned.", results)


def sides(results: Results, group: str) -> dict[tuple[str, str], Verdict]:
    """For each method and effect of the table of a group which way it goes, after correction for the whole table."""
    family = {(label, name): effect(results, label, name, group) for label in labels(results) for name in EFFECTS}
    return verdicts(family, margin())


def control(results: Results, label: str, group: str) -> Prose:
    """Whether what a method gains from a tuned connector is what the connector gains by itself."""
    names = ("connector beside the method", "connector alone", "more than the sum", "method beside the connector")
    beside, alone, more, adds = (effect(results, label, name, group) for name in names)
    if not (beside and alone and more and adds):
        return Prose(f"What the connector does for {label} on the {group} tasks is not known yet: a row of it has no run.")
    text = f"On the {group} tasks {label} gains {with_interval(beside, sign=True)} from a tuned connector"
    text += f"{_relative(results, label, group)}; "
    text += f"the connector trained alone gains {with_interval(alone, sign=True)} over the base. "
    text += f"{label} with a tuned connector, compared with the connector alone: {with_interval(adds, sign=True)}. "
    found = sides(results, group)
    text += {
        "higher": "So the method adds something of its own.",
        "lower": "So the connector does better by itself.",
        "equal": f"So the method changes the score by less than {percent(margin(), 0)} points.",
        "undecided": "So the score may be the connector's alone.",
    }[found[label, names[3]]]
    brings = {
        "higher": f"more beside {label} than it does alone",
        "lower": f"less beside {label} than it does alone",
        "equal": f"as much beside {label} as it does alone, within {percent(margin(), 0)} points",
        "undecided": f"neither more nor less beside {label} than it does alone, as far as these runs can see",
    }[found[label, names[2]]]
    return Prose(f"{text} The connector brings {brings} ({with_interval(more, sign=True)}).")


def _relative(results: Results, label: str, group: str) -> str:
    """The gain as a share of the frozen score, as the paper gives it; the interval is that of the linearized ratio."""
    rows = (find(results, label, connector) for connector in ("frozen", "tuned"))
    frozen, tuned = (pooled(results, (row,), group) if row else {} for row in rows)
    before, after = (float(sum(task.scores.mean() for task in side.values())) / max(1, len(side)) for side in (frozen, tuned))
    if not before > 0 or not (shift := combined([(1 / before, tuned), (-after / before**2, frozen)])):
        return ""
    e = hierarchical_bootstrap(shift, np.random.default_rng(0), num_draws=comparison.NUM_DRAWS)
    mean, low, high = (percent(after / before - 1 + value, sign=True) for value in (e.mean, e.low, e.high))
    return f", {mean} % ({low} to {high}) of what it scores with a frozen one"


def sums(results: Results, group: str) -> Prose:
    """For which methods the two together bring less, more, or as much as the sum of each alone."""
    known = {label: e for label in labels(results) if (e := effect(results, label, "more than the sum", group))}
    if not known:
        return Prose(f"Whether the two help each other on the {group} tasks is not known yet.")
    words = {
        "lower": "less than the sum of each alone for",
        "higher": "more than the sum of each alone for",
        "equal": f"the sum of each alone, within {percent(margin(), 0)} points, for",
        "undecided": "what is not told apart from the sum for",
    }
    found = sides(results, group)
    told = {text: [label for label in known if found[label, "more than the sum"] == side] for side, text in words.items()}
    parts = [f"{text} {listed(names)}" for text, names in told.items() if names]
    return Prose(f"On the {group} tasks a method and a tuned connector together bring {listed(parts)}.")


def controls(results: Results) -> Prose:
    """The sentence of :func:`control` for every method and group, as a list."""
    told = [control(results, label, group) for group in groups_of(results) for label in labels(results)]
    return Prose("\n".join(f"- {sentence}" for sentence in told) or "The plan holds no such method.")
