"""Tables and sentences about what runs said on the way: over epochs, against the base, one method against the others."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mmpeft.decide import verdicts
from mmpeft.methods import METHODS
from mmpeft.plan import Question
from mmpeft.stats import Estimate
from mmpeft.study.comparison import Results, margin
from mmpeft.study.differences import below, compared, framed, smallest
from mmpeft.study.paper import METHOD_OF, published
from mmpeft.study.report import DASH, RANDOM_ANSWER, THIN, Prose, Table, cell, listed, percent, to_html, with_interval
from mmpeft.study.tracks import Tracks, chance, change, epochs_at, estimate, found_in
from mmpeft.tasks import TASKS

NAMES = {
    "other sources": "the other sources",
    "unseen": "the other unseen tasks",
    "seen": "the seen tasks",
    "captions": "captions",
    "presence": "what is in the image",
    "source": "the source's own dev split",
}
"""How a sentence names a group of tracks.GROUPS."""

MOMENTS = ("best", "best+1", "best+2", "best+3", "best+4", "last")
"""The paper's moments, the epoch of least dev loss and four later ones, and the last one."""



def _tables(content: Mapping[str, Mapping[str, Estimate | None]], results: Results, *, sign: bool = False, nothing: str) -> Table:
    """Estimates by row and column, as numbers and for the reader; with a sign, they are differences."""
    means = {row: {k: e.mean if e else np.nan for k, e in cells.items()} for row, cells in content.items()}
    if sign:
        return compared(means, content, nothing, results)
    return framed(means, {row: {k: cell(e) for k, e in cells.items()} for row, cells in content.items()}, nothing, results)


def asked(question: Question) -> Prose:
    """What the runs of a question are asked on the way, in a sentence."""
    specs = [spec for spec in question.specs() if spec.track.wanted]
    if not specs:
        return Prose("These runs are asked nothing on the way.")
    track = next((spec.track for spec in specs if spec.method.trains), specs[0].track)
    tasks = list(dict.fromkeys(name for spec in specs for name in (spec.task, *spec.track.tasks)))
    columns = listed(TASKS[name].column if name in TASKS else name for name in tasks)
    much = f"{track.num_examples} examples" if track.num_examples else "all examples"
    often = "each epoch" if track.every_epochs == 1 else f"every {track.every_epochs} epochs"
    return Prose(
        f"Before training and after {often} a run is asked {much} of each of {len(tasks)} tasks: its own on dev, the others on "
        f"{track.split}. They are {columns}. The base is asked the same, once."
    )


# --------------------------------------------------------------------------------------------------
# Over epochs
# --------------------------------------------------------------------------------------------------


def moments_table(tracks: Tracks, what: str, moments: Sequence[int | str] = MOMENTS, measure: str = "score") -> Table:
    """A row a method, a column a moment: the mean over the tasks of ``what``, in percent.

    The first rows are a random answer, where there is one to the tasks, and the base. A moment named after the best epoch
    takes the seeds that have it in every source, and its cells say how many those are; the column before says which epoch
    was the best one.
    """
    content = {
        row.label: {str(moment): estimate(tracks, row, what, moment, measure) for moment in moments} for row in tracks.rows
    }
    if not content:
        return Table(pd.DataFrame(), "<p>No run has left anything yet.</p>")
    rows = {name: {moment: e.mean if e else float("nan") for moment, e in cells.items()} for name, cells in content.items()}
    untrained = tracks.base.label if tracks.base else ""
    shown = {
        name: {moment: cell(e) + _seeds(e, moment, name == untrained) for moment, e in cells.items()}
        for name, cells in content.items()
    }
    if "best" in moments:
        best = {row.label: epochs_at(tracks, row, "best") for row in tracks.trained}
        means = {name: float(np.mean(epochs)) for name, epochs in best.items() if epochs}
        rows = {name: {"best epoch": means.get(name, float("nan")), **cells} for name, cells in rows.items()}
        shown = {name: {"best epoch": _range(best.get(name, [])), **cells} for name, cells in shown.items()}
    blind = chance(tracks, what, measure)
    if blind is not None:
        unknown = {"best epoch": float("nan")} if "best" in moments else {}
        rows = {RANDOM_ANSWER: unknown | {str(moment): blind for moment in moments}, **rows}
        first = dict.fromkeys(unknown, DASH)
        shown = {RANDOM_ANSWER: first | {str(moment): percent(blind) for moment in moments}, **shown}
    gaps = smallest(leads(tracks, what, moments, measure))
    told = [f"At each moment the highest row over each other one. {text}" for text in gaps]
    return below(framed(rows, shown, "", tracks.results), *told)


