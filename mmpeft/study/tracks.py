"""What runs were asked on the way, as scores to compare: by epoch, from each source to each task.

    read(results, store) -> Tracks            everything said on the way, by row, source and task
    scores(tracks, row, what, moment)         what it scored then, as the statistics take it
    estimate, change(…) -> Estimate           with its interval; against the base, another row, another moment
    chance(tracks, what)                      what a random answer scores there

A **source** is the task a run is trained on. A **moment** is an epoch: its number, or

    first    the first one after some training          last    the last one
    best     the one of least dev loss on the source, run by run; best+2 is two looks later

The untrained base was asked once, so for it every moment is that one. Where several sources are averaged, their scores
on one task are averaged item by item first: the items are the same, and what makes one hard is counted once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmpeft.errors import MmpeftError, unknown
from mmpeft.faithfulness import PARSERS, Mentions, mentions, ratio_scores
from mmpeft.methods import METHODS
from mmpeft.records import Record, Store
from mmpeft.stats import Estimate, TaskScores, hierarchical_bootstrap, paired_difference
from mmpeft.study import comparison
from mmpeft.study.comparison import Results, Variant, full_marks
from mmpeft.tasks import TASKS

Floats = NDArray[np.float64]
Words = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Track:
    """What one row, trained on one source with several seeds, answered to one task.

    Attributes:
        task: Which task.
        epochs: (E,) when it was asked.
        seeds: (S,).
        examples: (I,) example ids.
        pictures: (I,) picture ids.
        scores: (S, E, I) shares of the most the metric can give.
        answers: (S, E, I) texts.
        losses: (S, E) dev loss of the source, the same for each task of a source; nan where there is none.
    """

    task: str
    epochs: tuple[int, ...]
    seeds: NDArray[Any]
    examples: NDArray[Any]
    pictures: NDArray[Any]
    scores: Floats
    answers: Words
    losses: Floats


@dataclass(frozen=True, eq=False)
class Tracks:
    """What the runs of a question were asked on the way.

    Attributes:
        results: Where they come from.
        found: By row, source and task.
    """

    results: Results
    found: Mapping[tuple[Variant, str, str], Track]

    @property
    def sources(self) -> list[str]:
        """The planned sources."""
        return self.results.tasks()

    @property
    def asked(self) -> list[str]:
        """The planned tasks that any run is asked, in the order of the plan."""
        return list(dict.fromkeys(name for run in self.results.planned for name in (run.spec.task, *run.spec.track.tasks)))

    @property
    def epochs(self) -> list[int]:
        """Every epoch at which something was asked."""
        return sorted({epoch for track in self.found.values() for epoch in track.epochs})

    @property
    def rows(self) -> list[Variant]:
        """The rows that were asked anything, in the order of tables."""
        return [row for row in self.results.variants if any(key[0] == row for key in self.found)]

    @property
    def base(self) -> Variant | None:
        """The row of the untrained base."""
        return comparison.find(self.results, METHODS["zero-shot"].label)

    @property
    def trained(self) -> list[Variant]:
        """The rows that train, in the order of tables."""
        return [row for row in self.rows if row != self.base]


def read(results: Results, store: Store) -> Tracks:
    """Everything the question's runs said on the way; a run whose file is damaged is set aside and left out."""
    found: dict[tuple[Variant, str, str], Track] = {}
    for row, planned in results.variants.items():
        for source in dict.fromkeys(run.spec.task for run in planned):
            runs = [each for run in planned if run.spec.task == source and (each := _said(store, run.run_id))]
            found |= {(row, source, task): track for task, track in _joined(runs).items()}
    return Tracks(results, found)


def _said(store: Store, run_id: str) -> tuple[Record, list[dict[str, Any]]] | None:
    record = store.load(run_id)
    if record is None or record.tracked_sha256 is None:
        return None
    try:
        return record, store.tracked_lines(run_id)
    except MmpeftError:
        return None  # set aside by the store: the run counts as missing


