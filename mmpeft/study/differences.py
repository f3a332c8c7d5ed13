"""Tables of differences, in one way through the whole book: what is sure after all that was looked at, and what could be seen.

The differences of one table are a **family**. Beside each stands its own interval; a star marks those that are told apart
from zero also after Holm's correction for the family. Below stand how many differences that were, the smallest true one
that such runs would find, and which planned runs are not behind the table.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mmpeft.decide import verdicts
from mmpeft.stats import Estimate
from mmpeft.study.comparison import GROUPS, Results, detectable, estimate, gain
from mmpeft.study.report import DASH, Table, cell, comparisons, percent, row_name, to_html

Cells = dict[Any, dict[Any, Any]]
"""The cells of a table: by row, then by column."""

STAR = "<b>*</b>"
FEW_ROWS = 4
"""So many rows with missing runs or fewer are named."""


def framed(
    rows: Mapping[Any, Mapping[Any, Any]], shown: Mapping[Any, Mapping[Any, Any]], nothing: str, results: Results | None = None
) -> Table:
    """A table of numbers with its page, rows and columns by name or by tuple of names; the sentence, if it has no row.

    Args:
        rows: The numbers.
        shown: The same for the reader.
        nothing: What is said if there are no rows.
        results: Where the numbers come from: says below which planned runs are not behind them.
    """
    if not rows:
        return Table(pd.DataFrame(), f"<p>{nothing}</p>")
    frame, page = (_table(content) for content in (rows, shown))
    table = Table(frame, to_html(page))
    return counted(table, results) if results else table


def compared(
    rows: Mapping[Any, Mapping[Any, Any]], shown: Mapping[Any, Mapping[Any, Any]], nothing: str, results: Results
) -> Table:
    """A table whose cells in ``shown`` hold the estimates of differences, or None; other cells are shown as they are.

    Arguments are those of :func:`framed`.
    """
    family = {(row, column): e for row, cells in shown.items() for column, e in cells.items() if is_difference(e)}
    starred = stars(family)
    page = {
        row: {c: marked(cell(e, sign=True), starred[row, c]) if (row, c) in family else e for c, e in cells.items()}
        for row, cells in shown.items()
    }
    return below(framed(rows, page, nothing, results), *notes(family.values()))


def is_difference(value: object) -> bool:
    """Whether a cell stands for a difference, known or not."""
    return value is None or isinstance(value, Estimate)


def stars(family: Mapping[Any, Estimate | None]) -> dict[Any, str]:
    """A star for each difference that is told apart from zero after Holm's correction for all of them, else nothing."""
    sure = verdicts(family, 0.0)
    return {name: STAR if found in ("higher", "lower") else "" for name, found in sure.items()}


def marked(text: str, star: str) -> str:
    """A cell's text with the star behind its number, before the interval below it."""
    return text.replace("<small>", f"{star}<small>", 1)


def notes(differences: Iterable[Estimate | None]) -> list[str]:
    """What stands below a family of differences: how many there are, how many stay, how small a one could be found."""
    known = [e for e in differences if e]
    return [*holm_note(known), *smallest(known)]


def holm_note(known: Sequence[Estimate], null: str = "zero", what: str = "differences") -> list[str]:
    """What the star means, and how many of those that are clear by themselves have one; nothing if none is."""
    alone = sum(not e.low <= 0 <= e.high for e in known)
    stay = sum(map(bool, stars(dict(enumerate(known))).values()))
    if len(known) < 2 or not alone:
        return []
    text = f"told apart from {null} also after Holm's correction for the {len(known)} {what} of this table"
    return [f"{STAR} {text}: {stay} of the {alone} whose own interval excludes it."]


def smallest(differences: Iterable[Estimate | None]) -> list[str]:
    """The sentence about the smallest true difference that runs like these would find; none without a spread."""
    needed = [detectable(e) for e in differences if e and e.standard_error > 0]
    if not needed:
        return []
    low, high = percent(min(needed)), percent(max(needed))
    ends = f"{low} points" if low == high else f"{low} to {high} points, by cell"
    return [f"The smallest true difference that such runs would find four times in five, looked at alone: {ends}."]


def below(table: Table, *sentences: str) -> Table:
    """The table with sentences in small print below it."""
    return Table(table.frame, table.html + "".join(f"<p><small>{text}</small></p>" for text in sentences))


def counted(table: Table, results: Results) -> Table:
    """The table, and below it how many planned runs failed or are missing, and in which rows; as it is if none."""
    counts = results.counts
    absent = [f"{counts[state]} {state}" for state in ("failed", "missing") if counts[state]]
    if not absent:
        return table
    done = set(results.runs.loc[results.runs["status"] == "ok", "run_id"])
    finished = {row: sum(run.run_id in done for run in planned) for row, planned in results.variants.items()}
    short = [row for row, planned in results.variants.items() if finished[row] < len(planned)]
    named = [f"{row_name(row)} {finished[row]} of {len(results.variants[row])}" for row in short[:FEW_ROWS]]
    if len(short) > FEW_ROWS:
        named.append(f"and {len(short) - FEW_ROWS} more rows")
    text = f"{counts['done']} of {counts['planned']} planned runs are behind the tables of this page"
    return below(table, f"{text} ({', '.join(absent)}). Rows without all of theirs: {'; '.join(named)}.")


def _table(content: Mapping[Any, Mapping[Any, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(content.values()), dtype=object)
    table.index, table.columns = (_named(list(names)) for names in (content, table.columns))
    return table


def _named(names: Sequence[Any]) -> pd.Index:
    return pd.MultiIndex.from_tuples(names) if names and isinstance(names[0], tuple) else pd.Index(names)


# --------------------------------------------------------------------------------------------------
# Rows in pairs
# --------------------------------------------------------------------------------------------------


def paired_table(results: Results, over: str) -> Table:
    """Differences of averages, paired by seed and item, with their intervals and what could be detected.

    The detectable difference is the true one found four times in five at the 5 % level.

    Args:
        results: From comparison.read.
        over: ``frozen`` compares each method's tuned connector with its frozen one, ``connector`` each row with
            the connector alone, ``zero-shot`` each row with the base as it is.

    Raises:
        MmpeftError: ``over`` is none of these.
    """
    rows: Cells = {}
    shown: Cells = {}
    for variant, base in comparisons(results, over):
        name = variant.label if over == "frozen" else row_name(variant)
        rows[name], shown[name] = {}, {}
        for group in GROUPS:
            e = gain(results, variant, base, group)
            needed = detectable(e) if e else None
            numbers = (e.mean, e.low, e.high, needed) if e else (None,) * 4
            rows[name] |= {(group, part): n for part, n in zip(("mean", "low", "high", "detectable"), numbers, strict=True)}
            shown[name][f"{group} average", "points"] = e
            shown[name][f"{group} average", "detectable"] = DASH if needed is None else percent(needed)
    return compared(rows, shown, "The plan holds no such pair.", results)


def with_leads(table: Table, results: Results) -> Table:
    """A table of scores, and below it how small a lead of the best row of an average over the others could be found."""
    told = []
    for group in GROUPS:
        found = {row: e for row in results.variants if (e := estimate(results, row, group))}
        if len(found) > 1:
            best = max(found, key=lambda row: found[row].mean)
            leads = [gain(results, best, row, group) for row in found if row != best]
            told += [f"{group.capitalize()} average, the best row over each other one. {text}" for text in smallest(leads)]
    return below(counted(table, results), *told)
