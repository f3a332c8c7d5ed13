"""The claims ledger for readers: verdicts with their intervals, and what the paper's own tables say."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from mmpeft.errors import MmpeftError
from mmpeft.plan import load_question
from mmpeft.records import Store
from mmpeft.study.claims import SEED_SD, Claim, Ledger, Published, load_ledger
from mmpeft.study.comparison import GROUPS, Results
from mmpeft.study.paper import published
from mmpeft.study.report import DASH, Prose, Table, listed, percent, to_html
from mmpeft.study.tracks import Tracks
from mmpeft.study.verdicts import Evidence, Judged, Outcome, evidence, judge, weighed
from mmpeft.tasks import COLUMNS

MARKS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
"""A sign beside each verdict, so that no color is needed to tell them apart."""


def judged(scale: str | None = None, store: str | None = None, ledger: Ledger | None = None) -> list[Judged]:
    """Every claim of the ledger with its verdict from recorded runs.

    Args:
        scale: A scale other than the questions' own.
        store: A folder of records other than the scale's.
        ledger: Another ledger than that of ``params/claims.yaml``.
    """
    return judge(ledger or load_ledger(), asking(scale, store), strict=scale is None)


def asking(scale: str | None = None, store: str | None = None) -> Callable[[str], Evidence]:
    """What says everything that the recorded runs of a question of a name say; each question is read once."""

    @cache
    def ask(name: str) -> Evidence:
        question = load_question(name, scale)
        return evidence(question, Store(store or question.store_folder()))

    return ask


def counts(found: Sequence[Judged]) -> dict[str, int]:
    """``{supported, contradicted, undecided}``."""
    return {verdict: sum(one.verdict == verdict for one in found) for verdict in MARKS}


def in_brief(found: Sequence[Judged]) -> Prose:
    """How many claims stand, fall and stay open at which scale, and how many fall for what reason."""
    by = counts(found)
    text = f"Of {len(found)} claims of the paper, {by['supported']} are supported by our runs{_at(found)}"
    text += f", {by['contradicted']} contradicted, and {by['undecided']} stay undecided."
    waiting = sum(one.verdict == "undecided" and len(one.run_ids) < one.num_planned for one in found)
    if waiting:
        text += f" Of the undecided ones {waiting} still wait for runs."
    if reasons := Counter(one.reason for one in found if one.reason).most_common():
        text += f" Why contradicted: the difference is {listed(f'{reason} ({number})' for reason, number in reasons)}."
    if low := sum(one.below_chance for one in found):
        text += f" Of all verdicts {low} rest on rows that each lie below a random answer."
    return Prose(text)


def _at(found: Sequence[Judged]) -> str:
    """`` at the scale tiny``; nothing without a claim."""
    scales = list(dict.fromkeys(one.scale for one in found))
    return f" at the scale{'s' if len(scales) > 1 else ''} {listed(scales)}" if scales else ""


def of_page(results: Results, said: Tracks | None = None, ledger: Ledger | None = None) -> list[Judged]:
    """The claims about a page's question with their verdicts from the runs of the page.

    Args:
        results: From comparison.read.
        said: What these runs were asked on the way.
        ledger: Another ledger than that of ``params/claims.yaml``.
    """
    ledger, here = ledger or load_ledger(), results.question.question
    claims = [claim for claim in ledger.claims if claim.question == here]
    known = Evidence(results, said or Tracks(results, {}))
    return judge(Ledger(margin=ledger.margin, claims=claims), lambda _: known, strict=False) if claims else []


def said(found: Sequence[Judged], claim_id: str, *, numbers: bool = False) -> Prose:
    """A claim with its verdict in one sentence, for a page that leans on it.

    Args:
        found: From :func:`judged` or :func:`of_page`.
        claim_id: Its id.
        numbers: Whether its contrasts follow, each with its interval.

    Raises:
        MmpeftError: The ledger has no such claim.
    """
    one = next((one for one in found if one.claim.id == claim_id), None)
    if one is None:
        raise MmpeftError(f"claim {claim_id}: not in the ledger; there are {listed(one.claim.id for one in found)}.")
    runs = f"{len(one.run_ids)} of {one.num_planned} runs, scale {one.scale}"
    text = f"«{one.claim.claim}» {one.in_words.capitalize()} ({runs})."
    told = "; ".join(f"{outcome.name}: {_interval(outcome, one.claim)}" for outcome in one.outcomes) if numbers else ""
    return Prose(f"{text} {told}." if told else text)


CONTRAST = "the contrast that says least for it"


def verdict_table(found: Sequence[Judged], *, pages: bool = True) -> Table:
    """The ledger: a row a claim with verdict, the decisive contrast and its interval, runs, and the page that has them.

    Args:
        found: From :func:`judged` or :func:`of_page`.
        pages: Whether to name the page; not on the page itself.
    """
    if not found:
        return Table(pd.DataFrame(), "The ledger has no claim of the paper about this question.")
    rows = [
        {
            "verdict": one.verdict,
            "reason": one.reason,
            "below_chance": one.below_chance,
            "claim": one.claim.claim,
            "where": one.claim.where,
            "interval": _interval(one.decisive, one.claim),
            "contrast": one.decisive.name,
            "runs": f"{len(one.run_ids)} of {one.num_planned}",
            "page": one.claim.question,
        }
        for one in found
    ]
    frame = pd.DataFrame(rows, index=[one.claim.id for one in found])
    shown = frame.assign(
        verdict=_with_words((f"<b>{MARKS[one]} {one}</b>" for one in frame["verdict"]), (one.why for one in found)),
        claim=_with_words(map(escape, frame["claim"]), frame["where"]),
        interval=_with_words(frame["interval"], frame["contrast"]),
        page=[f'<a href="{name}.html">{name}</a>' for name in frame["page"]],
    )
    left_out = ["reason", "below_chance", "where", "contrast", *([] if pages else ["page"])]
    shown = shown.drop(columns=left_out).rename(columns={"interval": CONTRAST})
    return Table(frame, to_html(shown, index=False, fitted=True))


def _with_words(cells: Iterable[str], words: Iterable[str]) -> list[str]:
    """Cells with a small line below each, where there are words for one."""
    lines = (f'<small class="words">{escape(word)}</small>' if word else "" for word in words)
    return [f"{cell}{line}" for cell, line in zip(cells, lines, strict=True)]


def _interval(outcome: Outcome, claim: Claim) -> str:
    if outcome.mean is None or outcome.low is None or outcome.high is None:
        return DASH
    if any(contrast.measure == SEED_SD for contrast in claim.contrasts):
        ratio, low, high = (math.exp(value) if value < 50 else math.inf for value in (outcome.mean, outcome.low, outcome.high))
        return f"ratio {ratio:.2f} ({low:.2f} to {high:.2f})"
    return f"{percent(outcome.mean, sign=True)} points ({percent(outcome.low, sign=True)} to {percent(outcome.high, sign=True)})"


def contrast_table(one: Judged) -> Table:
    """All contrasts of a claim."""
    frame = pd.DataFrame([vars(outcome) for outcome in one.outcomes])
    verdicts = _with_words((f"{MARKS[o.verdict]} {o.verdict}" for o in one.outcomes), (o.reason for o in one.outcomes))
    shown = [(escape(o.name), _interval(o, one.claim), text) for o, text in zip(one.outcomes, verdicts, strict=True)]
    return Table(frame, to_html(pd.DataFrame(shown, columns=["contrast", "difference", "verdict"]), index=False))


def details(found: Sequence[Judged]) -> Table:
    """Every claim with all of its contrasts, its rule, its runs and its page, each in a fold of its own."""
    rows = [(one.claim.id, one.verdict, len(one.run_ids), one.num_planned, one.scale) for one in found]
    frame = pd.DataFrame(rows, columns=["claim", "verdict", "runs", "planned", "scale"])
    return Table(frame, "".join(_fold(one) for one in found))


def _fold(one: Judged) -> str:
    claim = one.claim
    runs = f"{len(one.run_ids)} of {one.num_planned} runs, scale {one.scale}"
    rule = {"all": "Every contrast must hold.", "most": "More than half of the contrasts must hold."}[claim.rule]
    ids = f"<details><summary>run ids</summary><code>{' '.join(one.run_ids)}</code></details>" if one.run_ids else ""
    return (
        f'<details id="{claim.id}"><summary><b>{MARKS[one.verdict]} {one.in_words}</b> {escape(claim.claim)}</summary>'
        f'<p>{escape(claim.where)}. {rule} {runs}, shown on <a href="{claim.question}.html">{claim.question}</a>.</p>'
        f"{contrast_table(one).html}{ids}</details>"
    )


# --------------------------------------------------------------------------------------------------
# The paper against itself
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A claim in one place of the paper's tables.

    Attributes:
        name: Where: a model, a method …
        difference: Of the printed averages, in fractions.
        holds: Whether it has the sign that the claim says.
    """

    name: str
    difference: float
    holds: bool


