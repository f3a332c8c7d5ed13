"""Prints how long the statistics of a whole study take, on invented scores: 2,500 runs of 1,000 items.

Run with ``python benchmarks/study_statistics.py``: one core, no records. 63 variants times eight tasks times five seeds,
with names of examples and pictures as long as real ones, two items a picture in half of the tasks. The line ``all`` is
what the tables of a book of that size ask for: every cell, every average, and differences of three kinds for each row.
(Not called ``statistics``: a file of that name here would stand in for Python's own module.)
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from mmpeft import decide, stats, summaries

NUM_VARIANTS = 63
NUM_TASKS = 8
NUM_SEEDS = 5
NUM_ITEMS = 1000
NUM_DRAWS = 2000


def made_up_answers(num_tasks: int, rng: np.random.Generator) -> pd.DataFrame:
    """One variant's predictions, a row each, of right and wrong answers."""
    parts = []
    for task in range(num_tasks):
        pictures = [f"task-{task}/test/picture-{item // (1 + task % 2)}" for item in range(NUM_ITEMS)]
        examples = [f"task-{task}/test/{item}" for item in range(NUM_ITEMS)]
        hard = rng.normal(0, 0.2, NUM_ITEMS)
        for seed in range(NUM_SEEDS):
            right = rng.random(NUM_ITEMS) < 0.7 + hard + rng.normal(0, 0.02)
            columns = {"task": f"task-{task}", "seed": seed, "example_id": examples, "picture_id": pictures}
            parts.append(pd.DataFrame({**columns, "score": right.astype(float)}))
    return pd.concat(parts)


def parts_of_a_study(rng: np.random.Generator) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What is measured: its name, how often a study does it, and one time of it."""
    answers = made_up_answers(NUM_TASKS, rng)
    a, b = stats.group_scores(answers), stats.group_scores(made_up_answers(NUM_TASKS, rng))
    base = {
        name: stats.TaskScores(task.scores[:1] * (rng.random(NUM_ITEMS) < 0.5), task.seeds[:1], task.examples, task.pictures)
        for name, task in b.items()
    }
    one, other = ({name: scores[name] for name in list(scores)[:1]} for scores in (a, b))
    runs, others = summaries.run_scores(a), summaries.run_scores(b)
    gain = stats.paired_difference(a, b, np.random.default_rng(0), num_draws=NUM_DRAWS)
    # Every call of a study has its own degrees of freedom, which a cache would not know.
    errors = (gain._replace(degrees_of_freedom=gain.degrees_of_freedom + k / 1000) for k in range(1_000_000))
    cube = rng.random((3, 10, NUM_ITEMS)).round()

    def draw() -> np.random.Generator:
        return np.random.default_rng(0)

    def decided() -> object:
        each = next(errors)
        freedom = each.degrees_of_freedom
        promised = decide.minimum_detectable_difference(each.standard_error, 1, degrees_of_freedom=freedom)
        return decide.p_value(each), decide.verdict(each, 0.02), promised

    cells, rows = NUM_VARIANTS * NUM_TASKS, NUM_VARIANTS
    yield "group_scores, a variant", rows, lambda: stats.group_scores(answers)
    yield "hierarchical_bootstrap, a task", cells, lambda: stats.hierarchical_bootstrap(one, draw(), num_draws=NUM_DRAWS)
    yield "hierarchical_bootstrap, an average", rows, lambda: stats.hierarchical_bootstrap(a, draw(), num_draws=NUM_DRAWS)
    yield "paired_difference, a task", 3 * cells, lambda: stats.paired_difference(one, other, draw(), num_draws=NUM_DRAWS)
    yield "paired_difference, an average", 3 * rows, lambda: stats.paired_difference(a, b, draw(), num_draws=NUM_DRAWS)
    yield "normalize", rows, lambda: summaries.normalize(a, base, b)
    yield "p-value, verdict, detectable", 3 * (cells + rows), decided
    yield "holm, a table", 10, lambda: decide.holm(np.linspace(0, 1, cells))
    yield "interquartile_interval", rows, lambda: summaries.interquartile_interval(runs, draw())
    yield "probability_of_improvement", 3 * rows, lambda: summaries.probability_of_improvement(runs, others, draw())
    yield "performance_profile, 101 points", rows, lambda: summaries.performance_profile(runs, np.linspace(0, 1, 101), draw())
    yield "variance_components, 3 × 10 seeds", cells // 4, lambda: summaries.variance_components(cube)
    yield "agreement, 10 seeds", cells // 4, lambda: summaries.agreement(cube[0])
    yield "sd_ratio", cells // 4, lambda: summaries.sd_ratio(runs["task-0"], others["task-0"])


def main() -> None:
    """Print one line a function: seconds of one call, how many a study makes, seconds of all."""
    total = 0.0
    print(f"{'':36s} {'one call':>10s} {'calls':>6s} {'study':>8s}")
    for name, times, call in parts_of_a_study(np.random.default_rng(0)):
        call()
        seconds, repeats = 0.0, 0
        while seconds < 0.5 and repeats < 200:
            start = time.process_time()  # the processor's time: the machine may have other work
            call()
            seconds, repeats = seconds + time.process_time() - start, repeats + 1
        one = seconds / repeats
        total += one * times
        print(f"{name:36s} {1000 * one:7.2f} ms {times:6,d} {one * times:6.1f} s")
    print(f"{'all, on one core':36s} {'':10s} {'':6s} {total:6.1f} s")


if __name__ == "__main__":
    main()