def _joined(runs: Sequence[tuple[Record, list[dict[str, Any]]]]) -> dict[str, Track]:
    """The runs of one row and source, one Track a task. Runs of one plan are asked the same examples at the same epochs."""
    if not runs:
        return {}
    runs = sorted(runs, key=lambda run: run[0].spec.seed)
    epochs = tuple(dict.fromkeys(point.epoch for point in runs[0][0].track))
    losses = np.array([[_loss(record, epoch) for epoch in epochs] for record, _ in runs])
    lines = [pd.DataFrame(lines).groupby("task", sort=False) for _, lines in runs]
    tracks = {}
    for task in lines[0].groups:
        mine = [groups.get_group(task) for groups in lines]
        share = full_marks(str(task))
        tracks[str(task)] = Track(
            task=str(task),
            epochs=epochs,
            seeds=np.array([record.spec.seed for record, _ in runs]),
            examples=mine[0]["example_id"].to_numpy(),
            pictures=mine[0]["picture_id"].to_numpy(),
            scores=np.array([np.array(rows["scores"].tolist()).T for rows in mine]) / share,
            answers=np.array([np.array(rows["predictions"].tolist(), dtype=object).T for rows in mine], dtype=object),
            losses=losses,
        )
    return tracks


def _loss(record: Record, epoch: int) -> float:
    return next((point.scores["loss"] for point in record.track if point.epoch == epoch and "loss" in point.scores), np.nan)


# --------------------------------------------------------------------------------------------------
# What is asked about, and when
# --------------------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "other sources": lambda task, sources: task in sources,
    "unseen": lambda task, sources: not TASKS[task].seen and not TASKS[task].evaluation_only,
    "seen": lambda task, sources: TASKS[task].seen,
    "captions": lambda task, sources: TASKS[task].metric in comparison.FULL_MARKS,
    "presence": lambda task, sources: TASKS[task].metric == TASKS["pope"].metric,
}
"""Groups of tasks that a run is not trained on: the paper's targets; tasks new to the base; those it was trained on;
captions; yes/no questions about what is there."""

SOURCE = "source"
"""Stands for the run's own task, on dev."""


def pairs(tracks: Tracks, what: str) -> list[tuple[str, str]]:
    """The planned pairs (source, task) behind a name: a group of GROUPS, ``source``, or a task.

    Raises:
        MmpeftError: It is none of these.
    """
    if what == SOURCE:
        return [(source, source) for source in tracks.sources]
    if what not in GROUPS and what not in TASKS:
        raise unknown("group or task", what, [*GROUPS, SOURCE, *TASKS])
    asked = [(source, task) for source in tracks.sources for task in tracks.asked if source != task]
    if what in TASKS:
        return [pair for pair in asked if pair[1] == what]
    return [pair for pair in asked if GROUPS[what](pair[1], tracks.sources)]


def places(track: Track, moment: int | str) -> NDArray[np.int_]:
    """(S,) the place of the moment among the epochs for each seed; -1 where there is none.

    Raises:
        MmpeftError: There is no such moment.
    """
    if len(track.epochs) == 1:
        return np.zeros(len(track.seeds), dtype=int)
    trained = [i for i, epoch in enumerate(track.epochs) if epoch > 0]
    if isinstance(moment, int):
        place = track.epochs.index(moment) if moment in track.epochs else -1
        return np.full(len(track.seeds), place)
    name, _, later = moment.partition("+")
    if moment in ("first", "last"):
        return np.full(len(track.seeds), trained[0] if moment == "first" else trained[-1])
    if name != "best" or (later and not later.isdigit()):
        raise unknown("moment", moment, ["first", "last", "best", "best+1"])
    found = np.array([trained[0] + int(np.argmin(losses[trained])) for losses in track.losses]) + int(later or 0)
    return np.where(found < len(track.epochs), found, -1)


# --------------------------------------------------------------------------------------------------
# Measures
# --------------------------------------------------------------------------------------------------

