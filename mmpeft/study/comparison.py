"""The runs of a question as rows to compare: which there are, what they scored, how far apart they are.

    read(question, store) -> Results       the runs that left a record, and every answer they gave
    estimate, gain(results, …) -> Estimate a row's score, or two rows' difference, with its interval

**Averages** are over all planned tasks of a group, each counting the same. For that every score is a share of the
most its metric can give: CIDEr-D goes to 10, so 7 counts as 0.7. Taken as the paper takes it, times 100, it would be
700 on pictures as plain as ours and drown the others.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from mmpeft.decide import minimum_detectable_difference
from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS
from mmpeft.plan import Planned, Question, params_folder, read_yaml
from mmpeft.records import Store
from mmpeft.spec import RunSpec
from mmpeft.stats import (
    Estimate,
    TaskScores,
    group_scores,
    hierarchical_bootstrap,
    paired_difference,
)
from mmpeft.tasks import TASKS

FULL_MARKS = {"CIDEr-D": 10.0}
"""The most that a metric can give; 1 for those not named."""

GROUPS = ("unseen", "seen")
NUM_DRAWS = 2000

RATIO_MARGIN = math.log(1.2)
"""What counts as no difference where a ratio is asked about, as its logarithm: a fifth."""


@dataclass(frozen=True, order=True)
class Variant:
    """One row of a comparison.

    Attributes:
        rank: Its place in tables: the order of METHODS, frozen before tuned.
        label: The method's printed name.
        connector: ``frozen`` or ``tuned``.
        detail: The settings that tell it from other rows of the same method and connector; often none.
    """

    rank: int
    label: str
    connector: str
    detail: str = ""

    def __str__(self) -> str:
        named = self.label + (f" ({self.detail})" if self.detail else "")
        return named if self.label in CONNECTOR_SAID else f"{named} with the connector {self.connector}"


CONNECTOR_SAID = {METHODS["zero-shot"].label, METHODS["connector"].label}


@dataclass(frozen=True, eq=False)
class Results:
    """What the runs of a question left behind.

    Attributes:
        question: The question.
        planned: Its runs.
        runs: One row a record, failed ones included, as Store.collect gives it.
        variants: The rows of the comparison, each with its planned runs.
        scores: For each variant with any finished run, the scores of each task.
    """

    question: Question
    planned: tuple[Planned, ...]
    runs: pd.DataFrame
    variants: Mapping[Variant, tuple[Planned, ...]]
    scores: Mapping[Variant, Mapping[str, TaskScores]]

    @property
    def counts(self) -> dict[str, int]:
        """``{planned, done, failed, missing}``."""
        done, failed = (int((self.runs["status"] == status).sum()) for status in ("ok", "failed"))
        total = len(self.planned)
        return {"planned": total, "done": done, "failed": failed, "missing": total - done - failed}

    def tasks(self, group: str | None = None) -> list[str]:
        """The planned tasks, or those of ``unseen`` or ``seen``, in the order of the plan."""
        names = dict.fromkeys(run.spec.task for run in self.planned)
        return [name for name in names if group is None or TASKS[name].seen == (group == "seen")]


def full_marks(task: str) -> float:
    """The most that the task's metric can give."""
    return FULL_MARKS.get(TASKS[task].metric, 1.0)


@cache
def blind(task: str, kind: str, num_examples: int | None) -> float | None:
    """What answering a task's test split without looking scores: ``chance`` or ``majority`` of its baselines, as a share.

    None where the dataset is not on this machine: a page of records downloads nothing.
    """
    if not all(TASKS[task].at_hand(split) for split in ("test", TASKS[task].blind_split)):
        return None
    return TASKS[task].baselines(num_examples)[kind] / full_marks(task)


def mean_blind(tasks: Iterable[str], kind: str, num_examples: int | None) -> float | None:
    """What :func:`blind` gives, averaged over tasks; None where it is not known for each."""
    scores = [blind(task, kind, num_examples) for task in tasks]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known and len(known) == len(scores) else None


def read(question: Question, store: Store) -> Results:
    """The records and predictions of a question's runs."""
    planned = tuple(question.planned())
    variants = variants_of(planned)
    scores = {variant: _scores(store, runs) for variant, runs in variants.items()}
    runs = store.collect(planned)  # after the predictions: a damaged file takes its record with it
    return Results(question, planned, runs, variants, {v: s for v, s in scores.items() if s})


