"""Audit: train a random sample of recorded runs again, in a store of their own, and compare.

On the processor, thread count and library versions of the record, a run repeats itself bit for bit: the same
curve, the same predictions. Elsewhere sums are rounded in another order, so a run counts as reproduced when

    trainable parameters   are equal
    |first-step loss − recorded|   ≤ LOSS_TOLERANCE
    |score − recorded|             ≤ SCORE_TOLERANCE · max(1, recorded)

A score is a fraction 0–1; CIDEr-D alone exceeds 1, and its tolerance grows with it.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import pandas as pd

from mmpeft.errors import MmpeftError
from mmpeft.execute import RUN, RunFunction, run_missing
from mmpeft.pictures import prepare_features
from mmpeft.plan import Planned
from mmpeft.records import Record, Store

SCORE_TOLERANCE = 0.02
LOSS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """A recorded run beside the same run made now.

    Attributes:
        run_id: The run.
        name: Task, method, connector and seed, for people.
        reproduced: Whether every difference is within its tolerance.
        exact: Whether curve, predictions, scores and parameters are equal to the last digit.
        differences: What differs and by how much, one sentence each; empty when exact.
        recorded_score: The record's score.
        score: The score now; None if the run failed.
    """

    run_id: str
    name: str
    reproduced: bool
    exact: bool
    differences: list[str]
    recorded_score: float
    score: float | None


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        seed: Draws the sample.
        num_candidates: Records that could have been drawn.
        num_outdated: Records of an earlier base or task version, which cannot be made again.
        comparisons: One a sampled run.
        tolerances: What counts as equal.
    """

    seed: int
    num_candidates: int
    num_outdated: int
    comparisons: list[Comparison]
    tolerances: dict[str, float] = field(
        default_factory=lambda: {"score": SCORE_TOLERANCE, "first_step_loss": LOSS_TOLERANCE}
    )

    @property
    def num_reproduced(self) -> int:
        """How many of the sampled runs came out the same within the tolerances."""
        return sum(one.reproduced for one in self.comparisons)

    @property
    def verdict(self) -> str:
        """The line that says it: «6 of 6 reproduced (6 bit for bit)»."""
        exact = sum(one.exact for one in self.comparisons)
        return f"{self.num_reproduced} of {len(self.comparisons)} reproduced ({exact} bit for bit)"

    @property
    def passed(self) -> bool:
        """Whether all were reproduced."""
        return self.num_reproduced == len(self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain values, for JSON."""
        return {**asdict(self), "reproduced": self.num_reproduced, "sample": len(self.comparisons)}


def audit(
    store: Store,
    planned: Sequence[Planned] | None = None,
    *,
    num_runs: int = 6,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
    run: RunFunction | str = RUN,
) -> Audit:
    """A sample of the store's finished runs, made again and compared.

    Args:
        store: The records; nothing is written to it.
        planned: Draw from these runs only; by default from every record of the store.
        num_runs: Size of the sample; fewer if there are fewer records.
        seed: Draws the sample.
        workers: Local processes.
        progress: Whether to show bars.
        run: What makes a run.

    Raises:
        MmpeftError: There is no finished run to make again.
    """
    ids = [one.run_id for one in planned] if planned is not None else _run_ids(store)
    finished = [record for run_id in ids if (record := store.load(run_id)) and record.status == "ok"]
    current = {record.run_id: one for record in finished if (one := _planned(record))}
    if not current:
        why = f"its {len(finished)} are of an earlier base or task" if finished else "make some: mmpeft run"
        raise MmpeftError(f"audit: no finished run in {store.path} that can be made again; {why}.")
    sampled = sample(list(current.values()), num_runs, seed)
    if run == RUN:
        prepare_features(sampled, workers)
    with tempfile.TemporaryDirectory(prefix="mmpeft-audit-") as folder:
        again = Store(folder)
        run_missing(sampled, again, workers, progress, run=run)
        comparisons = [compare(store, again, one.run_id) for one in sampled]
    return Audit(seed, len(current), len(finished) - len(current), comparisons)


def sample(planned: Sequence[Planned], num_runs: int, seed: int) -> list[Planned]:
    """A random sample that covers as many methods and tasks as it can.

    Each draw is random among the runs whose method, and then whose task, was drawn least so far.
    """
    left = sorted(planned, key=lambda one: one.run_id)
    Random(f"audit:{seed}").shuffle(left)
    methods: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    drawn: list[Planned] = []
    while left and len(drawn) < num_runs:
        one = min(left, key=lambda each: (methods[each.spec.method.name], tasks[each.spec.task]))
        left.remove(one)
        drawn.append(one)
        methods[one.spec.method.name] += 1
        tasks[one.spec.task] += 1
    return drawn


def compare(recorded_in: Store, made_in: Store, run_id: str) -> Comparison:
    """The same run in two stores.

    Raises:
        MmpeftError: The recorded run is not there.
    """
    recorded, made = recorded_in.load(run_id), made_in.load(run_id)
    if recorded is None:
        raise MmpeftError(f"audit: run {run_id} has no record in {recorded_in.path}.")
    score = recorded.scores["score"]
    if made is None or made.status == "failed":
        reason = made.error if made and made.error else "it left no record"
        return Comparison(run_id, _name(recorded), False, False, [f"the run failed: {reason}"], score, None)
    within, differences = _differences(recorded, made)
    differences += _prediction_differences(recorded_in, made_in, run_id)
    return Comparison(run_id, _name(recorded), within, not differences, differences, score, made.scores["score"])


def _differences(recorded: Record, made: Record) -> tuple[bool, list[str]]:
    """Whether the two records agree within the tolerances, and where they are not equal."""
    within, found = True, []
    before, now = recorded.cost.get("trainable_params"), made.cost.get("trainable_params")
    if before != now:
        within = False
        found.append(f"trainable parameters {now}, recorded {before}")
    change = made.scores["score"] - recorded.scores["score"]
    if change:
        within &= abs(change) <= SCORE_TOLERANCE * max(1.0, recorded.scores["score"])
        found.append(f"score {made.scores['score']:.4f}, recorded {recorded.scores['score']:.4f} ({change:+.4f})")
    if recorded.curve != made.curve:
        gap, steps = _first_gap(recorded, made), (len(made.curve), len(recorded.curve))
        within &= steps[0] == steps[1] and gap <= LOSS_TOLERANCE
        parted = f"the curves part after the first step ({steps[0]} steps, recorded {steps[1]})"
        found.append(f"first-step loss differs by {gap:.2g}" if gap else parted)
    return within, found


def _first_gap(recorded: Record, made: Record) -> float:
    """How far apart the losses of the first step are; infinite if only one has a finite one."""
    first = [record.curve[0][1] if record.curve else None for record in (recorded, made)]
    if first[0] is None or first[1] is None:
        return 0.0 if first[0] is first[1] else float("inf")
    return abs(first[0] - first[1])


def _prediction_differences(recorded_in: Store, made_in: Store, run_id: str) -> list[str]:
    """One sentence if the predictions are not the same texts, and one if those made on the way are not."""
    before, now = (store.predictions(run_id).set_index("example_id")["prediction"] for store in (recorded_in, made_in))
    found = _changed(before, now, "predictions")
    before, now = (_tracked(store, run_id) for store in (recorded_in, made_in))
    return found + _changed(before, now, "tracked predictions")


def _tracked(store: Store, run_id: str) -> "pd.Series[str]":
    """What the run said on the way, by task, example and epoch; empty if it was asked nothing."""
    record = store.load(run_id)
    if record is None or record.tracked_sha256 is None:
        return pd.Series([], dtype=str)
    return store.tracked(run_id).set_index(["task", "example_id", "epoch"])["prediction"]


def _changed(before: "pd.Series[str]", now: "pd.Series[str]", what: str) -> list[str]:
    if set(before.index) != set(now.index):
        return [f"{what} of other examples ({len(now)}, recorded {len(before)})"]
    changed = int((before != now.reindex(before.index)).sum())
    return [f"{changed} of {len(before)} {what} differ"] if changed else []


def _run_ids(store: Store) -> list[str]:
    return [path.stem for path in sorted((store.path / "records").glob("*.json"))]


def _planned(record: Record) -> Planned | None:
    """The run to make again; None if today's base or task would make another one of it."""
    try:
        one = Planned.of(record.spec)
    except MmpeftError:
        return None
    return one if one.run_id == record.run_id else None


def _name(record: Record) -> str:
    spec = record.spec
    tuned = "connector tuned" if spec.connector.tuned else "connector frozen"
    return f"{spec.task}, {spec.method.label}, {tuned}, seed {spec.seed}"
