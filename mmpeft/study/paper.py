"""The paper's own numbers beside ours, and sentence by sentence what agrees with it and what does not.

The numbers are in ``data/paper/published_results.csv`` (arXiv 2406.05130), scores in percent as printed, CIDEr times
100. Their averages over the seen and the unseen columns are taken here from the printed cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from mmpeft.decide import verdicts
from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.study.comparison import GROUPS, Results, Variant, estimate, find, gain
from mmpeft.study.report import DASH, MINUS, Prose, Table, connector_gains, percent, to_html, with_interval
from mmpeft.tasks import COLUMNS

MODEL = "LLaVA-1.5-7B"
METHOD_OF = {"LoRA": "lora", "IA3": "ia3", "Adapter": "adapter", "Prefix": "prefix"}
NO_SIGN_BELOW = 0.005
"""An effect of less than half a point, from one seed, has no sign to agree with."""

AGREES_FROM = 0.5
"""A rank correlation from here on counts as the same order, from its negative on as the opposite one."""

Verdict = Literal["agrees", "disagrees", "undecided"]


@cache
def published() -> pd.DataFrame:
    """Every number that could be read, one a row: table, model, method, connector, …, dataset, value (percent)."""
    with (files("mmpeft") / "data" / "paper" / "published_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"value": [""], "sd": [""]})


@cache
def scores(model: str = MODEL) -> pd.DataFrame:
    """The paper's Table 1 for one model: rows (label, connector), columns the datasets and the two averages, 0–1.

    Raises:
        MmpeftError: The table has no such model.
    """
    table = published().query("table == 1")
    if model not in set(table["model"]):
        raise unknown("model of the paper's Table 1", model, set(table["model"]))
    rows = table[table["model"] == model]
    rows = rows.assign(label=[METHODS[METHOD_OF[name]].label for name in rows["method"]])
    wide = rows.pivot(index=["label", "connector"], columns="dataset", values="value") / 100
    for group in GROUPS:
        wide[group] = wide[_columns(group)].mean(axis=1, skipna=False)
    order = [METHODS[name].label for name in METHODS]
    return wide.sort_index(key=lambda level: level.map(order.index) if level.name == "label" else level)


def _columns(group: str) -> list[str]:
    """The datasets of an average."""
    return list(dict.fromkeys(task.column for task in COLUMNS.values() if task.seen == (group == "seen")))


def published_table(model: str = MODEL) -> Table:
    """The paper's Table 1 for one model, columns as in our own table; rows that cannot be read are missing."""
    frame = scores(model)
    columns = {group: ("average (%)", group) for group in GROUPS}
    for task in sorted(COLUMNS.values(), key=lambda task: task.seen):
        columns[task.column] = (f"{'seen' if task.seen else 'unseen'} tasks", task.column)
    shown = frame[list(columns)].map(lambda value: DASH if pd.isna(value) else percent(value))
    shown.columns = pd.MultiIndex.from_tuples(columns.values())
    shown.index = pd.Index([f"{label}, {connector}" for label, connector in frame.index])
    return Table(frame, to_html(shown))


# --------------------------------------------------------------------------------------------------
# Agreement
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One statement of the paper held against our runs.

    Attributes:
        statement: What is compared.
        paper: The paper's value.
        here: Ours.
        verdict: ``undecided`` where ours is not told apart from zero, or the paper's effect is too small to have a sign.
    """

    statement: str
    paper: str
    here: str
    verdict: Verdict


def checks(results: Results, model: str = MODEL) -> list[Check]:
    """Every statement of the paper's Table 1 that these runs can test: signs of effects, orders, the best row."""
    paper = scores(model)
    found = []
    for group in GROUPS:
        found += _connector_checks(results, paper, group)
        found += _order_checks(results, paper, group, model)
    return found


def checks_table(found: Sequence[Check]) -> Table:
    """Statements of the paper held against our runs, one a row."""
    frame = pd.DataFrame([vars(check) for check in found], columns=["statement", "paper", "here", "verdict"])
    return Table(frame, to_html(frame, index=False) if found else "<p>Nothing can be compared with the paper yet.</p>")


def checks_told(found: Sequence[Check]) -> Prose:
    """How many statements hold here, and which do not."""
    if not found:
        return Prose("Nothing in the paper's table can be compared with these runs yet.")
    counts = {verdict: sum(check.verdict == verdict for check in found) for verdict in ("agrees", "disagrees", "undecided")}
    text = f"Of {len(found)} statements taken from the paper's table, {counts['agrees']} hold here, "
    text += f"{counts['disagrees']} do not, and {counts['undecided']} stay undecided."
    wrong = [f"{c.statement} (paper: {c.paper}; here: {c.here})" for c in found if c.verdict == "disagrees"]
    return Prose(text + (f" What does not hold: {'; '.join(wrong)}." if wrong else ""))