def _seeds(e: Estimate | None, moment: str, untrained: bool) -> str:
    """How many seeds have an epoch so long after the best one; nothing of other moments, nor of the base."""
    if e is None or untrained or "+" not in moment:
        return ""
    return f"<small>{e.num_seeds} seed{'s' if e.num_seeds > 1 else ''}</small>"


def leads(tracks: Tracks, what: str, moments: Sequence[int | str], measure: str = "score") -> list[Estimate | None]:
    """How far the highest row of each moment lies above each other one."""
    found: list[Estimate | None] = []
    for moment in moments:
        here = found_in(tracks, tracks.rows, what, moment, measure)
        best = max(here, key=lambda row: here[row].mean, default=None)
        found += [change(tracks, best, row, what, moment, moment, measure) for row in here if best and row != best]
    return found


def _range(epochs: Sequence[int]) -> str:
    """``3 to 12``, or the one there is."""
    if not epochs:
        return DASH
    return str(min(epochs)) if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"


def later_epochs(tracks: Tracks) -> Prose:
    """Whether there are epochs after the best one at all: how many runs have them."""
    best = [epoch for row in tracks.trained for epoch in epochs_at(tracks, row, "best")]
    if not best:
        return Prose("No run has left anything yet.")
    after = sum(len(epochs_at(tracks, row, "best+1")) for row in tracks.trained)
    four = sum(len(epochs_at(tracks, row, "best+4")) for row in tracks.trained)
    return Prose(
        f"Of {len(best)} runs, {after} have an epoch after the one of least dev loss, and {four} have four of them. "
        f"The epoch of least dev loss is {_range(best)}, with {np.median(best):g} as its median."
    )


FORGOTTEN = ("other sources", "unseen", "seen", "captions", "presence")
"""The groups on which a method is held against the base: the family of differences behind a table and its sentences."""


def against_base_table(tracks: Tracks, groups: Sequence[str] = FORGOTTEN, moment: int | str = "last") -> Table:
    """How far each method stands above the untrained base, in points: a row a method, a column a group.

    Below zero is what it has forgotten.
    """
    base = tracks.base
    content = {
        row.label: {NAMES.get(g, g): change(tracks, row, base, g, moment, 0) for g in groups} for row in tracks.trained if base
    }
    return _tables(content, tracks.results, sign=True, nothing="The base has not been asked yet.")


def forgetting(tracks: Tracks, what: str, moment: int | str = "last") -> Prose:
    """Which methods lost, kept or gained something on a group, against the untrained base."""
    base = tracks.base
    found = {row.label: e for row in tracks.trained if base and (e := change(tracks, row, base, what, moment, 0))}
    name = NAMES.get(what, what)
    if not found:
        return Prose(f"What training does to {name} is not known yet: too few runs have a record.")
    groups = FORGOTTEN if what in FORGOTTEN else (what,)
    family = {(row.label, g): change(tracks, row, base, g, moment, 0) for row in tracks.trained if base for g in groups}
    verdict = verdicts(family, margin())
    words = {
        "lower": "lower than the base without training",
        "higher": "higher than the base without training",
        "equal": f"within {percent(margin(), 0)} points of the base",
        "undecided": "not told apart from the base",
    }
    sides = {text: [label for label in found if verdict[label, what] == side] for side, text in words.items()}
    are = {words: "is" if len(labels) == 1 else "are" for words, labels in sides.items()}
    said = "; ".join(f"{listed(labels)} {are[words]} {words}" for words, labels in sides.items() if labels)
    numbers = ", ".join(f"{label} {with_interval(e, sign=True)}" for label, e in found.items())
    return Prose(f"On {name}, at {_moment(moment)}: {said}. In numbers, each interval by itself: {numbers}.")


