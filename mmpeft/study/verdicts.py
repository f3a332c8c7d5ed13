"""Verdicts on claims: contrasts of recorded rows with their intervals, judged by rules that were written before looking.

judge(ledger, ask) -> one Judged a claim: supported, contradicted or undecided
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmpeft.errors import MmpeftError, unknown
from mmpeft.methods import METHODS
from mmpeft.plan import Question
from mmpeft.records import Store
from mmpeft.spec import RunSpec
from mmpeft.stats import Estimate, TaskScores, hierarchical_bootstrap
from mmpeft.study import tracks
from mmpeft.study.claims import SEED_SD, Claim, Contrast, Ledger, Row
from mmpeft.study.comparison import GROUPS, NUM_DRAWS, RATIO_MARGIN, Results, Variant, mean_blind, read, settings_of
from mmpeft.study.curves import combined, pooled, untrained
from mmpeft.study.track_report import MEASURE_NAMES
from mmpeft.study.tracks import Tracks
from mmpeft.summaries import sd_ratio
from mmpeft.tasks import TASKS

Verdict = Literal["supported", "contradicted", "undecided"]
Reason = Literal["", "the other way round", "smaller than the margin", "larger than the margin"]

ERROR_RATE = 0.05
"""How often a claim may be judged wrongly, all its contrasts together."""

RANKS: dict[str, Callable[[list[float]], float]] = {
    "smallest": min,
    "middle": lambda values: sorted(values)[len(values) // 2],
    "largest": max,
}
"""Words that choose one of the values that a setting takes in a question."""

ANY = "any"

OF_THE_CONTRAST = ("over", "epoch")
"""What a row may say beside the settings of its runs."""

POOLED = ("subset_seed",)
"""Settings whose values are pooled like seeds: which subset was drawn."""


class NoSuchRow(MmpeftError):
    """A question has no row, or no single row, of the settings that a claim names."""


@dataclass(frozen=True)
class Outcome:
    """One contrast as the runs have it.

    Attributes:
        name: What is compared, for people.
        verdict: Of this contrast alone.
        mean: The difference (fractions; for spreads the logarithm of their ratio); None if runs are missing.
        low: Lower end of its interval.
        high: Upper end.
        reason: Why it is contradicted; empty if it is not.
    """

    name: str
    verdict: Verdict
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    reason: Reason = ""


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes:
        claim: The claim.
        verdict: By its rule.
        outcomes: One a contrast.
        scale: Of the runs.
        run_ids: The finished runs that it was judged by.
        num_planned: How many runs it needs.
        below_chance: Whether each row that it compares surely scores less than a random answer.
    """

    claim: Claim
    verdict: Verdict
    outcomes: tuple[Outcome, ...]
    scale: str
    run_ids: tuple[str, ...]
    num_planned: int
    below_chance: bool = False

    @property
    def decisive(self) -> Outcome:
        """The contrast that speaks least for the claim: by its verdict, then by how much its interval leaves to the claim."""
        order = {"contradicted": 0, "undecided": 1, "supported": 2}
        pairs = zip(self.claim.spread(), self.outcomes, strict=False)
        return min(pairs, key=lambda pair: (order[pair[1].verdict], _left_to(pair[0].expect, pair[1])))[1]

    @property
    def reason(self) -> str:
        """Why the claim is contradicted, from its contradicted contrasts; empty if it is not."""
        if self.verdict != "contradicted":
            return ""
        reasons = list(dict.fromkeys(outcome.reason for outcome in self.outcomes if outcome.reason))
        return reasons[0] if len(reasons) == 1 else ", ".join(f"partly {reason}" for reason in reasons)

    @property
    def why(self) -> str:
        """The reason if there is one, and whether nothing that was compared scores as much as a random answer."""
        return ", ".join(filter(None, (self.reason, "each row below a random answer" if self.below_chance else "")))

    @property
    def in_words(self) -> str:
        """The verdict, and why: ``contradicted: the other way round``."""
        return f"{self.verdict}: {self.why}" if self.why else self.verdict

    def to_dict(self) -> dict[str, Any]:
        """``{claim, verdict, reason, interval, runs, scale, …}`` as plain values.

        The reason says why a claim is contradicted: ``the other way round``, ``smaller than the margin`` (of a claim that
        there is a difference) or ``larger than the margin`` (of one that there is none); else it is empty. So it is for each
        contrast. The interval is that of the decisive contrast. Below chance are rows that all score less than a random answer.
        """
        least = self.decisive
        return {
            "claim": self.claim.id,
            "says": self.claim.claim,
            "where": self.claim.where,
            "question": self.claim.question,
            "verdict": self.verdict,
            "reason": self.reason,
            "below_chance": self.below_chance,
            "interval": None if least.low is None else [least.low, least.high],
            "runs": len(self.run_ids),
            "planned": self.num_planned,
            "scale": self.scale,
            "contrasts": [vars(outcome) for outcome in self.outcomes],
            "run_ids": list(self.run_ids),
        }


