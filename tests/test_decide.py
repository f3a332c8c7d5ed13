"""Decisions against textbook tests of the same data, worked examples and simulation; every generator is seeded."""

import math

import numpy as np
import pytest
import scipy.stats

from mmpeft import decide
from mmpeft.errors import MmpeftError
from mmpeft.stats import Estimate


def estimate_of(sample):
    """The estimate that a plain t interval of the sample's mean gives."""
    sample = np.asarray(sample, dtype=float)
    error, freedom = sample.std(ddof=1) / math.sqrt(len(sample)), len(sample) - 1
    half = scipy.stats.t.ppf(0.975, freedom) * error
    return Estimate(sample.mean(), sample.mean() - half, sample.mean() + half, error, freedom, len(sample))


def estimate(mean, error, freedom=math.inf):
    half = scipy.stats.t.ppf(0.975, freedom) * error
    return Estimate(mean, mean - half, mean + half, error, freedom, 5)


# --------------------------------------------------------------------------------------------------
# p-values
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("null", [0.0, 0.3, -2.0])
def test_the_p_value_is_that_of_a_t_test_of_the_same_sample(null):
    sample = np.random.default_rng(0).normal(0.4, 1, 9)
    expected = scipy.stats.ttest_1samp(sample, null).pvalue
    assert decide.p_value(estimate_of(sample), null) == pytest.approx(expected)


def test_a_p_value_of_5_percent_means_that_zero_is_the_end_of_the_95_percent_interval():
    for freedom in (2, 7.5, math.inf):
        at_the_end = estimate(scipy.stats.t.ppf(0.975, freedom), 1.0, freedom)
        assert at_the_end.low == pytest.approx(0)
        assert decide.p_value(at_the_end) == pytest.approx(0.05)


def test_without_spread_the_p_value_is_one_at_the_null_and_zero_elsewhere():
    assert decide.p_value(estimate(0.0, 0.0)) == 1.0
    assert decide.p_value(estimate(0.1, 0.0)) == 0.0
    assert decide.p_value(estimate(0.1, 0.0), null=0.1) == 1.0
    assert math.isnan(decide.p_value(estimate(math.nan, 0.0)))
    assert math.isnan(decide.p_value(estimate(0.1, math.nan)))


# --------------------------------------------------------------------------------------------------
# Many comparisons
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.04, math.nan, 0.03, 0.005], [0.03, 0.06, math.nan, 0.06, 0.02]),
        ([0.01, 0.01, 0.6, 0.9], [0.04, 0.04, 1.0, 1.0]),
        ([[0.02], [0.5]], [[0.04], [0.5]]),
        ([0.3], [0.3]),
        ([math.nan], [math.nan]),
        ([], []),
    ],
)
def test_holm_multiplies_the_smallest_most_and_never_falls(given, adjusted):
    assert decide.holm(given) == pytest.approx(np.array(adjusted), nan_ok=True)


def test_an_adjusted_p_value_is_at_most_alpha_where_stepping_down_rejects():
    rng = np.random.default_rng(1)
    for _ in range(200):
        p, alpha = rng.random(7) ** 3, rng.uniform(0.01, 0.3)
        rejected = np.zeros(7, dtype=bool)
        for step, index in enumerate(np.argsort(p)):  # the procedure as Holm describes it
            if p[index] > alpha / (7 - step):
                break
            rejected[index] = True
        assert ((decide.holm(p) <= alpha) == rejected).all()


def test_holm_keeps_the_chance_of_any_false_finding_at_5_percent():
    p = np.random.default_rng(2).random((4000, 10))
    assert ((p <= 0.05).any(axis=1)).mean() > 0.35
    adjusted = np.array([decide.holm(row) for row in p])
    assert (adjusted <= 0.05).any(axis=1).mean() == pytest.approx(1 - 0.995**10, abs=0.01)


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(MmpeftError, match="p_values"):
        decide.holm([0.2, 1.2])
    with pytest.raises(MmpeftError, match="p_values"):
        decide.holm([-0.1])