def _scores(store: Store, planned: Iterable[Planned]) -> dict[str, TaskScores]:
    parts = []
    for run in planned:
        record = store.load(run.run_id)
        if record is None or record.status != "ok":
            continue
        try:
            answers = store.predictions(run.run_id)[["example_id", "picture_id", "score"]]
        except MmpeftError:
            continue  # set aside by the store: the run counts as missing
        share = answers["score"] / full_marks(run.spec.task)
        parts.append(answers.assign(task=run.spec.task, seed=run.spec.seed, score=share))
    return group_scores(pd.concat(parts)) if parts else {}


def variants_of(planned: Sequence[Planned]) -> dict[Variant, tuple[Planned, ...]]:
    """The rows of a comparison, in the order of tables, sizes as numbers: runs that differ in task and seed alone are one row."""
    order = list(METHODS)
    rows: dict[tuple[tuple[str, bool], tuple[tuple[str, Any], ...]], list[Planned]] = {}
    for run in planned:
        name = (run.spec.method.name, run.spec.connector.tuned)
        rows.setdefault((name, tuple(settings_of(run.spec).items())), []).append(run)
    variants, places = {}, {}
    for (name, settings), runs in rows.items():
        others = [dict(other) for same, other in rows if same == name]
        differing = {k: v for k, v in settings if any(other.get(k) != v for other in others)}
        detail = ", ".join(f"{field} {value}" for field, value in differing.items())
        method, tuned = name
        rank = 2 * order.index(method) + tuned
        variant = Variant(rank, METHODS[method].label, "tuned" if tuned else "frozen", detail)
        variants[variant] = tuple(runs)
        places[variant] = (rank, [(value is not None, value) for value in differing.values()])
    return {variant: variants[variant] for variant in sorted(variants, key=places.__getitem__)}


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """What makes a variant of a method and a connector: its fields, its place and how it learns, by the names a reader knows."""
    method = {k: v for k, v in spec.method.model_dump().items() if k != "name"}
    rates = {"connector_learning_rate": spec.connector.learning_rate}
    return method | {"location": spec.location} | spec.train.model_dump() | rates


# --------------------------------------------------------------------------------------------------
# Estimates
# --------------------------------------------------------------------------------------------------


@cache
def estimate(results: Results, variant: Variant, what: str) -> Estimate | None:
    """A variant's score with its interval; None if a run it needs is missing altogether.

    Args:
        results: From :func:`read`.
        variant: A row.
        what: A task, or ``unseen`` or ``seen`` for the average.
    """
    scores = _chosen(results, variant, what)
    return hierarchical_bootstrap(scores, np.random.default_rng(0), num_draws=NUM_DRAWS) if scores else None


@cache
def gain(results: Results, variant: Variant, over: Variant, what: str) -> Estimate | None:
    """How much higher ``variant`` scores than ``over``, seed by seed and item by item; None if not comparable.

    The untrained base has one run, which stands against every seed of the other, whichever of the two it is.
    """
    if variant.label == METHODS["zero-shot"].label and over != variant:
        known = gain(results, over, variant, what)
        return known.reversed if known else None
    a, b = _chosen(results, variant, what), _chosen(results, over, what)
    untrained = over.label == METHODS["zero-shot"].label
    if not a or not b or not (untrained or all(set(a[t].seeds) & set(b[t].seeds) for t in a)):
        return None
    rng = np.random.default_rng(0)
    return paired_difference(a, b, rng, untrained_baseline=untrained, num_draws=NUM_DRAWS)


def _chosen(results: Results, variant: Variant, what: str) -> dict[str, TaskScores]:
    """The scores behind an average, or none unless every task of it has some."""
    tasks = results.tasks(what) if what in GROUPS else [what]
    found = results.scores.get(variant, {})
    return {task: found[task] for task in tasks} if all(task in found for task in tasks) else {}


def detectable(difference: Estimate) -> float:
    """The smallest true difference that runs like these would find four times in five."""
    sd, freedom = difference.standard_error, difference.degrees_of_freedom
    return minimum_detectable_difference(sd, 1, degrees_of_freedom=freedom)


@cache
def margin() -> float:
    """The largest difference that does not matter: that of the claims ledger, fixed before any run was looked at."""
    return float(read_yaml(params_folder() / "claims.yaml")["margin"])


def find(results: Results, label: str, connector: str | None = None) -> Variant | None:
    """The row of that method (and connector), if the question has exactly one."""
    rows = [v for v in results.variants if v.label == label and connector in (None, v.connector)]
    return rows[0] if len(rows) == 1 else None


# --------------------------------------------------------------------------------------------------
# Words for numbers
# --------------------------------------------------------------------------------------------------
