"""The paper's own numbers beside ours, and sentence by sentence what agrees with it and what does not.

The numbers are in ``data/paper/published_results.csv`` (arXiv 2406.05130), scores in percent as printed, CIDEr times
100. Their averages over the seen and the unseen columns are taken here from the printed cells.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.study.comparison import GROUPS, Results, Variant, estimate, find, gain
from mmpeft.study.report import DASH, MINUS, Prose, Table, percent, to_html, with_interval
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
        verdict: ``undecided`` where the interval of ours holds both signs, or the paper's effect is too small to have one.
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


def agreement_table(results: Results, model: str = MODEL) -> Table:
    """The checks as a table."""
    columns = ["statement", "paper", "here", "verdict"]
    frame = pd.DataFrame([vars(check) for check in checks(results, model)], columns=columns)
    return Table(frame, to_html(frame, index=False))


def agreement(results: Results, model: str = MODEL) -> Prose:
    """How many of the paper's statements hold here, and which do not."""
    found = checks(results, model)
    if not found:
        return Prose("Nothing in the paper's table can be compared with these runs yet.")
    by = {verdict: [c for c in found if c.verdict == verdict] for verdict in ("agrees", "disagrees", "undecided")}
    count = f"Of {len(found)} statements taken from the paper's table for {model}, {len(by['agrees'])} hold here"
    count += f", {len(by['disagrees'])} do not, and {len(by['undecided'])} stay undecided."
    if by["disagrees"]:
        differing = [f"{c.statement} (paper: {c.paper}; here: {c.here})" for c in by["disagrees"]]
        count += f" What does not hold: {'; '.join(differing)}."
    return Prose(count)


def _connector_checks(results: Results, paper: pd.DataFrame, group: str) -> list[Check]:
    found = []
    for label in dict.fromkeys(paper.index.get_level_values("label")):
        pair = [find(results, label, connector) for connector in ("tuned", "frozen")]
        if not all((label, connector) in paper.index for connector in ("tuned", "frozen")) or None in pair:
            continue
        theirs = paper[group][label, "tuned"] - paper[group][label, "frozen"]
        ours = gain(results, *pair, group)  # type: ignore[arg-type]  # None is out by now
        if ours is None or np.isnan(theirs):
            continue
        verdict: Verdict = "undecided"
        if abs(theirs) >= NO_SIGN_BELOW and not ours.low <= 0 <= ours.high:
            verdict = "agrees" if (ours.mean > 0) == (theirs > 0) else "disagrees"
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
    best_there = common[theirs.idxmax()][0]
    best_here = max(common.values(), key=lambda pair: pair[1])[0]
    verdict: Verdict = "agrees" if best_here == best_there else "disagrees"
    if best_here != best_there:
        lead = gain(results, best_here, best_there, group)
        verdict = "undecided" if lead is None or lead.low <= 0 <= lead.high else "disagrees"
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