# --------------------------------------------------------------------------------------------------
# Verdicts
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "error", "margin", "said"),
    [
        (5.0, 1.0, 2.0, "higher"),
        (-5.0, 1.0, 2.0, "lower"),
        (0.1, 1.0, 2.0, "equal"),
        (0.1, 1.5, 2.0, "undecided"),
        (1.0, 0.1, 2.0, "equal"),  # surely there, and surely too small to matter
        (-1.0, 0.1, 2.0, "equal"),
        (2.1, 0.1, 2.0, "higher"),
        (1.9, 0.1, 2.0, "higher"),  # not surely inside the margin
        (2.0, 1.1, 2.0, "undecided"),
        (0.1, 0.01, 0.0, "higher"),
        (0.0, 1.0, 0.0, "undecided"),
        (0.0, 0.0, 0.0, "equal"),
        (math.nan, 1.0, 2.0, "undecided"),
        (0.1, math.nan, 2.0, "undecided"),
    ],
)
def test_the_verdict_of_a_mean_and_its_error(mean, error, margin, said):
    assert decide.verdict(estimate(mean, error), margin) == said


def test_equal_is_what_two_one_sided_t_tests_say():
    rng, margin, said = np.random.default_rng(3), 0.5, set()
    for _ in range(200):
        sample = rng.normal(rng.uniform(-0.5, 0.5), rng.uniform(0.1, 1), 8)
        not_below = scipy.stats.ttest_1samp(sample, -margin, alternative="greater").pvalue < 0.05
        not_above = scipy.stats.ttest_1samp(sample, margin, alternative="less").pvalue < 0.05
        equal = decide.verdict(estimate_of(sample), margin) == "equal"
        assert equal == (not_below and not_above)
        said.add(equal)
    assert said == {True, False}


def test_a_difference_as_large_as_the_margin_is_called_equal_in_5_percent():
    samples = np.random.default_rng(4).normal(1.0, 0.5, (4000, 6))
    equal = [decide.verdict(estimate_of(sample), 1.0) == "equal" for sample in samples]
    assert np.mean(equal) == pytest.approx(0.05, abs=0.012)


def test_the_90_percent_interval_is_that_of_the_t_distribution():
    sample = np.random.default_rng(5).normal(size=7)
    expected = scipy.stats.t.interval(0.9, 6, sample.mean(), scipy.stats.sem(sample))
    assert decide.t_interval(estimate_of(sample), 0.9) == pytest.approx(expected)


def test_a_margin_or_level_that_is_none_is_refused():
    for margin in (-0.1, math.nan):
        with pytest.raises(MmpeftError, match="margin"):
            decide.verdict(estimate(0, 1), margin)
    with pytest.raises(MmpeftError, match="level"):
        decide.t_interval(estimate(0, 1), 90)


# --------------------------------------------------------------------------------------------------
# Minimum detectable difference
# --------------------------------------------------------------------------------------------------


def test_with_known_error_the_detectable_difference_is_the_sum_of_two_normal_quantiles():
    found = decide.minimum_detectable_difference(0.01, 1, degrees_of_freedom=math.inf)
    assert found == pytest.approx(0.01 * (1.959964 + 0.841621), rel=1e-6)
    assert decide.minimum_detectable_difference(0.2, 10_000) == pytest.approx(0.002 * 2.801585, rel=1e-3)


@pytest.mark.parametrize(("n", "power"), [(2, 0.8), (3, 0.8), (5, 0.8), (10, 0.9), (30, 0.5)])
def test_a_paired_t_test_finds_the_detectable_difference_with_the_stated_power(n, power):
    rng = np.random.default_rng(13)
    difference = decide.minimum_detectable_difference(2.0, n, power=power)
    samples = rng.normal(difference, 2.0, (20_000, n))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / math.sqrt(n))
    critical = {2: 12.7062, 3: 4.3027, 5: 2.7764, 10: 2.2622, 30: 2.0452}[n]  # two-sided 5 %, n - 1 df
    assert (t > critical).mean() == pytest.approx(power, abs=0.01)


def test_the_detectable_difference_shrinks_with_more_pairs_and_scales_with_the_spread():
    by_n = [decide.minimum_detectable_difference(1.0, n) for n in (2, 3, 5, 10, 100)]
    assert by_n == sorted(by_n, reverse=True)
    assert decide.minimum_detectable_difference(3.0, 5) == pytest.approx(3 * by_n[2])
    assert decide.minimum_detectable_difference(0.0, 5) == 0.0
    with pytest.raises(MmpeftError, match="at least two pairs"):
        decide.minimum_detectable_difference(1.0, 1)
    with pytest.raises(MmpeftError, match="alpha, power"):
        decide.minimum_detectable_difference(1.0, 5, power=80)