def _connector_checks(results: Results, paper: pd.DataFrame, group: str) -> list[Check]:
    """Signs of the connector's effect; ours are those of the page's table, after its correction."""
    found, family = [], connector_gains(results)
    sides = verdicts(family, 0.0)
    for label in dict.fromkeys(paper.index.get_level_values("label")):
        tuned = find(results, label, "tuned")
        ours = family.get((tuned, group)) if tuned else None
        if ours is None or not all((label, connector) in paper.index for connector in ("tuned", "frozen")):
            continue
        theirs = paper[group][label, "tuned"] - paper[group][label, "frozen"]
        if np.isnan(theirs):
            continue
        verdict: Verdict = "undecided"
        if round(abs(theirs), 6) >= NO_SIGN_BELOW and tuned and sides[tuned, group] in ("higher", "lower"):
            verdict = "agrees" if (sides[tuned, group] == "higher") == (theirs > 0) else "disagrees"
        statement = f"effect of a tuned connector on the {group} average of {label}"
        there, here = f"{percent(theirs, sign=True)} points", with_interval(ours, sign=True)
        found.append(Check(statement, there, here, verdict))
    return found


def _order_checks(results: Results, paper: pd.DataFrame, group: str, model: str) -> list[Check]:
    """The order of the rows, the best row, and whether more trained parameters go with a higher score."""
    common = {}
    for row in paper.index:
        variant = find(results, *row)
        ours = estimate(results, variant, group) if variant else None
        if variant and ours and not np.isnan(paper[group][row]):
            common[row] = (variant, ours.mean)
    if len(common) < 3:
        return []
    theirs = paper[group].loc[list(common)]
    return [
        *_order(common, theirs, group),
        _best(results, common, theirs, group),
        *_size(results, common, theirs, group, model),
    ]


Common = dict[Any, tuple[Variant, float]]


def _order(common: Common, theirs: pd.Series, group: str) -> list[Check]:
    rho = _rank_correlation([mean for _, mean in common.values()], list(theirs))
    if rho is None:
        return []
    verdict: Verdict = "agrees" if rho >= AGREES_FROM else "disagrees" if rho <= -AGREES_FROM else "undecided"
    statement = f"order of {len(common)} rows by their {group} average"
    return [Check(statement, "the order of its Table 1", f"rank correlation with it {_signed(rho)}", verdict)]


def _best(results: Results, common: Common, theirs: pd.Series, group: str) -> Check:
    """The best row: it agrees if its lead over every other one is sure, and disagrees if that over the paper's best is."""
    best_there = common[theirs.idxmax()][0]
    best_here = max(common.values(), key=lambda pair: pair[1])[0]
    leads = {row: gain(results, best_here, row, group) for row, _ in common.values() if row != best_here}
    behind = {row for row, side in verdicts(leads, 0.0).items() if side == "higher"}
    first, second = theirs.nlargest(2)
    verdict: Verdict = "undecided"
    if round(first - second, 6) >= NO_SIGN_BELOW:  # to the printed digits
        verdict = "disagrees" if best_there in behind else "agrees" if len(behind) == len(leads) else "undecided"
    return Check(f"best row on the {group} tasks", str(best_there), str(best_here), verdict)


def _size(results: Results, common: Common, theirs: pd.Series, group: str, model: str) -> list[Check]:
    """Rank correlation of score and trained parameters, in the paper (its Table 15) and here."""
    table = published().query("table == 15 and model == @model")
    labels = [METHODS[METHOD_OF[name]].label for name in table["method"]]
    sizes = dict(zip(zip(labels, table["connector"], strict=True), table["value"], strict=True))
    rows = [row for row in common if row in sizes]
    ours = [parameters(results, common[row][0]) for row in rows]
    if len(rows) < 3 or None in ours:
        return []
    there = _rank_correlation([sizes[row] for row in rows], list(theirs.loc[rows]))
    here = _rank_correlation([size for size in ours if size is not None], [common[row][1] for row in rows])
    if there is None or here is None:
        return []
    verdict: Verdict = "undecided"
    if min(abs(there), abs(here)) >= AGREES_FROM:
        verdict = "agrees" if (there > 0) == (here > 0) else "disagrees"
    statement = f"rank correlation of trained parameters with the {group} average, over {len(rows)} rows"
    return [Check(statement, _signed(there), _signed(here), verdict)]


def parameters(results: Results, variant: Variant) -> float | None:
    """The number of parameters that a variant's finished runs trained; None without a finished run."""
    mine = results.runs["run_id"].isin([run.run_id for run in results.variants[variant]])
    done = results.runs[mine & (results.runs["status"] == "ok")]
    return float(done["trainable_params"].mean()) if len(done) else None


def _rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Spearman's ρ; None where one side does not vary."""
    return float(stats.spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)