NUMBERED = {"size": ("method_size", ["method"]), "data": ("train_examples", ["method", "dataset"])}
"""Columns that number what a table's own labels cannot be compared by: whose values, from 1 up, within which rows."""


@cache
def printed(number: int) -> pd.DataFrame:
    """A table of the paper, a row a number, with ``size``, ``data`` and, of a table over epochs, ``epoch`` beside its columns."""
    table = published().query("table == @number")
    for name, (column, within) in NUMBERED.items():
        values = table[column].astype(str).str.extract(r"(\d+)")[0].astype(float)
        table = table.assign(**{name: values}).assign(
            **{name: lambda rows, name=name, within=within: rows.groupby(within)[name].rank("dense").fillna(1).astype(int)}
        )
    return table.assign(epoch=table["dataset"].str.extract(r"epoch (\d+)$")[0].astype(float).fillna(0).astype(int))


def cases(contrast: Published, margin: float) -> list[Case]:
    """Every place of the paper's tables where a claim can be read off; rows with unreadable cells are left out."""
    table = printed(contrast.table)
    found = []
    for values in product(*(dict.fromkeys(table[column]) for column in contrast.by)):
        here = table[np.logical_and.reduce([table[c] == v for c, v in zip(contrast.by, values, strict=True)])]
        difference = _difference(here, contrast)
        if difference is None:
            continue
        holds = weighed(contrast.expect, difference, difference, margin if contrast.expect == "near" else 0.0) == "supported"
        found.append(Case(_place(contrast, values), difference, holds))
    return found


