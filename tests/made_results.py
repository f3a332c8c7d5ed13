"""Results that neither a run nor a record made: scores by a rule, for tests of what is computed from them."""

import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from fixture_records import question

from mmpeft.plan import Planned, Question
from mmpeft.spec import RunSpec, run_id
from mmpeft.stats import TaskScores
from mmpeft.study.comparison import Results, variants_of
from mmpeft.study.curves import Scores

NUM_ITEMS = 80
Rule = Callable[[RunSpec], float]


def asked(name: str, **changes: object) -> Question:
    """A question at tiny about the packaged model, whose sizes are known without loading it."""
    return question(name, **{"model": "tiny-llava", **changes})


def every(spec: RunSpec) -> bool:
    return True


def results_of(asked: Question, rule: Rule, *, noise: float = 0.0, keep: Callable[[RunSpec], bool] = every) -> Results:
    """Results whose items score as the rule says, with items of unlike difficulty and, if wanted, chance at each run.

    Args:
        asked: The question.
        rule: The mean score of a run.
        noise: SD of what is added to a single item of a single run.
        keep: Which runs there are.
    """
    planned = tuple(asked.planned())
    variants = variants_of(planned)
    scores = {variant: _scores(runs, rule, noise, keep) for variant, runs in variants.items()}
    runs = pd.DataFrame({"run_id": [], "status": [], "device": [], "git_commit": []})
    return Results(asked, planned, runs, variants, {variant: found for variant, found in scores.items() if found})


def _scores(runs: tuple[Planned, ...], rule: Rule, noise: float, keep: Callable[[RunSpec], bool]) -> Scores:
    found: Scores = {}
    for task in dict.fromkeys(run.spec.task for run in runs):
        difficulty = np.random.default_rng(zlib.crc32(task.encode())).normal(0, 0.1, NUM_ITEMS)
        mine = [run for run in runs if run.spec.task == task and keep(run.spec)]
        if not mine:
            continue
        # Not of the run's own id, which another base would change.
        names = [run_id(run.spec, task_version=1, fingerprint="") for run in mine]
        luck = [np.random.default_rng(zlib.crc32(name.encode())).normal(0, 1, NUM_ITEMS) for name in names]
        rows = [rule(run.spec) + difficulty - difficulty.mean() + noise * each for run, each in zip(mine, luck, strict=True)]
        items = np.array([f"{task}/{i}" for i in range(NUM_ITEMS)])
        found[task] = TaskScores(np.array(rows), np.array([run.spec.seed for run in mine]), items, items)
    return found