Measure = Callable[[Track, Floats, Words], Floats]
"""From the scores and answers (S, I) of one moment to one value each, whose mean is the measure."""


@cache
def mentioned(task: str, picture_id: str, caption: str) -> Mentions:
    """What a caption names, and whether it is on the picture."""
    return mentions(caption, TASKS[task].things(picture_id), TASKS[task].names())


def _of_captions(value: Callable[[Mentions], float]) -> Measure:
    def measure(track: Track, scores: Floats, answers: Words) -> Floats:
        rows = [[value(mentioned(track.task, p, a)) for p, a in zip(track.pictures, said, strict=True)] for said in answers]
        return np.array(rows, dtype=float)

    return measure


def _per_thing(track: Track, scores: Floats, answers: Words) -> Floats:
    invented = _of_captions(lambda found: len(found.invented))(track, scores, answers)
    return ratio_scores(invented, _of_captions(lambda found: found.num_mentions)(track, scores, answers))


def _read_as_yes(parser: str) -> Measure:
    def measure(track: Track, scores: Floats, answers: Words) -> Floats:
        return np.array([[PARSERS[parser](said) == "yes" for said in row] for row in answers], dtype=float)

    return measure


def _right(parser: str) -> Measure:
    def measure(track: Track, scores: Floats, answers: Words) -> Floats:
        wanted = right_answers(track)
        return np.array([[PARSERS[parser](said) == one for said, one in zip(r, wanted, strict=True)] for r in answers], float)

    return measure


def _of_yes(parser: str, times: float, said: float, wanted: float) -> Measure:
    """A ratio of answers: so many times those that are rightly yes over the weighted sum of those read as yes and to be yes."""

    def measure(track: Track, scores: Floats, answers: Words) -> Floats:
        read = _read_as_yes(parser)(track, scores, answers)
        positive = np.broadcast_to(np.array(right_answers(track)) == "yes", read.shape).astype(float)
        return ratio_scores(times * read * positive, said * read + wanted * positive)

    return measure


def right_answers(track: Track) -> list[str]:
    """The right answer to each of a track's examples."""
    known = _answers(track.task)
    return [known.get(example, "") for example in track.examples]


@cache
def _answers(task: str) -> dict[str, str]:
    return {example.example_id: example.answer for split in ("dev", "test") for example in TASKS[task].examples(split)}


MEASURES: dict[str, Measure] = {
    "score": lambda track, scores, answers: scores,
    "chair_i": _per_thing,
    "chair_s": _of_captions(lambda found: bool(found.invented)),
    "recall": _of_captions(lambda found: found.recall),
    "num_words": _of_captions(lambda found: found.num_words),
    **{f"accuracy, {parser}": _right(parser) for parser in PARSERS},
    **{f"yes, {parser}": _read_as_yes(parser) for parser in PARSERS},
    **{f"precision, {parser}": _of_yes(parser, 1, 1, 0) for parser in PARSERS},
    **{f"recall, {parser}": _of_yes(parser, 1, 0, 1) for parser in PARSERS},
    **{f"f1, {parser}": _of_yes(parser, 2, 1, 1) for parser in PARSERS},
}
"""What can be measured of the answers of one moment."""


# --------------------------------------------------------------------------------------------------
# Scores and estimates
# --------------------------------------------------------------------------------------------------


