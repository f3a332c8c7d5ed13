"""What to take in which situation: the situations stand in ``params/guide.yaml``, the advice is computed from records.

    advise(guide, ask) -> [Advice]    of each situation the candidates in their order, and how sure that order is

The best candidate is held against each other one with intervals of 1 - 0.05 / (their number), the ledger's rule for a claim
of several contrasts. Those whose interval holds zero are *not told apart* from it. Together with it they hold the truly best
one in at least 95 of 100 such situations, although the best one was picked after looking: the truly best is left out only if
its own interval against the picked one fails (Edwards and Hsu 1983, "Multiple Comparisons With the Best Treatment", JASA 78).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpeft.methods import METHODS
from mmpeft.study import tuning
from mmpeft.study.claims import Row
from mmpeft.study.comparison import RATIO_MARGIN
from mmpeft.study.report import RANDOM_ANSWER
from mmpeft.study.situations import ONE_TRIAL, RATIOS, STORED, Guide, Situation
from mmpeft.study.verdicts import (
    ERROR_RATE,
    Evidence,
    NoSuchRow,
    Outcome,
    below_chance,
    chance,
    chosen,
    judge_one,
    runs_behind,
    value,
)

SURE, LITTLE, LIKELY, ONE_OF = "sure", "sure; by how much is open", "likely", "one of these"
NO_MATTER, CANNOT_TELL, NOT_YET = "sure: it makes no difference", "cannot tell", "cannot tell yet"
NOT_FAIR = "no fair comparison"
HOW_SURE = {
    SURE: "better than each other candidate, by more than the margin; "
    "of none: no candidate gains more than the margin over doing without, or each scores less than a random answer",
    LITTLE: "better than each other candidate, but perhaps by less than the margin",
    LIKELY: "the others are behind or left out, but another seed, an equal chance or other pictures may change that",
    ONE_OF: "these are not told apart; each of the rest is worse",
    NO_MATTER: "no candidate is worse than the best by more than the margin",
    CANNOT_TELL: "no candidate is told apart from the best; by how much they differ stays open",
    NOT_FAIR: "each candidate buys what is asked for with something else that it had to keep",
    NOT_YET: "a candidate has not enough runs",
}
"""How sure an advice is, and what each word means."""

WITH_CAVEATS = {SURE: LIKELY, LITTLE: LIKELY, NO_MATTER: CANNOT_TELL}
"""How sure an advice can be at most if something that decides was not repeated, or not the same for all."""


@dataclass(frozen=True)
class Candidate:
    """A candidate as the runs have it.

    Attributes:
        name: For people.
        value: What decides: a share, a spread, bytes.
        behind: How far the best one is ahead of it, above zero where it is; for RATIOS the logarithm of the ratio. None for
            the best one itself.
        told_apart: Whether it is surely behind the best one, and so is whoever stands below it.
    """

    name: str
    value: float
    behind: Outcome | None = None
    told_apart: bool = False


@dataclass(frozen=True)
class Advice:
    """What to take in a situation.

    Attributes:
        situation: The situation.
        ranking: The candidates that have runs, the best one first.
        waiting: Those that have not enough.
        absent: Those that the question does not have at this scale.
        over: How far the best one is ahead of what needs no method, by name; of ``against``, then of ``beside``.
        references: What decides, of those and of a random answer where there is one, by name.
        instead: That of ``against`` over which the best one surely gains no more than the margin; usually none.
        below_chance: Whether each candidate surely scores less than a random answer.
        left_out: The candidates that do not keep what ``keeps`` asks for; where none does, they are ranked all the same.
        shown: Of each measure of ``keeps`` and ``shown`` its value, by candidate and by the first of ``beside``.
        caveats: Why it is less sure than its intervals say.
        stored: Bytes by candidate, where the records have them.
        price: Where bytes decide: the candidate with the best score, and how far the best one here lies behind it.
        sureness: A key of HOW_SURE.
        scale: Of the runs.
        num_runs: That have ended well.
        num_planned: That it needs.
    """

    situation: Situation
    ranking: tuple[Candidate, ...]
    waiting: tuple[str, ...]
    absent: tuple[str, ...]
    over: Mapping[str, Outcome]
    references: Mapping[str, float]
    instead: str | None
    below_chance: bool
    left_out: tuple[str, ...]
    shown: Mapping[str, Mapping[str, float]]
    caveats: tuple[str, ...]
    stored: Mapping[str, float]
    price: tuple[str, Outcome] | None
    sureness: str
    scale: str
    num_runs: int
    num_planned: int

    @property
    def kept(self) -> tuple[str, ...]:
        """The best candidate and those not told apart from it."""
        return tuple(one.name for one in self.ranking if not one.told_apart)

    @property
    def take(self) -> tuple[str, ...]:
        """What to take: one of these."""
        return (self.instead,) if self.instead else self.kept


def advise(guide: Guide, ask: Callable[[str], Evidence], margin: float, *, strict: bool = True) -> list[Advice]:
    """The advice of each situation.

    Args:
        guide: From situations.load_guide.
        ask: The evidence of the question of a name.
        margin: A difference up to this counts as none.
        strict: False leaves out candidates that a question does not have, as at a scale with other rows.

    Raises:
        NoSuchRow: A situation names a row that its question does not have, or several at once.
    """
    return [_advice(one, ask(one.question), margin, strict) for one in guide.situations]


def _advice(situation: Situation, known: Evidence, margin: float, strict: bool) -> Advice:
    rows = situation.candidates()
    absent = () if strict else tuple(name for name, row in rows.items() if not _there(situation, row, known))
    rows = {name: row for name, row in rows.items() if name not in absent}
    values = {name: found for name, row in rows.items() if (found := _value(situation, row, known)) is not None}
    waiting = tuple(name for name in rows if name not in values)
    shown = _shown(situation, rows, known)
    base = METHODS[situation.beside[0]["method"]].label if situation.keeps else ""
    if situation.keeps and base not in shown[situation.keeps]:
        waiting += (base,)
    left_out = _left_out(shown.get(situation.keeps, {}), base, margin)
    if len(left_out) < len(values):
        values = {name: found for name, found in values.items() if name not in left_out}
    sign = 1 if situation.better == "higher" else -1
    order = sorted(values, key=lambda name: -sign * values[name])
    behind = _differences(situation, known, [rows[name] for name in order], margin)
    ranking = ranked([(name, values[name]) for name in order], behind)
    over = _over_the_rest(situation, known, rows[order[0]], margin, strict) if order else {}
    choices = {METHODS[row["method"]].label for row in situation.against}
    beaten = [name for name, outcome in over.items() if name in choices and outcome.verdict == "contradicted"]
    references = _references(situation, known, strict) if order else {}
    low = RANDOM_ANSWER in references and not waiting and _below(situation, known, [rows[name] for name in order])
    caveats = _caveats(situation, known)
    num_runs, num_planned = _runs(situation, known, rows)
    least = RATIO_MARGIN if situation.measure in RATIOS else margin
    return Advice(
        situation=situation,
        ranking=ranking,
        waiting=waiting,
        absent=absent,
        over=over,
        references=references,
        instead=beaten[0] if beaten and not waiting else None,
        below_chance=low,
        left_out=left_out,
        shown=shown,
        caveats=caveats,
        stored={name: found for name, row in rows.items() if (found := _bytes(situation, row, known)) is not None},
        price=_price(situation, known, order[0], margin, strict) if order and situation.measure == STORED else None,
        sureness=_sureness(ranking, waiting, least, left_out, caveats, none=bool(beaten) or low),
        scale=known.results.question.scale,
        num_runs=num_runs,
        num_planned=num_planned,
    )


def ranked(values: Sequence[tuple[str, float]], behind: Sequence[Outcome | None]) -> tuple[Candidate, ...]:
    """The candidates, best first, each with how far it lies behind the first.

    Whoever stands above one that is kept is kept too: differences of pairs are not equally sure, and it would be odd to leave out
    the better and keep the worse.
    """
    apart = [outcome is not None and outcome.low is not None and outcome.low > 0 for outcome in behind]
    ends = [all(apart[place:]) for place in range(len(apart))]
    return tuple(Candidate(*named, outcome, end) for named, outcome, end in zip(values, behind, ends, strict=True))


def _price(situation: Situation, known: Evidence, name: str, margin: float, strict: bool) -> tuple[str, Outcome] | None:
    """Which candidate has the best score, and how far the one of that name lies behind it."""
    by_score = _advice(situation.model_copy(update={"measure": "score", "better": "higher"}), known, margin, strict)
    mine = next((one for one in by_score.ranking if one.name == name), None)
    return (by_score.ranking[0].name, mine.behind) if mine and mine.behind else None


def _sureness(
    ranking: Sequence[Candidate],
    waiting: Sequence[str],
    margin: float,
    left_out: Sequence[str] = (),
    caveats: Sequence[str] = (),
    *,
    none: bool = False,
) -> str:
    if waiting or len(ranking) + len(left_out) < 2:
        return NOT_YET
    if any(one.name in left_out for one in ranking):
        return NOT_FAIR
    word = SURE if none else LIKELY if len(ranking) == 1 else _by_intervals(ranking, margin)
    return WITH_CAVEATS.get(word, word) if caveats else word


def _by_intervals(ranking: Sequence[Candidate], margin: float) -> str:
    others = [one.behind for one in ranking if one.behind]
    lows = [math.nan if outcome.low is None else outcome.low for outcome in others]
    highs = [math.nan if outcome.high is None else outcome.high for outcome in others]
    apart = sum(one.told_apart for one in ranking)
    if apart == len(others):
        return SURE if min(lows) > margin else LITTLE
    if all(-margin <= low and high <= margin for low, high in zip(lows, highs, strict=True)):
        return NO_MATTER
    return ONE_OF if apart else CANNOT_TELL


def _caveats(situation: Situation, known: Evidence) -> tuple[str, ...]:
    """What makes an advice less sure than its intervals say."""
    question = known.results.question
    grids = [question.learning_rate_grid.get(name, []) for name in situation.each if situation.measure == ONE_TRIAL]
    widths = {round(max(grid) / min(grid), 6) for grid in grids if grid}
    found = {"one seed": len(question.seeds) == 1, "the grids are not equally wide": len(widths) > 1}
    return tuple(words for words, holds in found.items() if holds)


def _there(situation: Situation, row: Row, known: Evidence) -> bool:
    """Whether the question has the row."""
    if situation.measure == ONE_TRIAL:
        return row["method"] in known.results.question.learning_rate_grid
    try:
        return bool(chosen(situation.claim([(row, row)]), known.results, row))
    except NoSuchRow:
        return False


def _over_the_rest(situation: Situation, known: Evidence, best: Row, margin: float, strict: bool) -> dict[str, Outcome]:
    """The best candidate over what needs no method of ours, where that has runs."""
    rows = [row for row in (*situation.against, *situation.beside) if strict or _there(situation, row, known)]
    if not rows:
        return {}
    outcomes = judge_one(situation.claim([(best, row) for row in rows]), known, margin).outcomes
    known_ones = [(row, outcome) for row, outcome in zip(rows, outcomes, strict=True) if outcome.mean is not None]
    return {METHODS[row["method"]].label: _ahead(situation, outcome) for row, outcome in known_ones}


def _references(situation: Situation, known: Evidence, strict: bool) -> dict[str, float]:
    """What decides, of what needs no method of ours, and of a random answer where one is known."""
    rows = [row for row in (*situation.against, *situation.beside) if strict or _there(situation, row, known)]
    found = {METHODS[row["method"]].label: _value(situation, row, known) for row in rows}
    found[RANDOM_ANSWER] = _chance(situation, known)
    return {name: number for name, number in found.items() if number is not None}


def _chance(situation: Situation, known: Evidence) -> float | None:
    """What a random answer scores; None where something else than scores decides."""
    return None if situation.measure in (ONE_TRIAL, STORED) else chance({}, situation.contrast({}, {}), known)


def _below(situation: Situation, known: Evidence, rows: Sequence[Row]) -> bool:
    """Whether each row surely scores less than a random answer."""
    claim = situation.claim([(row, row) for row in rows])
    return below_chance(claim, [(row, situation.contrast(row, row)) for row in rows], known)


def _shown(situation: Situation, rows: Mapping[str, Row], known: Evidence) -> dict[str, dict[str, float]]:
    """Of each measure that is shown or must be kept its value, by candidate and by the first of ``beside``."""
    measures = dict.fromkeys(filter(None, (situation.keeps, *situation.shown)))
    named = {**rows, **{METHODS[row["method"]].label: row for row in situation.beside[:1]}}
    claim = situation.claim([(row, row) for row in named.values()])
    found = {
        measure: {name: value(claim, row, situation.contrast(row, row, measure), known) for name, row in named.items()}
        for measure in measures
    }
    return {measure: {k: number for k, number in by.items() if number is not None} for measure, by in found.items()}


def _left_out(kept: Mapping[str, float], base: str, margin: float) -> tuple[str, ...]:
    """The candidates that lie more than the margin below doing without in what they have to keep: on average, sure or not."""
    return tuple(name for name, number in kept.items() if base in kept and number < kept[base] - margin)


def _ahead(situation: Situation, outcome: Outcome) -> Outcome:
    """The outcome with its sign turned such that above zero is better."""
    if situation.better == "higher" or outcome.mean is None or outcome.low is None or outcome.high is None:
        return outcome
    return Outcome(outcome.name, outcome.verdict, -outcome.mean, -outcome.high, -outcome.low)


# --------------------------------------------------------------------------------------------------
# What decides
# --------------------------------------------------------------------------------------------------


def _value(situation: Situation, row: Row, known: Evidence) -> float | None:
    """What decides, of one candidate; None where runs are missing."""
    if situation.measure == STORED:
        return _bytes(situation, row, known)
    if situation.measure == ONE_TRIAL:
        draws = _trials(row, known)
        return None if draws is None else float(draws[0])
    return value(situation.claim([(row, row)]), row, situation.contrast(row, row), known)


def _differences(situation: Situation, known: Evidence, rows: Sequence[Row], margin: float) -> list[Outcome | None]:
    """How far the first row is ahead of each; nothing for itself."""
    best, others = rows[:1], rows[1:]
    if not others:
        return [None for _ in best]
    if situation.measure not in (ONE_TRIAL, STORED):
        judged = judge_one(situation.claim([(best[0], row) for row in others]), known, margin)
        return [None, *(_ahead(situation, outcome) for outcome in judged.outcomes)]
    compare = _cheaper if situation.measure == STORED else _more_from_one_trial
    return [None, *(compare(situation, known, best[0], row, 1 - ERROR_RATE / len(others)) for row in others)]


def _cheaper(situation: Situation, known: Evidence, best: Row, row: Row, level: float) -> Outcome:
    """The logarithm of how many times as many bytes another row needs: counted, so without an interval."""
    mine, other = (_bytes(situation, one, known) for one in (best, row))
    ratio = math.log(other / mine) if mine and other else 0.0
    return Outcome(STORED, "supported" if ratio > 0 else "contradicted", ratio, ratio, ratio)


def _bytes(situation: Situation, row: Row, known: Evidence) -> float | None:
    """The size of the file that a run of the row leaves; None without a run."""
    runs = known.results.runs
    if situation.measure == ONE_TRIAL or STORED not in runs:
        return None
    ids = [run.run_id for v in chosen(situation.claim([(row, row)]), known.results, row) for run in known.results.variants[v]]
    found = runs.loc[runs["run_id"].isin(ids), STORED].dropna()
    return float(found.median()) if len(found) else None


def _more_from_one_trial(situation: Situation, known: Evidence, best: Row, row: Row, level: float) -> Outcome:
    mine, other = _trials(best, known), _trials(row, known)
    assert mine is not None and other is not None, "only rows with a value are compared"
    low, high = np.quantile(mine[1:] - other[1:], [(1 - level) / 2, (1 + level) / 2])
    verdict: Any = "supported" if low > 0 else "undecided"
    return Outcome(ONE_TRIAL, verdict, float(mine[0] - other[0]), float(low), float(high))


def _trials(row: Row, known: Evidence) -> tuning.Floats | None:
    """What one rate of the method's grid can be expected to score, then the same under redrawn pictures; whole grids only."""
    found, label = tuning.sweep(known.results), METHODS[row["method"]].label
    if found is None or found.trials_of(label).sum() < len(known.results.question.learning_rate_grid.get(row["method"], ())):
        return None
    trials = found.trials_of(label)
    return np.append(tuning.expected_best(found.mean[trials], 1), tuning.expected_best(found.draws[:, trials], 1))


def _runs(situation: Situation, known: Evidence, rows: Mapping[str, Row]) -> tuple[int, int]:
    """How many runs the advice rests on, and how many it needs."""
    given = [*rows.values(), *(row for row in (*situation.against, *situation.beside) if _there(situation, row, known))]
    if not given:
        return 0, 0
    if situation.measure == ONE_TRIAL:
        names = {row["method"] for row in given}
        ids = {run.run_id for run in known.results.planned if run.spec.method.name in names}
        runs = known.results.runs
        return int((runs["run_id"].isin(ids) & (runs["status"] == "ok")).sum()), len(ids)
    finished, num_planned = runs_behind(situation.claim([(row, row) for row in given]), known.results)
    return len(finished), num_planned
