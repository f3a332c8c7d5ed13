"""Summaries of runs against worked examples, brute force, enumeration and simulation; every generator is seeded."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from score_matrix import task_of

from mmpeft import stats, summaries
from mmpeft.errors import MmpeftError


def test_run_scores_are_the_means_of_seeds_over_items():
    found = summaries.run_scores({"a": task_of([[0, 1], [1, 1]]), "b": task_of([[0.2, 0.4, 0.6]])})
    assert found["a"].tolist() == [0.5, 1.0]
    assert found["b"] == pytest.approx([0.4])


# --------------------------------------------------------------------------------------------------
# The typical run
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mean"),
    [([1, 2, 3, 100], 2.5), ([[5, 1], [100, 3]], 4.0), ([0, 1, 5], 2.0), ([7], 7.0), (range(8), 3.5)],
)
def test_interquartile_mean_cuts_a_quarter_at_each_end(values, mean):
    assert summaries.interquartile_mean(list(values)) == pytest.approx(mean)


def test_interquartile_mean_of_nothing_is_refused():
    with pytest.raises(MmpeftError, match="not defined"):
        summaries.interquartile_mean([])


def test_the_interval_of_the_interquartile_mean_is_that_of_all_redrawn_samples():
    runs = {"a": [0.0, 1.0, 3.0, 7.0], "b": [2.0, 12.0]}
    drawn = [
        np.mean(sorted(first + second)[1:-1])  # six runs: a quarter, rounded down, is one
        for first in itertools.product(runs["a"], repeat=4)
        for second in itertools.product(runs["b"], repeat=2)
    ]
    found = summaries.interquartile_interval(runs, np.random.default_rng(0), num_draws=40_000, level=0.8)
    assert found.value == pytest.approx(np.mean([1, 2, 3, 7]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=0.26)  # steps are a quarter


def test_the_probability_of_improvement_is_mann_whitneys_u_over_the_number_of_pairs():
    rng = np.random.default_rng(1)
    a, b = ({name: rng.integers(0, 6, size) / 6 for name, size in (("t", 7), ("u", 4))} for _ in range(2))
    expected = np.mean([scipy.stats.mannwhitneyu(a[t], b[t]).statistic / (len(a[t]) * len(b[t])) for t in a])
    found = summaries.probability_of_improvement(a, b, np.random.default_rng(0))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_the_probability_of_improvement_counts_ties_half_and_tasks_alike():
    a = {"small": [1.0], "large": [0.5] * 9}
    b = {"small": [0.0], "large": [0.5] * 5}
    assert summaries.probability_of_improvement(a, b, np.random.default_rng(0)) == pytest.approx((0.75, 0.75, 0.75))


def test_both_ways_round_the_probabilities_of_improvement_add_up_to_one():
    rng = np.random.default_rng(2)
    a, b = ({"t": rng.integers(0, 4, 5), "u": rng.integers(0, 4, 5)} for _ in range(2))
    there = summaries.probability_of_improvement(a, b, np.random.default_rng(0), num_draws=20_000)
    back = summaries.probability_of_improvement(b, a, np.random.default_rng(0), num_draws=20_000)
    assert there.value == pytest.approx(1 - back.value)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low), abs=0.02)


def test_redrawn_wins_are_distributed_as_full_enumeration_says():
    a, b = [1.0, 4.0, 6.0], [2.0, 5.0]
    exact = [
        np.mean([[(x > y) + 0.5 * (x == y) for y in second] for x in first])
        for first in itertools.product(a, repeat=3)
        for second in itertools.product(b, repeat=2)
    ]
    for level in (0.57, 0.87):
        found = summaries.probability_of_improvement({"t": a}, {"t": b}, np.random.default_rng(0), num_draws=20_000, level=level)
        expected = np.quantile(exact, [(1 - level) / 2, (1 + level) / 2])
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_performance_profile_is_the_share_of_runs_above_each_threshold_with_tasks_alike():
    runs = {"a": [0.1, 0.5], "b": [0.3, 0.3, 0.9, 0.9]}
    profile = summaries.performance_profile(runs, [0.0, 0.3, 0.5, 0.9, 1.0], np.random.default_rng(0))
    assert profile.share == pytest.approx([1.0, (0.5 + 0.5) / 2, (0 + 0.5) / 2, 0.0, 0.0])
    assert profile.thresholds.tolist() == [0.0, 0.3, 0.5, 0.9, 1.0]
    assert (profile.low <= profile.share).all() and (profile.share <= profile.high).all()


def test_the_band_of_a_profile_is_that_of_the_binomial_distribution():
    runs = {"t": np.arange(20) / 20}
    profile = summaries.performance_profile(runs, [0.49, 0.79], np.random.default_rng(0), num_draws=40_000)
    for share, low, high in zip(profile.share, profile.low, profile.high, strict=True):
        assert (low, high) == pytest.approx(tuple(scipy.stats.binom.ppf([0.025, 0.975], 20, share) / 20))


def test_runs_that_have_no_distribution_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(MmpeftError, match="one variant alone: u"):
        summaries.probability_of_improvement({"t": [1]}, {"u": [1], "t": [1]}, rng)
    for runs in ({}, {"t": []}, {"t": [math.nan]}):
        with pytest.raises(MmpeftError, match="at least one task"):
            summaries.performance_profile(runs, [0.5], rng)
    with pytest.raises(MmpeftError, match="level"):
        summaries.performance_profile({"t": [1]}, [0.5], rng, level=95)


# --------------------------------------------------------------------------------------------------
# Between zero-shot and full fine-tuning
# --------------------------------------------------------------------------------------------------


def test_normalized_score_is_0_at_zero_shot_and_1_at_full_fine_tuning():
    assert summaries.normalized_score([0.2, 0.5, 0.8, 0.1], 0.2, 0.8) == pytest.approx([0, 0.5, 1, -1 / 6])
    assert summaries.normalized_score(1.1, 0.3, 0.9) == pytest.approx(4 / 3)
    assert np.isnan(summaries.normalized_score([0.5, 0.5], [0.5, 0.6], 0.5)).all()


def study(rng, *, num_seeds=5, num_items=400, zero=0.3, method=0.6, full=0.7, full_sd=0.02):
    """Right and wrong answers of a variant, the base and full fine-tuning to the same items."""
    difficulty = rng.normal(0, 0.15, num_items)

    def answers(level, seeds, spread):
        share = level + rng.normal(0, spread, (seeds, 1)) + difficulty
        return {"t": task_of(rng.random((seeds, num_items)) < share)}

    return answers(method, num_seeds, 0.02), answers(zero, 1, 0), answers(full, num_seeds, full_sd)


def test_the_mean_of_normalized_scores_is_the_normalized_score_of_the_means():
    scores, zero_shot, full = study(np.random.default_rng(3))
    found = summaries.normalize(scores, zero_shot, full)
    ends = zero_shot["t"].scores.mean(), full["t"].scores.mean()
    assert found.scores["t"].scores.mean() == pytest.approx(summaries.normalized_score(scores["t"].scores.mean(), *ends))
    assert found.left_out == ()
    assert found.scores["t"].pictures.tolist() == scores["t"].pictures.tolist()


def test_full_fine_tuning_is_1_for_every_item_and_so_without_error():
    _, zero_shot, full = study(np.random.default_rng(4))
    estimate = stats.hierarchical_bootstrap(summaries.normalize(full, zero_shot, full).scores, np.random.default_rng(0))
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1, 1, 1))


def test_ends_that_do_not_vary_make_normalizing_a_change_of_units():
    scores, *_ = study(np.random.default_rng(5))
    flat = [{"t": task_of(np.full((n, 400), level))} for n, level in ((1, 0.2), (5, 0.7))]
    plain, found = (
        stats.hierarchical_bootstrap(s, np.random.default_rng(0)) for s in (scores, summaries.normalize(scores, *flat).scores)
    )
    assert (found.mean, found.low, found.high) == pytest.approx(tuple((x - 0.2) / 0.5 for x in plain[:3]))


def test_the_unit_of_a_metric_does_not_matter_to_normalized_scores():
    three = study(np.random.default_rng(25))
    tenths = [{"t": task_of(each["t"].scores / 10)} for each in three]
    plain, other = (summaries.normalize(*each).scores["t"].scores for each in (three, tenths))
    assert other == pytest.approx(plain)


def test_a_task_on_which_full_fine_tuning_gains_too_little_is_left_out_and_named():
    scores, zero_shot, full = study(np.random.default_rng(6))
    several = [
        {"gains": each["t"], "loses": other["t"]}
        for each, other in zip((scores, zero_shot, full), (scores, {"t": task_of(full["t"].scores[:1])}, full), strict=True)
    ]
    several[2]["loses"] = task_of(np.zeros_like(full["t"].scores))
    found = summaries.normalize(*several)
    assert (list(found.scores), found.left_out) == (["gains"], ("loses",))
    gain = full["t"].scores.mean() - zero_shot["t"].scores.mean()
    assert summaries.normalize(scores, zero_shot, full, least_gain=gain - 1e-6).left_out == ()
    assert summaries.normalize(scores, zero_shot, full, least_gain=gain + 1e-6).left_out == ("t",)
    just_as_good = {"t": task_of(np.tile(zero_shot["t"].scores, (5, 1)))}
    assert summaries.normalize(scores, zero_shot, just_as_good).left_out == ("t",)


def test_seeds_are_paired_by_name_whatever_their_order():
    scores, zero_shot, full = study(np.random.default_rng(7))
    turned = {"t": task_of(full["t"].scores[::-1], seeds=[4, 3, 2, 1, 0])}
    expected = summaries.normalize(scores, zero_shot, full).scores["t"].scores
    assert summaries.normalize(scores, zero_shot, turned).scores["t"].scores == pytest.approx(expected)
    fewer = {"t": task_of(full["t"].scores[1:3], seeds=[1, 2])}
    again = summaries.normalize(scores, zero_shot, fewer)
    ends = zero_shot["t"].scores.mean(), fewer["t"].scores.mean()
    common = scores["t"].scores[1:3].mean()
    assert again.scores["t"].scores.mean() == pytest.approx(summaries.normalized_score(common, *ends))
    assert again.scores["t"].seeds.tolist() == [1, 2]


def test_the_error_of_a_normalized_score_is_that_of_redrawing_all_three_together():
    rng = np.random.default_rng(8)
    scores, zero_shot, full = study(rng, num_seeds=1, num_items=600)
    m, z, f = (each["t"].scores[0] for each in (scores, zero_shot, full))
    drawn = rng.integers(600, size=(4000, 599))
    ratios = (m - z)[drawn].mean(axis=1) / (f - z)[drawn].mean(axis=1)
    found = stats.hierarchical_bootstrap(summaries.normalize(scores, zero_shot, full).scores, np.random.default_rng(0))
    assert found.standard_error == pytest.approx(ratios.std(), rel=0.06)


def test_the_interval_of_a_normalized_score_covers_and_one_with_known_ends_does_not():
    rng, held, naive = np.random.default_rng(9), 0, 0
    truth = (0.6 - 0.3) / (0.7 - 0.3)  # answers are cut at 0 and 1 too seldom to matter
    for _ in range(300):
        scores, zero_shot, full = study(rng, full_sd=0.08)
        found = summaries.normalize(scores, zero_shot, full).scores
        estimate = stats.hierarchical_bootstrap(found, rng, num_draws=400)
        held += estimate.low <= truth <= estimate.high
        ends = zero_shot["t"].scores.mean(), full["t"].scores.mean()
        known = {"t": task_of(summaries.normalized_score(scores["t"].scores, *ends))}
        other = stats.hierarchical_bootstrap(known, rng, num_draws=400)
        naive += other.low <= truth <= other.high
    assert 0.92 <= held / 300 <= 0.985
    assert naive / 300 < 0.88


def test_two_normalized_variants_differ_by_their_difference_over_the_gain():
    rng = np.random.default_rng(10)
    scores, zero_shot, full = study(rng)
    other = {"t": task_of(1 - scores["t"].scores)}
    a, b = (summaries.normalize(each, zero_shot, full).scores for each in (scores, other))
    gap = scores["t"].scores.mean() - other["t"].scores.mean()
    gain = full["t"].scores.mean() - zero_shot["t"].scores.mean()
    assert stats.paired_difference(a, b, np.random.default_rng(0)).mean == pytest.approx(gap / gain)


# --------------------------------------------------------------------------------------------------
# Seed SD and its ratio
# --------------------------------------------------------------------------------------------------


def test_seed_sd_is_the_spread_of_seed_means():
    assert summaries.seed_sd([[0, 1], [1, 1], [1, 2]]) == pytest.approx(0.5)
    assert summaries.seed_sd([0.5, 1.0, 1.5]) == pytest.approx(0.5)
    assert math.isnan(summaries.seed_sd([[0.0, 1.0]]))


def test_the_jackknife_of_a_ratio_by_hand():
    a, b = [0.0, 1.0, 3.0], [0.0, 2.0, 3.0, 3.5]
    sides = []
    for side in (a, b):
        without = [np.log(np.std(side[:i] + side[i + 1 :], ddof=1)) for i in range(len(side))]
        pseudo = [len(side) * np.log(np.std(side, ddof=1)) - (len(side) - 1) * each for each in without]
        sides.append((np.mean(pseudo), np.var(pseudo, ddof=1) / len(side), len(side) - 1))
    variance = sides[0][1] + sides[1][1]
    freedom = variance**2 / sum(part**2 / each for _, part, each in sides)
    half = scipy.stats.t.ppf(0.95, freedom) * math.sqrt(variance)
    center = sides[0][0] - sides[1][0]
    found = summaries.sd_ratio(a, b, level=0.9)
    assert found == pytest.approx((np.std(a, ddof=1) / np.std(b, ddof=1), np.exp(center - half), np.exp(center + half)))
    back = summaries.sd_ratio(b, a, level=0.9)
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low))
    one = summaries.sd_interval(a)
    half = scipy.stats.t.ppf(0.975, 2) * math.sqrt(sides[0][1])
    assert one == pytest.approx((np.std(a, ddof=1), np.exp(sides[0][0] - half), np.exp(sides[0][0] + half)))


SEED_SCORES = {
    "normal": lambda rng: rng.normal(size=10),
    "skewed": lambda rng: -rng.gamma(4, size=10),
    "very skewed": lambda rng: -rng.exponential(size=10),
    "heavy tails": lambda rng: rng.standard_t(3, 10),
    "one wild run in ten": lambda rng: np.where(rng.random(10) < 0.1, -4, 0) + rng.normal(size=10),
}


@pytest.mark.parametrize("name", SEED_SCORES)
def test_the_interval_of_a_ratio_covers_where_that_for_normal_scores_does_not(name):
    rng = np.random.default_rng(12)
    reach = math.sqrt(scipy.stats.f.ppf(0.975, 9, 9))
    ours, if_normal = 0, 0
    for _ in range(500):
        found = summaries.sd_ratio(SEED_SCORES[name](rng), 2 * SEED_SCORES[name](rng))
        ours += found.low <= 0.5 <= found.high
        if_normal += 1 / reach <= found.value / 0.5 <= reach
    assert 0.86 <= ours / 500 <= 0.98
    assert ours >= if_normal - 10 or name == "normal"


def test_seeds_that_do_not_vary_or_are_too_few_have_no_ratio():
    for found in (summaries.sd_ratio([1, 2, 4], [3, 3, 3]), summaries.sd_ratio([1, 1], [2, 3]), summaries.sd_interval([2, 2])):
        assert np.isnan(found).all()
    for found in (summaries.sd_ratio([1, 2], [1, 2, 4]), summaries.sd_ratio([1, 1, 2], [1, 2, 4]), summaries.sd_interval([1, 2])):
        assert found.value > 0 and (found.low, found.high) == (0, math.inf)
    with pytest.raises(MmpeftError, match="two seeds"):
        summaries.sd_ratio([1], [1, 2])
    with pytest.raises(MmpeftError, match="level"):
        summaries.sd_ratio([1, 2], [1, 2], level=95)


# --------------------------------------------------------------------------------------------------
# Variance components
# --------------------------------------------------------------------------------------------------

TRUE = {"subset": 0.04, "seed": 0.09, "item": 0.36, "subset × seed": 0.02, "subset × item": 0.05, "seed × item": 0.08}
TRUE["left"] = 0.25


def crossed(rng, variances, num_subsets, num_seeds, num_items):
    """Scores from a random-effects model, every effect drawn apart."""
    sizes = {"subset": num_subsets, "seed": num_seeds, "item": num_items}
    total = np.zeros(tuple(sizes.values()))
    for name, variance in variances.items():
        factors = list(sizes) if name == "left" else name.split(" × ")
        total = total + rng.normal(0, math.sqrt(variance), [n if f in factors else 1 for f, n in sizes.items()])
    return total


def test_effects_that_simply_add_up_are_given_back_exactly():
    rng = np.random.default_rng(14)
    subset, seed, item = (rng.normal(size=n) for n in (3, 4, 20))
    found = summaries.variance_components(subset[:, None, None] + seed[:, None] + item)
    for name, effect in (("subset", subset), ("seed", seed), ("item", item)):
        assert found[name].variance == pytest.approx(effect.var(ddof=1))
        assert found[name].standard_error == pytest.approx(effect.std(ddof=1) / math.sqrt(len(effect)))
    assert list(found) == list(TRUE)
    assert [found[name].variance for name in list(TRUE)[3:]] == pytest.approx([0] * 4, abs=1e-12)


def test_on_average_each_component_has_its_true_variance():
    rng = np.random.default_rng(15)
    found = [summaries.variance_components(crossed(rng, TRUE, 4, 5, 30)) for _ in range(1500)]
    for name, variance in TRUE.items():
        estimates = np.array([each[name].variance for each in found])
        assert estimates.mean() == pytest.approx(variance, abs=4 * estimates.std() / math.sqrt(1500)), name


def test_with_nested_seeds_what_a_seed_does_is_counted_within_its_subset():
    rng = np.random.default_rng(16)
    nested = {name: TRUE[name] for name in ("subset", "subset × seed", "item", "subset × item", "left")}
    found = [summaries.variance_components(crossed(rng, nested, 3, 4, 20), nested=True) for _ in range(1500)]
    assert list(found[0]) == ["subset", "item", "seed", "subset × item", "left"]
    expected = {**nested, "seed": nested["subset × seed"]}
    for name in found[0]:
        estimates = np.array([each[name].variance for each in found])
        assert estimates.mean() == pytest.approx(expected[name], abs=4 * estimates.std() / math.sqrt(1500)), name


@pytest.mark.parametrize("nested", [False, True])
def test_the_squared_standard_errors_add_up_to_that_of_the_grand_mean(nested):
    rng = np.random.default_rng(17)
    large = {**TRUE, "subset": 4.0, "seed": 4.0, "item": 4.0, "subset × seed": 1.0, "subset × item": 1.0, "seed × item": 1.0}
    scores = crossed(rng, large, 5, 6, 40)
    found = summaries.variance_components(scores, nested=nested)
    assert all(component.variance > 0 for component in found.values())
    # Brute force, with A's mean square written out: (MS_D + MS_S + MS_I - MS_DS - MS_DI - MS_SI + MS_DSI) / DSI.
    means = {axis: scores.mean(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)}
    if nested:
        cells = scores.mean(axis=2)
        pairs = scores.mean(axis=1)
        grand = scores.mean()
        ms_subset = 6 * 40 * means[0].var(ddof=1)
        ms_item = 5 * 6 * means[2].var(ddof=1)
        joint = pairs - means[0][:, None] - means[2] + grand
        ms_joint = 6 * (joint**2).sum() / (4 * 39)
        assert 40 * cells.var(axis=1, ddof=1).mean() == pytest.approx(found["left"].variance + 40 * found["seed"].variance)
        expected = (ms_subset + ms_item - ms_joint) / scores.size
    else:
        expected = sum(means[axis].var(ddof=1) / scores.shape[axis] for axis in range(3))
        for first, second in ((0, 1), (0, 2), (1, 2)):
            pairs = scores.mean(axis=3 - first - second)
            joint = pairs - pairs.mean(axis=0) - pairs.mean(axis=1)[:, None] + pairs.mean()
            expected -= (joint**2).sum() / math.prod(n - 1 for n in pairs.shape) / pairs.size
        whole = found["left"].variance
        expected += whole / scores.size
    assert sum(component.standard_error**2 for component in found.values()) == pytest.approx(expected)


def test_one_subset_leaves_a_two_way_table_whose_error_is_that_of_the_bootstrap():
    rng = np.random.default_rng(18)
    scores = crossed(rng, TRUE, 1, 6, 80)[0]
    found = summaries.variance_components(scores)
    assert list(found) == ["seed", "item", "left"]
    rows, columns = scores.mean(axis=1), scores.mean(axis=0)
    rest = ((scores - rows[:, None] - columns + scores.mean()) ** 2).sum() / (5 * 79)
    assert found["left"].variance == pytest.approx(rest)
    assert found["seed"].variance == pytest.approx(rows.var(ddof=1) - rest / 80)
    assert found["item"].variance == pytest.approx(columns.var(ddof=1) - rest / 6)
    estimate = stats.hierarchical_bootstrap({"t": task_of(scores)}, np.random.default_rng(0), num_draws=40_000)
    assert sum(part.standard_error**2 for part in found.values()) == pytest.approx(estimate.standard_error**2, rel=0.03)


def test_a_component_that_is_not_there_may_come_out_below_zero_but_adds_no_error():
    rng = np.random.default_rng(19)
    found = [summaries.variance_components(rng.normal(size=(3, 30)))["seed"] for _ in range(50)]
    below = [part for part in found if part.variance < 0]
    assert 10 < len(below) < 50
    assert all(part.standard_error == 0 for part in below)


def test_components_need_two_levels_of_each_factor():
    for shape in ((1, 4, 20), (4, 1), (20,), (2, 2, 2, 2)):
        with pytest.raises(MmpeftError, match="two of each"):
            summaries.variance_components(np.zeros(shape))


# --------------------------------------------------------------------------------------------------
# Agreement
# --------------------------------------------------------------------------------------------------


def test_kappa_of_a_worked_example():
    # Fourteen raters, ten subjects, five grades: how many raters gave each grade. kappa = 0.210 (P = 0.378, P_e = 0.213).
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    scores = np.array([np.repeat(np.arange(5), row) for row in table]).T
    found = summaries.agreement(scores)
    assert (round(found.same, 3), round(found.kappa, 3)) == (0.378, 0.210)


def test_agreement_is_the_share_of_equal_pairs_by_brute_force():
    scores = np.random.default_rng(20).integers(0, 3, (5, 40)) / 3
    found = summaries.agreement(scores)
    pairs = list(itertools.combinations(scores, 2))
    assert found.same == pytest.approx(np.mean([one == other for one, other in pairs]))
    observed = np.mean([(one - other) ** 2 for one, other in pairs])
    anyone = np.mean([(x - y) ** 2 for x, y in itertools.combinations(scores.ravel(), 2)])
    assert found.alpha == pytest.approx(1 - observed / anyone)


def test_for_right_and_wrong_alpha_is_kappa_with_a_correction_for_few_scores():
    scores = np.random.default_rng(21).random((4, 25)) < np.linspace(0, 1, 25)
    found = summaries.agreement(scores)
    assert found.alpha == pytest.approx(1 - (1 - found.kappa) * 99 / 100)


def test_seeds_that_toss_coins_agree_by_chance_alone_and_copies_always():
    tossed = np.random.default_rng(22).random((6, 3000)) < 0.8
    found = summaries.agreement(tossed)
    assert found.same == pytest.approx(0.68, abs=0.01)
    assert (found.kappa, found.alpha) == pytest.approx((0, 0), abs=0.02)
    assert summaries.agreement(np.tile(tossed[0], (3, 1))) == pytest.approx((1, 1, 1), abs=1e-12)


def test_near_misses_count_for_alpha_and_not_for_kappa():
    item = np.random.default_rng(23).uniform(0, 10, 200)
    found = summaries.agreement(item + np.random.default_rng(24).normal(0, 0.1, (3, 200)))
    assert found.same == 0
    assert found.kappa < 0.01
    assert found.alpha > 0.99


def test_one_and_the_same_score_everywhere_is_no_agreement_beyond_chance():
    found = summaries.agreement(np.ones((3, 10)))
    assert found.same == 1
    assert math.isnan(found.kappa) and math.isnan(found.alpha)
    with pytest.raises(MmpeftError, match="at least two seeds"):
        summaries.agreement([[0, 1, 1]])