def course(tracks: Tracks, what: str, measure: str = "score", start: int | str = "first", end: int | str = "last") -> Prose:
    """What the training between two moments does to each method's mean."""
    found = {row.label: e for row in tracks.trained if (e := change(tracks, row, row, what, end, start, measure))}
    if not found:
        return Prose(f"How {NAMES.get(what, what)} change with training is not known yet: too few runs have a record.")
    verdict = verdicts(found, margin())
    names = {
        "higher": "rises for {}",
        "lower": "falls for {}",
        "equal": f"moves by less than {percent(margin(), 0)} points for {{}}",
        "undecided": "moves by nothing that these runs can tell from chance for {}",
    }
    sides = {text: [label for label in found if verdict[label] == side] for side, text in names.items()}
    said = listed(words.format(listed(labels)) for words, labels in sides.items() if labels)
    numbers = ", ".join(f"{label} {with_interval(e, sign=True)}" for label, e in found.items())
    text = f"From {_moment(start)} to {_moment(end)} the {_subject(measure, what)} {said}."
    return Prose(f"{text} In numbers, each interval by itself: {numbers}.")


def _moment(moment: int | str) -> str:
    """``the last epoch``, ``epoch 3``."""
    return f"epoch {moment}" if isinstance(moment, int) else f"the {moment} epoch"


def _subject(measure: str, what: str) -> str:
    """``score of the seen tasks``; a measure of captions needs no more words."""
    name = MEASURE_NAMES.get(measure, measure)
    return f"{name} of {NAMES.get(what, what)}" if measure == "score" else name


# --------------------------------------------------------------------------------------------------
# One method against the others
# --------------------------------------------------------------------------------------------------

MEASURE_NAMES = {
    "score": "score",
    "chair_i": "share of invented things",
    "chair_s": "share of captions that invent a thing",
    "recall": "share of the things that are named",
}


def standing(tracks: Tracks, what: str, moment: int | str = "last", measure: str = "score", *, best: str = "highest") -> Prose:
    """Which method leads on a group at a moment, and the base beside it."""
    found = found_in(tracks, tracks.trained, what, moment, measure)
    if len(found) < 2:
        return Prose(f"On {NAMES.get(what, what)} nothing can be compared yet: too few runs have a record.")
    choose = max if best == "highest" else min
    first = choose(found, key=lambda row: found[row].mean)
    differences = {row: change(tracks, first, row, what, moment, moment, measure) for row in found if row != first}
    sure = verdicts(differences, 0.0)
    equals = [row.label for row in differences if sure[row] not in ("higher", "lower")]
    text = f"At {_moment(moment)} the {best} {_subject(measure, what)} is that of {first.label}: "
    text += f"{with_interval(found[first])}."
    text += f" Not told apart from it: {listed(equals)}." if equals else " Every other method is clearly apart from it."
    base, blind = estimate(tracks, tracks.base, what, 0, measure) if tracks.base else None, chance(tracks, what, measure)
    text += f" The base without training has {with_interval(base)}." if base else ""
    return Prose(text + (f" A random answer has {percent(blind)}{THIN}%." if blind is not None else ""))


# --------------------------------------------------------------------------------------------------
# The paper's numbers
# --------------------------------------------------------------------------------------------------


def published_moments(table: int) -> Table:
    """The paper's numbers over epochs, as printed: its Table 4 (scores in percent) or 7 (captions of a hundred).

    A row a method, a column an epoch, and their mean.
    """
    rows = published().query(f"table == {table}")
    rows = rows.assign(
        label=[METHODS[METHOD_OF[name]].label for name in rows["method"]],
        epoch=rows["dataset"].str.extract(r"epoch (\d+)$")[0].astype("Int64"),
    )
    order = [method.label for method in METHODS.values()]
    frame = rows.dropna(subset="epoch").pivot_table(index="label", columns="epoch", values="value")
    frame = frame.sort_index(key=lambda labels: labels.map(order.index))
    frame["mean"] = frame.mean(axis=1)
    head = "best+{}" if table == 4 else "after epoch {}"
    shown = frame.map("{:.1f}".format).assign(mean=frame["mean"].map("{:.2f}".format))
    shown = shown.rename(columns=lambda name: name if name == "mean" else head.format(name))
    shown.index.name = shown.columns.name = None
    return Table(frame, to_html(shown))