@dataclass(frozen=True, eq=False)
class Evidence:
    """The runs of a question.

    Attributes:
        results: Their scores.
        said: What they were asked on the way.
    """

    results: Results
    said: Tracks


def evidence(question: Question, store: Store) -> Evidence:
    """Everything that the recorded runs of a question say."""
    results = read(question, store)
    return Evidence(results, tracks.read(results, store))


def judge(ledger: Ledger, ask: Callable[[str], Evidence], *, strict: bool = True) -> list[Judged]:
    """Every claim with its verdict.

    Args:
        ledger: From :func:`load_ledger`.
        ask: The evidence of the question of a name.
        strict: False leaves a claim undecided whose rows its question does not have, as at a scale with other sizes.

    Raises:
        NoSuchRow: A contrast names a row that its question does not have, or several at once.
    """
    found = []
    for claim in ledger.claims:
        known = ask(claim.question)
        try:
            found.append(judge_one(claim, known, ledger.margin))
        except NoSuchRow as error:
            if strict:
                raise
            outcome = Outcome(f"not at this scale: {error}", "undecided")
            found.append(Judged(claim, "undecided", (outcome,), known.results.question.scale, (), 0))
    return found


def judge_one(claim: Claim, known: Evidence, margin: float) -> Judged:
    """A claim with its verdict.

    Args:
        claim: The claim.
        known: The runs of its question.
        margin: What counts as no difference where a contrast says nothing else; spreads have their own, RATIO_MARGIN.

    Raises:
        NoSuchRow: As for :func:`judge`.
    """
    contrasts = claim.spread()
    level = 1 - ERROR_RATE / len(contrasts)
    margins = [contrast.margin or (RATIO_MARGIN if contrast.measure == SEED_SD else margin) for contrast in contrasts]
    outcomes = tuple(_outcome(claim, c, known, least, level) for c, least in zip(contrasts, margins, strict=True))
    finished, num_planned = runs_behind(claim, known.results)
    scale = known.results.question.scale
    rows = [(row, contrast) for contrast in contrasts for row in (*contrast.plus, *contrast.minus)]
    low = below_chance(claim, list({str((row, c.over)): (row, c) for row, c in rows}.values()), known)
    return Judged(claim, ruled(claim.rule, [o.verdict for o in outcomes]), outcomes, scale, finished, num_planned, low)


def runs_behind(claim: Claim, results: Results) -> tuple[tuple[str, ...], int]:
    """The ids of the finished runs that a claim rests on, and how many runs it needs."""
    contrasts = claim.spread()
    rows = dict.fromkeys(v for c in contrasts for row in (*c.plus, *c.minus) for v in chosen(claim, results, row))
    tasks = {task for c in contrasts for row in (*c.plus, *c.minus) for task in _tasks(results, row.get("over", c.over))}
    needed = [run.run_id for variant in rows for run in results.variants[variant] if run.spec.task in tasks]
    done = set(results.runs.loc[results.runs["status"] == "ok", "run_id"])
    return tuple(run_id for run_id in needed if run_id in done), len(needed)


