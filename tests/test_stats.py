"""Statistics against closed forms, full enumeration and simulation; every generator is seeded."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from score_matrix import task_of

from mmpeft import stats
from mmpeft.errors import MmpeftError


def simulated(rng, *, num_tasks=1, num_seeds, num_pictures, per_picture=1, seed_sd, picture_sd, noise_sd):
    """A variant whose true score is 0, from a crossed random-effects model."""
    pictures = np.repeat(np.arange(num_pictures), per_picture)
    return {
        f"task-{number}": task_of(
            rng.normal(0, seed_sd, (num_seeds, 1))
            + rng.normal(0, picture_sd, num_pictures)[pictures]
            + rng.normal(0, noise_sd, (num_seeds, len(pictures))),
            pictures,
        )
        for number in range(num_tasks)
    }


# --------------------------------------------------------------------------------------------------
# The data shape
# --------------------------------------------------------------------------------------------------

COLUMNS = {
    "task": ["vqa"] * 4 + ["ocr"] * 2,
    "seed": [1, 0, 0, 1, 0, 0],
    "example_id": ["q2", "q1", "q2", "q1", "b", "a"],
    "picture_id": ["p2", "p1", "p2", "p1", "p", "p"],
    "score": [0.4, 0.1, 0.2, 0.3, 1.0, 0.0],
}


@pytest.mark.parametrize("columns", [COLUMNS, pd.DataFrame(COLUMNS)], ids=["dict", "DataFrame"])
def test_group_scores_makes_one_matrix_of_seeds_by_items_for_each_task(columns):
    scores = stats.group_scores(columns)
    assert list(scores) == ["vqa", "ocr"]
    assert scores["vqa"].scores.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert scores["vqa"].seeds.tolist() == [0, 1]
    assert scores["vqa"].examples.tolist() == ["q1", "q2"]
    assert scores["vqa"].pictures.tolist() == ["p1", "p2"]
    assert scores["ocr"].scores.tolist() == [[0.0, 1.0]]


def test_group_scores_names_the_missing_column_answer_or_number():
    with pytest.raises(MmpeftError, match="missing: picture_id"):
        stats.group_scores({name: values for name, values in COLUMNS.items() if name != "picture_id"})
    with pytest.raises(MmpeftError, match="seed 1 has 0 rows for example q1"):
        stats.group_scores({name: values[:3] for name, values in COLUMNS.items()})
    with pytest.raises(MmpeftError, match="has 2 rows"):
        stats.group_scores({name: values + values[:1] for name, values in COLUMNS.items()})
    with pytest.raises(MmpeftError, match="not finite"):
        stats.group_scores(COLUMNS | {"score": [math.nan, *COLUMNS["score"][1:]]})


# --------------------------------------------------------------------------------------------------
# The bootstrap against closed forms and enumeration
# --------------------------------------------------------------------------------------------------


def test_the_mean_weighs_tasks_alike_whatever_their_size():
    scores = {"small": task_of([[1, 0]]), "large": task_of(np.ones((3, 50)))}
    assert stats.hierarchical_bootstrap(scores, np.random.default_rng(0)).mean == pytest.approx(0.75)


def test_one_seed_gives_the_standard_error_of_a_mean_over_items():
    values = np.random.default_rng(1).normal(size=40)
    estimate = stats.hierarchical_bootstrap(
        {"t": task_of(values)}, np.random.default_rng(0), num_draws=40_000
    )
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(40), rel=0.02)
    assert estimate.degrees_of_freedom == pytest.approx(39)
    assert estimate.num_seeds == 1


def test_equal_clusters_give_the_standard_error_of_a_mean_over_pictures():
    rng = np.random.default_rng(2)
    pictures = np.repeat(np.arange(30), 4)
    values = rng.normal(size=30)[pictures] + rng.normal(0, 0.2, 120)
    cluster_means = values.reshape(30, 4).mean(axis=1)
    estimate = stats.hierarchical_bootstrap(
        {"t": task_of(values, pictures)}, np.random.default_rng(0), num_draws=40_000
    )
    assert estimate.standard_error == pytest.approx(cluster_means.std(ddof=1) / math.sqrt(30), rel=0.02)
    unclustered = stats.hierarchical_bootstrap({"t": task_of(values)}, np.random.default_rng(0))
    assert estimate.standard_error > 1.5 * unclustered.standard_error


def test_seeds_alone_give_the_standard_error_of_a_mean_over_seeds():
    seed_scores = np.array([0.2, 0.5, 0.9])
    matrix = np.repeat(seed_scores[:, None], 20, axis=1)  # items do not differ
    estimate = stats.hierarchical_bootstrap(
        {"t": task_of(matrix)}, np.random.default_rng(0), num_draws=40_000
    )
    assert estimate.standard_error == pytest.approx(seed_scores.std(ddof=1) / math.sqrt(3), rel=0.02)
    assert estimate.degrees_of_freedom == pytest.approx(2, rel=0.05)


def test_the_variance_of_seeds_pictures_and_noise_matches_a_two_way_analysis_of_variance():
    rng = np.random.default_rng(3)
    num_seeds, num_items = 5, 60
    matrix = rng.normal(0, 0.2, (num_seeds, 1)) + rng.normal(0, 0.5, num_items) + rng.normal(0, 0.5, (5, 60))
    grand, rows, columns = matrix.mean(), matrix.mean(axis=1), matrix.mean(axis=0)
    mean_square_noise = sum(
        (matrix[s, i] - rows[s] - columns[i] + grand) ** 2 for s in range(num_seeds) for i in range(num_items)
    ) / ((num_seeds - 1) * (num_items - 1))
    seed_part = rows.var(ddof=1) / num_seeds - mean_square_noise / (num_seeds * num_items)
    expected = seed_part + columns.var(ddof=1) / num_items
    estimate = stats.hierarchical_bootstrap(
        {"t": task_of(matrix)}, np.random.default_rng(0), num_draws=40_000
    )
    assert estimate.standard_error**2 == pytest.approx(expected, rel=0.03)


def test_draws_are_distributed_as_full_enumeration_says_also_with_unequal_clusters():
    pictures = np.array([0, 0, 0, 1, 2, 2])
    values = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    totals, sizes = np.array([2.0, 0.0, 2.0]), np.array([3.0, 1.0, 2.0])
    exact = [totals[list(d)].sum() / sizes[list(d)].sum() for d in itertools.product(range(3), repeat=2)]
    estimate = stats.hierarchical_bootstrap(
        {"t": task_of(values, pictures)}, np.random.default_rng(0), num_draws=100_000
    )
    assert estimate.standard_error == pytest.approx(np.std(exact), rel=0.02)
    (drawn,) = stats._resampled_means(totals[None], sizes, np.random.default_rng(0), 90_000)
    found, counts = np.unique(drawn.round(9), return_counts=True)
    expected, weights = np.unique(np.round(exact, 9), return_counts=True)
    assert found == pytest.approx(expected)
    assert counts / 90_000 == pytest.approx(weights / 9, abs=0.01)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    scores = {"t": task_of(np.random.default_rng(4).normal(size=(1, 50)))}
    whole = stats.hierarchical_bootstrap(scores, np.random.default_rng(0), num_draws=500)
    monkeypatch.setattr(stats, "_MAX_CELLS", 1000)
    assert stats.hierarchical_bootstrap(scores, np.random.default_rng(0), num_draws=500) == whole


def test_copying_every_item_within_its_picture_adds_no_information():
    values = np.random.default_rng(5).normal(size=(3, 40))
    once = stats.hierarchical_bootstrap({"t": task_of(values)}, np.random.default_rng(0))
    copied = task_of(np.repeat(values, 3, axis=1), np.repeat(np.arange(40), 3))
    assert stats.hierarchical_bootstrap({"t": copied}, np.random.default_rng(0)) == pytest.approx(once)


def test_the_same_generator_state_gives_the_same_interval_and_another_does_not():
    scores = simulated(
        np.random.default_rng(6),
        num_tasks=2,
        num_seeds=3,
        num_pictures=30,
        seed_sd=1,
        picture_sd=1,
        noise_sd=1,
    )
    first = stats.hierarchical_bootstrap(scores, np.random.default_rng(7))
    assert stats.hierarchical_bootstrap(scores, np.random.default_rng(7)) == first
    assert stats.hierarchical_bootstrap(scores, np.random.default_rng(8)) != first


def test_scores_without_any_spread_give_an_interval_of_no_width():
    estimate = stats.hierarchical_bootstrap({"t": task_of(np.ones((3, 10)))}, np.random.default_rng(0))
    assert (estimate.mean, estimate.low, estimate.high, estimate.standard_error) == (1.0, 1.0, 1.0, 0.0)
    assert math.isinf(estimate.degrees_of_freedom)


def test_a_wider_level_gives_a_wider_interval_around_the_mean():
    scores = {"t": task_of(np.random.default_rng(9).normal(size=(3, 40)))}
    narrow, wide = (
        stats.hierarchical_bootstrap(scores, np.random.default_rng(0), level=level) for level in (0.5, 0.95)
    )
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_resampled_tasks_give_the_standard_error_of_a_mean_over_tasks():
    levels = [0.1, 0.4, 0.5, 0.9]
    scores = {str(level): task_of(np.full((3, 10), level)) for level in levels}
    fixed = stats.hierarchical_bootstrap(scores, np.random.default_rng(0))
    drawn = stats.hierarchical_bootstrap(
        scores, np.random.default_rng(0), num_draws=40_000, resample_tasks=True
    )
    assert fixed.standard_error == pytest.approx(0)
    assert drawn.standard_error == pytest.approx(np.std(levels, ddof=1) / 2, rel=0.02)
    assert drawn.degrees_of_freedom == 3


def test_the_bootstrap_refuses_what_has_no_interval():
    rng = np.random.default_rng(0)
    with pytest.raises(MmpeftError, match="nothing to average"):
        stats.hierarchical_bootstrap({}, rng)
    with pytest.raises(MmpeftError, match="task t: an interval needs items about at least two pictures"):
        stats.hierarchical_bootstrap({"t": task_of([[1, 0]], [5, 5])}, rng)
    with pytest.raises(MmpeftError, match="level"):
        stats.hierarchical_bootstrap({"t": task_of([[1, 0]])}, rng, level=95)
    with pytest.raises(MmpeftError, match="at least two tasks"):
        stats.hierarchical_bootstrap({"t": task_of([[1, 0]])}, rng, resample_tasks=True)


# --------------------------------------------------------------------------------------------------
# Coverage
# --------------------------------------------------------------------------------------------------


DESIGNS = {
    "pictures dominate": {
        "num_seeds": 3,
        "num_pictures": 100,
        "picture_sd": 0.3,
        "noise_sd": 0.2,
        "seed_sd": 0.02,
    },
    "seeds dominate": {
        "num_seeds": 5,
        "num_pictures": 100,
        "picture_sd": 0.1,
        "noise_sd": 0.2,
        "seed_sd": 0.2,
    },
    "noise alone": {"num_seeds": 5, "num_pictures": 100, "picture_sd": 0.0, "noise_sd": 0.4, "seed_sd": 0.0},
    "eight tasks": {"num_seeds": 3, "num_pictures": 40, "picture_sd": 0.3, "noise_sd": 0.3, "seed_sd": 0.05}
    | {"num_tasks": 8},
    "three items a picture": {"num_seeds": 5, "num_pictures": 50, "picture_sd": 0.3, "noise_sd": 0.2}
    | {"seed_sd": 0.03, "per_picture": 3, "num_tasks": 2},
}


def coverage(design, num_studies, rng):
    """The share of simulated studies whose 95 % interval holds the true score, 0."""
    covered = 0
    for _ in range(num_studies):
        estimate = stats.hierarchical_bootstrap(simulated(rng, **design), rng, num_draws=400)
        covered += estimate.low <= 0 <= estimate.high
    return covered / num_studies


@pytest.mark.parametrize("name", DESIGNS)
def test_a_95_percent_interval_covers_the_truth_about_as_often(name):
    assert 0.92 <= coverage(DESIGNS[name], 400, np.random.default_rng(10)) <= 0.99


def test_two_seeds_that_differ_much_still_cover_in_more_than_85_percent():
    design = {"num_seeds": 2, "num_pictures": 100, "picture_sd": 0.1, "noise_sd": 0.2, "seed_sd": 0.06}
    assert coverage(design, 400, np.random.default_rng(10)) >= 0.85


def test_joint_draws_have_each_sets_own_interval_and_the_same_pictures_and_runs():
    rng = np.random.default_rng(0)
    names = np.array([f"{draw}/{seed}" for draw in (0, 1) for seed in (0, 1, 2)])
    one = task_of(rng.normal(size=60) + rng.normal(0, 0.5, 6)[:, None] + rng.normal(size=(6, 60)))
    first = stats.TaskScores(one.scores, names, one.examples, one.pictures, stats.draws_of(names.tolist()))
    second = stats.TaskScores(2 * one.scores + 1, names, one.examples, one.pictures, first.draws)
    shifts = stats.joint_shifts([{"t": first}, {"t": second}], np.random.default_rng(0), 1000)
    for task, column in ((first, 0), (second, 1)):
        e = stats.hierarchical_bootstrap({"t": task}, np.random.default_rng(0), num_draws=1000)
        assert np.quantile(shifts[:, column], [0.025, 0.975]) == pytest.approx([e.low - e.mean, e.high - e.mean])
    assert shifts[:, 1] == pytest.approx(2 * shifts[:, 0])


# --------------------------------------------------------------------------------------------------
# Two variants
# --------------------------------------------------------------------------------------------------


def test_paired_difference_cancels_what_makes_an_item_hard_for_both():
    rng = np.random.default_rng(11)
    hard = rng.normal(0, 1, 200)
    a = {"t": task_of(hard + 0.1 + rng.normal(0, 0.05, (3, 200)))}
    b = {"t": task_of(hard + rng.normal(0, 0.05, (3, 200)))}
    gain = stats.paired_difference(a, b, np.random.default_rng(0))
    assert gain.mean == pytest.approx(a["t"].scores.mean() - b["t"].scores.mean())
    assert gain.low > 0.08
    assert gain.high < 0.12
    assert stats.hierarchical_bootstrap(a, np.random.default_rng(0)).standard_error > 10 * gain.standard_error


def test_paired_difference_is_the_bootstrap_of_differences_and_changes_sign_with_the_order():
    rng = np.random.default_rng(12)
    a, b = ({"t": task_of(rng.normal(size=(4, 25)))} for _ in range(2))
    direct = stats.hierarchical_bootstrap(
        {"t": task_of(a["t"].scores - b["t"].scores)}, np.random.default_rng(0)
    )
    assert stats.paired_difference(a, b, np.random.default_rng(0)) == direct
    turned = stats.paired_difference(b, a, np.random.default_rng(0))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-direct.mean, -direct.high, -direct.low))


def test_a_difference_uses_the_seeds_that_both_variants_have():
    a = {"t": task_of([[1, 1], [2, 2], [3, 3]], seeds=[0, 1, 2])}
    b = {"t": task_of([[10, 10], [20, 20]], seeds=[2, 1])}
    gain = stats.difference(a, b)["t"]
    assert gain.seeds.tolist() == [1, 2]
    assert gain.scores.tolist() == [[-18, -18], [-7, -7]]


def test_an_untrained_baseline_stands_against_every_seed():
    a = {"t": task_of([[1, 2], [3, 4]], seeds=[5, 6])}
    b = {"t": task_of([[1, 1]], seeds=[0])}
    gain = stats.difference(a, b, untrained_baseline=True)["t"]
    assert gain.scores.tolist() == [[0, 1], [2, 3]]
    assert gain.seeds.tolist() == [5, 6]


def test_variants_that_cannot_be_paired_are_refused():
    one = {"t": task_of([[1, 2], [3, 4]], seeds=[0, 1])}
    with pytest.raises(MmpeftError, match="one variant alone: u"):
        stats.difference(one, one | {"u": one["t"]})
    with pytest.raises(MmpeftError, match="not scored on the same examples"):
        stats.difference(one, {"t": task_of([[1, 2, 3], [3, 4, 5]])})
    with pytest.raises(MmpeftError, match="no seed in common"):
        stats.difference(one, {"t": task_of([[1, 2]], seeds=[7])})
    with pytest.raises(MmpeftError, match="has one run, this one has 2"):
        stats.difference(one, one, untrained_baseline=True)


# --------------------------------------------------------------------------------------------------
# Draws of the training set
# --------------------------------------------------------------------------------------------------


def on_draws(rng, *, draw_sd, seed_sd, run_sd, num_draws=2, num_seeds=3, num_pictures=40):
    """Runs on several draws of the training set, all with the same seeds; the true score is 0."""
    of_runs = rng.normal(0, draw_sd, (num_draws, 1)) + rng.normal(0, seed_sd, num_seeds)
    of_runs = of_runs + rng.normal(0, run_sd, (num_draws, num_seeds))
    of_items = rng.normal(0, 1, num_pictures)
    draws = [task_of(runs[:, None] + of_items + rng.normal(0, 1, (num_seeds, num_pictures))) for runs in of_runs]
    return draws, stats.pool(list(enumerate(draws)))


def test_pooled_draws_keep_the_seeds_that_all_have():
    a, b = task_of(np.arange(6).reshape(3, 2), seeds=[0, 1, 2]), task_of(np.arange(6).reshape(3, 2) + 10, seeds=[2, 0, 3])
    found = stats.pool([("x", a), ("y", b)])
    assert found.seeds.tolist() == ["x/0", "x/2", "y/0", "y/2"] and found.draws.tolist() == ["x", "x", "y", "y"]
    assert found.scores.tolist() == [[0, 1], [4, 5], [12, 13], [10, 11]]
    lone = stats.pool([("x", a), ("y", task_of([[1.0, 2.0]], seeds=[0]))])
    assert lone.seeds.tolist() == ["x/0", "x/1", "x/2"] and lone.draws is None
    with pytest.raises(MmpeftError, match="same examples"):
        stats.pool([("x", a), ("y", task_of(np.zeros((3, 3)), seeds=[0, 1, 2]))])


def test_a_difference_of_draws_is_paired_by_draw_and_seed():
    _, pooled = on_draws(np.random.default_rng(0), draw_sd=1, seed_sd=1, run_sd=1)
    found = stats.difference({"t": pooled}, {"t": pooled})["t"]
    assert found.draws.tolist() == ["0"] * 3 + ["1"] * 3 and not found.scores.any()


def test_draws_and_seeds_give_the_standard_error_of_a_two_way_layout():
    matrix = np.array([[1.0, 2.0, 6.0], [4.0, 9.0, 8.0]])
    pictures = np.arange(6)
    rows = [task_of(np.repeat(seeds[:, None], 6, axis=1), pictures) for seeds in matrix]
    e = stats.hierarchical_bootstrap({"t": stats.pool(list(enumerate(rows)))}, np.random.default_rng(0), num_draws=20_000)
    of_draws, of_seeds = matrix.mean(axis=1).var(ddof=1) / 2, matrix.mean(axis=0).var(ddof=1) / 3
    rest = matrix - matrix.mean(axis=1)[:, None] - matrix.mean(axis=0) + matrix.mean()
    variance = of_draws + of_seeds - (rest**2).sum() / 2 / 6
    assert e.standard_error**2 == pytest.approx(variance, rel=0.03)
    assert e.degrees_of_freedom == pytest.approx((of_draws + of_seeds) ** 2 / (of_draws**2 + of_seeds**2 / 2), rel=0.06)


@pytest.mark.parametrize("draw_sd", [0.0, 0.3, 1.0])
def test_few_draws_cover_the_mean_over_all_draws_where_runs_taken_for_independent_do_not(draw_sd):
    rng = np.random.default_rng(1)
    held, naive = 0, 0
    for _ in range(200):
        _, pooled = on_draws(rng, draw_sd=draw_sd, seed_sd=0.3, run_sd=0.1)
        alike = stats.TaskScores(pooled.scores, pooled.seeds, pooled.examples, pooled.pictures)
        for known, counts in ((pooled, True), (alike, False)):
            e = stats.hierarchical_bootstrap({"t": known}, rng, num_draws=200)
            held, naive = held + (counts and e.low <= 0 <= e.high), naive + (not counts and e.low <= 0 <= e.high)
    assert held / 200 > 0.84
    assert naive / 200 < held / 200 - 0.03