def _difference(table: pd.DataFrame, contrast: Published) -> float | None:
    """The difference in one place, in fractions to the printed digits; None if a row cannot be read."""
    plus = [_averages(table, row, contrast) for row in contrast.plus]
    if isinstance(contrast.minus, str):
        pick: Callable[[Sequence[float]], float] = min if contrast.minus == "lowest" else max
        minus = [_others(table, contrast)]
    else:
        pick, minus = max, [_averages(table, row, contrast) for row in contrast.minus]
    if not all([*plus, *minus]):
        return None
    return round(sum(map(pick, plus)) - sum(map(pick, minus)), 6)


def _place(contrast: Published, values: Sequence[Any]) -> str:
    """Where a case stands and against what: ``LLaVA-1.5-7B, LoRA, unseen, against frozen``."""
    words = [f"{c} {v}" if isinstance(v, int | np.integer) else str(v) for c, v in zip(contrast.by, values, strict=True)]
    words += [contrast.over] if contrast.over not in ("all", "printed") else []
    if isinstance(contrast.minus, list) and len(contrast.minus) == 1:
        (mine,), (other,) = contrast.plus, contrast.minus
        differing = [f"{c} {v}" if isinstance(v, int) else str(v) for c, v in other.items() if mine.get(c) != v]
        words += [f"against {' '.join(differing)}"] if differing else []
    return ", ".join(words)


def _averages(table: pd.DataFrame, row: Mapping[str, Any], contrast: Published) -> list[float]:
    """The averages (fractions) of the printed rows with these values."""
    over = row.get("over", contrast.over)
    for column, value in row.items():
        table = table if column == "over" else table[table[column] == value]
    columns = [
        task.column
        for task in COLUMNS.values()
        if over in ("all", task.column) or (over in GROUPS and task.seen == (over == "seen"))
    ]
    keys = ["model", "method", "connector", "location", "size", "data"]
    wide = table.pivot_table(index=keys, columns="dataset", values=contrast.column, aggfunc="first")
    wide = wide if over == "printed" else wide.reindex(columns=columns)
    return [float(value) / 100 for value in wide.dropna().mean(axis=1)]


def _others(table: pd.DataFrame, contrast: Published) -> list[float]:
    mine = contrast.plus[0]["method"]
    return [value for name in table["method"].unique() if name != mine for value in _averages(table, {"method": name}, contrast)]


def paper_table(ledger: Ledger) -> Table:
    """The paper against itself: in how many places its own legible tables bear a claim out, by how much, and where they do not.

    A difference is the printed average of what the claim names minus that of what it is compared with.
    """
    rows = []
    for claim in ledger.claims:
        found = [case for contrast in claim.published for case in cases(contrast, ledger.margin)]
        if not found:
            continue
        against = [f"{case.name} ({percent(case.difference, sign=True)})" for case in found if not case.holds]
        ends = dict.fromkeys(percent(end([case.difference for case in found]), sign=True) for end in (min, max))
        rows.append(
            {
                "claim": claim.claim,
                "table": ", ".join(str(number) for number in dict.fromkeys(one.table for one in claim.published)),
                "legible places": len(found),
                "borne out in": len(found) - len(against),
                "differences (points)": " to ".join(ends),
                "not in (points)": "; ".join(against) or DASH,
            }
        )
    frame = pd.DataFrame(rows)
    return Table(frame, to_html(frame.map(lambda value: escape(str(value))), index=False, fitted=True))