def ruled(rule: str, verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim from those on its contrasts."""
    supported, contradicted = verdicts.count("supported"), verdicts.count("contradicted")
    if rule == "most":
        half = len(verdicts) / 2
        return "supported" if supported > half else "contradicted" if contradicted > half else "undecided"
    return "contradicted" if contradicted else "supported" if supported == len(verdicts) else "undecided"


def weighed(expect: str, low: float, high: float, margin: float) -> Verdict:
    """The verdict on one contrast from its interval.

    Near asks that whole interval, of 95 % or more, to lie within the margin: params/claims.yaml says so, and was written
    first. The pages' «equal» (decide.verdict) asks 90 %, two one-sided tests at 5 %, so that what is near is equal as well.
    """
    if expect == "below":
        return weighed("above", -high, -low, margin)
    small = -margin <= low and high <= margin
    if expect == "near":
        return "supported" if small else "contradicted" if low > margin or high < -margin else "undecided"
    return "contradicted" if small or high < 0 else "supported" if low > 0 else "undecided"


def why_contradicted(expect: str, low: float, high: float, margin: float) -> Reason:
    """Why a contrast with this interval is contradicted; empty if it is not. As in its verdict, being near comes first."""
    if weighed(expect, low, high, margin) != "contradicted":
        return ""
    if expect == "near":
        return "larger than the margin"
    return "smaller than the margin" if -margin <= low and high <= margin else "the other way round"


def _left_to(expect: str, outcome: Outcome) -> float:
    """How much an outcome's interval leaves to a claim: of a supported one at the worst, of any other at the best."""
    if outcome.low is None or outcome.high is None:
        return math.inf  # not known, so it does not speak against the claim
    low, high = (outcome.low, outcome.high) if expect != "below" else (-outcome.high, -outcome.low)
    if expect == "near":
        return -max(low, -high) if outcome.verdict == "contradicted" else -max(abs(low), abs(high))
    return low if outcome.verdict == "supported" else high


def _outcome(claim: Claim, contrast: Contrast, known: Evidence, margin: float, level: float) -> Outcome:
    name = described(contrast)
    terms = [(sign, row) for sign, rows in ((1.0, contrast.plus), (-1.0, contrast.minus)) for row in rows]
    scores = [(sign, _scores(claim, known, row, contrast)) for sign, row in terms]
    if any(not found for _, found in scores):
        return Outcome(name, "undecided")
    if contrast.measure == SEED_SD:
        ratio = _spread_ratio(scores, level)
        if ratio is None:
            return Outcome(name, "undecided")
        mean, low, high = ratio
    else:
        total = combined(scores)
        if not total:
            return Outcome(name, "undecided")
        e = hierarchical_bootstrap(total, np.random.default_rng(0), num_draws=NUM_DRAWS, level=level)
        mean, low, high = e.mean, e.low, e.high
    ends = (contrast.expect, low, high, margin)
    return Outcome(name, weighed(*ends), mean, low, high, why_contradicted(*ends))


def value(claim: Claim, row: Row, contrast: Contrast, known: Evidence) -> float | None:
    """What a contrast measures, of one row alone: a mean, or an SD over seeds; None if runs are missing.

    Raises:
        NoSuchRow: As for :func:`judge`.
    """
    found = _scores(claim, known, row, contrast)
    if contrast.measure != SEED_SD:
        return float(np.mean([task.scores.mean() for task in found.values()])) if found else None
    means = [task.scores.mean(axis=1) for task in found.values()]
    return float(np.mean([m.std(ddof=1) for m in means])) if means and min(map(len, means)) > 1 else None


def level_of(claim: Claim, row: Row, contrast: Contrast, known: Evidence, level: float) -> Estimate | None:
    """The mean score of one row with its interval; None if runs are missing.

    Raises:
        NoSuchRow: As for :func:`judge`.
    """
    found = _scores(claim, known, row, contrast)
    return hierarchical_bootstrap(found, np.random.default_rng(0), num_draws=NUM_DRAWS, level=level) if found else None


def chance(row: Row, contrast: Contrast, known: Evidence) -> float | None:
    """What a random answer scores where a row is looked at.

    None of other measures than scores, of other splits than test, and where a real dataset is not at hand.
    """
    results = known.results
    if contrast.measure != "score" or results.question.split != "test":
        return None
    if contrast.tracked:
        return tracks.chance(known.said, contrast.tracked)
    return mean_blind(_tasks(results, row.get("over", contrast.over)), "chance", results.question.eval.get("num_examples"))


def below_chance(claim: Claim, rows: Sequence[tuple[Row, Contrast]], known: Evidence) -> bool:
    """Whether each of these rows surely scores less than a random answer, as surely as a claim is judged.

    Raises:
        NoSuchRow: As for :func:`judge`.
    """
    low = []
    for row, contrast in rows:
        random, mean = chance(row, contrast, known), value(claim, row, contrast, known)
        if random is None or mean is None or mean >= random:
            return False
        low.append((row, contrast, random))
    level = 1 - ERROR_RATE / len(rows)
    found = [(level_of(claim, row, contrast, known, level), random) for row, contrast, random in low]
    return all(e is not None and e.high < random for e, random in found)


def _spread_ratio(scores: Sequence[tuple[float, Mapping[str, TaskScores]]], level: float) -> tuple[float, float, float] | None:
    """Logarithm of the ratio of two spreads over seeds, with its interval.

    None where a row has fewer than two seeds or no spread at all.
    """
    (_, above), (_, below) = scores
    if any(len(found) != 1 for found in (above, below)):
        raise MmpeftError("measure seed_sd: compares two rows on one column; name it under over.")
    means = [next(iter(found.values())).scores.mean(axis=1) for found in (above, below)]
    if min(map(len, means)) < 2 or min(values.var(ddof=1) for values in means) == 0:
        return None
    ratio = sd_ratio(*means, level=level)
    mean, low, high = (math.log(value) if value > 0 else -math.inf for value in ratio)
    return mean, low, high


# --------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------

def _scores(claim: Claim, known: Evidence, row: Row, contrast: Contrast) -> dict[str, TaskScores]:
    """The scores of a row in each task it is looked at in; empty unless every task has some."""
    results, variants = known.results, chosen(claim, known.results, row)
    if contrast.tracked:
        (variant,) = variants
        epoch = row.get("epoch", contrast.epoch)
        said = tracks.scores(known.said, variant, contrast.tracked, epoch, contrast.measure)
        return {task: untrained(one) for task, one in said.items()} if variant == known.said.base else said
    found = [pooled(results, variants, task) for task in _tasks(results, row.get("over", contrast.over))]
    return {task: one for each in found for task, one in each.items()} if all(found) else {}


def _tasks(results: Results, over: str) -> list[str]:
    if over in GROUPS or over == "all":
        return results.tasks(None if over == "all" else over)
    named = [task for task in results.tasks() if TASKS[task].column == over]
    if not named:
        columns = [TASKS[task].column for task in results.tasks()]
        raise NoSuchRow(str(unknown("over", over, [*GROUPS, "all", *columns])))
    return named


def chosen(claim: Claim, results: Results, row: Row) -> list[Variant]:
    """The variants of a question that a row's settings fit; several only if they differ in what is pooled.

    Raises:
        NoSuchRow: None fits, or several that differ in other settings.
    """
    known = {variant: _known(planned[0].spec) for variant, planned in results.variants.items()}
    wanted = {name: value for name, value in row.items() if name not in OF_THE_CONTRAST}
    where = f"claim {claim.id}, row {row}"
    for name in wanted:
        if not any(name in settings for settings in known.values()):
            raise NoSuchRow(f"{where}: {unknown('setting', name, next(iter(known.values())))}")
    left = [v for v in known if all(_fits(known[v].get(name), value) for name, value in wanted.items())]
    for name, word in wanted.items():
        if word in RANKS and left:
            value = RANKS[word](sorted({known[v][name] for v in left}))
            left = [v for v in left if known[v][name] == value]
    if not left:
        raise NoSuchRow(f"{where}: the question {results.question.question} has no such row.")
    differing = {name for name in known[left[0]] for v in left if known[v].get(name) != known[left[0]].get(name)}
    if differing - set(POOLED):
        raise NoSuchRow(f"{where}: fits {len(left)} rows, which differ in {', '.join(sorted(differing))}; say which.")
    return left


def _known(spec: RunSpec) -> Row:
    """The settings by which a row can be chosen; ``size`` is the one that decides how many parameters are trained."""
    connector = "tuned" if spec.connector.tuned else "frozen"
    size = getattr(spec.method, spec.method.size_field) if spec.method.size_field else None
    return {"method": spec.method.name, "connector": connector, "size": size, **settings_of(spec)}


def _fits(value: Any, wanted: Any) -> bool:
    return value is not None if wanted == ANY or wanted in RANKS else value == wanted


def described(contrast: Contrast) -> str:
    """A contrast in words: ``LoRA, connector tuned − LoRA, connector frozen (unseen)``."""
    sides = [_side(rows, contrast.over) for rows in (contrast.plus, contrast.minus)]
    names = {**MEASURE_NAMES, SEED_SD: "spread over seeds"}
    what = "" if contrast.measure == "score" else f"{names.get(contrast.measure, contrast.measure)}: "
    said = {row.get("over", contrast.over) for row in (*contrast.plus, *contrast.minus)}
    where = contrast.tracked or contrast.over
    sign = "over" if contrast.measure == SEED_SD else "−"
    return f"{what}{sides[0]} {sign} {sides[1]}" + (f" ({where})" if said == {contrast.over} else "")


def _side(rows: Sequence[Row], over: str) -> str:
    names = " + ".join(_named(row, over) for row in rows)
    return f"({names})" if len(rows) > 1 else names


def _named(row: Row, over: str) -> str:
    words = [METHODS[row["method"]].label] if "method" in row else []
    words += [f"{name} {value}" for name, value in row.items() if name not in ("method", "over")]
    return ", ".join(words) + (f" ({row['over']})" if row.get("over", over) != over else "")