def scores(tracks: Tracks, row: Variant, what: str, moment: int | str, measure: str = "score") -> dict[str, TaskScores]:
    """What a row scored at a moment, by task (by source for ``source``); empty unless every planned pair is there.

    Args:
        tracks: From :func:`read`.
        row: A row.
        what: A group of GROUPS, ``source``, or a task.
        moment: An epoch, or a name of one.
        measure: One of MEASURES.

    Raises:
        MmpeftError: No such group, moment or measure.
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    wanted = pairs(tracks, what)
    found = {pair: tracks.found.get((row, *pair)) for pair in wanted}
    by_task: dict[str, list[TaskScores]] = {}
    for (_source, task), track in found.items():
        part = _at(track, moment, MEASURES[measure]) if track else None
        if part is None:
            return {}
        by_task.setdefault(task, []).append(part)
    averages = {task: _averaged(parts) for task, parts in by_task.items()}
    return {} if any(part is None for part in averages.values()) else {t: part for t, part in averages.items() if part}


def _at(track: Track, moment: int | str, measure: Measure) -> TaskScores | None:
    """The values of one moment; seeds that have none are left out."""
    where = places(track, moment)
    kept = np.flatnonzero(where >= 0)
    if not len(kept):
        return None
    values = measure(track, track.scores[kept, where[kept]], track.answers[kept, where[kept]])
    return TaskScores(values, track.seeds[kept], track.examples, track.pictures)


def _averaged(parts: Sequence[TaskScores]) -> TaskScores | None:
    """The mean over sources, item by item, over the seeds that all of them have."""
    seeds = sorted(set.intersection(*(set(part.seeds.tolist()) for part in parts)))
    if not seeds:
        return None
    rows = [[part.seeds.tolist().index(seed) for seed in seeds] for part in parts]
    values = np.mean([part.scores[row] for part, row in zip(parts, rows, strict=True)], axis=0)
    return TaskScores(values, np.array(seeds), parts[0].examples, parts[0].pictures)


@cache
def estimate(tracks: Tracks, row: Variant, what: str, moment: int | str, measure: str = "score") -> Estimate | None:
    """The mean over the tasks of ``what`` with its interval; None if a run it needs is missing altogether."""
    found = scores(tracks, row, what, moment, measure)
    return hierarchical_bootstrap(found, np.random.default_rng(0), num_draws=comparison.NUM_DRAWS) if found else None


@cache
def change(
    tracks: Tracks, row: Variant, over: Variant, what: str, moment: int | str, over_moment: int | str, measure: str = "score"
) -> Estimate | None:
    """How much higher ``row`` is at ``moment`` than ``over`` at ``over_moment``, on the same items; None if not comparable.

    Seeds are paired, but for the untrained base, whose one run stands against each of them.
    """
    if row == tracks.base and over != row:
        known = change(tracks, over, row, what, over_moment, moment, measure)
        return known.reversed if known else None
    a, b = scores(tracks, row, what, moment, measure), scores(tracks, over, what, over_moment, measure)
    untrained = over == tracks.base
    if not a or not b or not (untrained or all(set(a[t].seeds.tolist()) & set(b[t].seeds.tolist()) for t in a)):
        return None
    rng = np.random.default_rng(0)
    return paired_difference(a, b, rng, untrained_baseline=untrained, num_draws=comparison.NUM_DRAWS)


def chance(tracks: Tracks, what: str, measure: str = "score") -> float | None:
    """What a random answer scores on the tasks of ``what``, the examples being those asked; None of dev or another measure."""
    track = next((run.spec.track for run in tracks.results.planned if run.spec.track.wanted), None)
    tasks = dict.fromkeys(task for _, task in pairs(tracks, what))
    if track is None or track.split != "test" or what == SOURCE or measure != "score" or not tasks:
        return None
    return comparison.mean_blind(tasks, "chance", track.num_examples)


def epochs_at(tracks: Tracks, row: Variant, moment: int | str) -> list[int]:
    """Which epochs a moment was, one for each source and seed that has it."""
    found: list[int] = []
    for source in tracks.sources:
        track = tracks.found.get((row, source, source))
        if track:
            found += [track.epochs[place] for place in places(track, moment) if place >= 0]
    return found


def found_in(tracks: Tracks, rows: Iterable[Variant], what: str, moment: int | str, measure: str) -> dict[Variant, Estimate]:
    """The estimates there are, row by row."""
    return {row: e for row in rows if (e := estimate(tracks, row, what, moment, measure))}
