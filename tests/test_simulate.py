"""The simulation is what it says: the truth of its closed form; and intervals cover, but for the broken ones."""

import numpy as np
import pytest
from scipy.stats import norm

from mmpeft import simulate
from mmpeft.errors import MmpeftError
from mmpeft.simulate import Design
from mmpeft.study import figures


def test_the_truth_is_the_score_over_all_seeds_and_items():
    design = Design(truth=0.8, seed_spread=0.5, item_spread=0.7)
    points, weights = np.polynomial.hermite_e.hermegauss(60)  # expectation over a standard normal
    luck, item = 0.5 * points[:, None], 0.7 * points
    over_all = (weights[:, None] * weights * norm.cdf(design.ability + luck - item)).sum() / weights.sum() ** 2
    assert over_all == pytest.approx(0.8, abs=1e-9)


def test_an_invented_study_has_its_shape_its_truth_and_its_spreads():
    design = Design(num_seeds=300, num_items=2000, truth=0.7, seed_spread=0.3, item_spread=1.0)
    scores = simulate.invent(design, np.random.default_rng(0))["invented"].scores
    assert scores.shape == (300, 2000)
    assert set(np.unique(scores)) == {0.0, 1.0}
    assert scores.mean() == pytest.approx(0.7, abs=0.03)
    lucks = np.random.default_rng(1).normal(0, 0.3, 100_000)
    between = norm.cdf((design.ability + lucks) / np.sqrt(2)).std()  # items have the variance 1, and so has the coin
    assert scores.mean(axis=1).std(ddof=1) == pytest.approx(between, rel=0.12)


def test_items_can_be_shared_by_two_variants():
    design, difficulty = Design(num_items=3000), np.random.default_rng(2).normal(size=3000)
    one, other = (
        simulate.invent(design, np.random.default_rng(seed), difficulty)["invented"].scores.mean(axis=0) for seed in (3, 4)
    )
    apart = simulate.invent(design, np.random.default_rng(5))["invented"].scores.mean(axis=0)
    assert np.corrcoef(one, other)[0, 1] > 0.5
    assert abs(np.corrcoef(one, apart)[0, 1]) < 0.1


def test_a_design_that_cannot_be_is_refused():
    for wrong in ({"truth": 1.0}, {"num_seeds": 0}, {"num_items": 1}):
        with pytest.raises(MmpeftError, match="truth, num_seeds, num_items"):
            Design(**wrong)


def test_the_interval_of_this_book_covers_at_its_rate_and_those_that_forget_something_do_not():
    table = simulate.coverage([3, 5, 10], 400, np.random.default_rng(6))
    assert list(dict.fromkeys(table["interval"])) == list(simulate.INTERVALS)
    items, seeds, both = (table[table["interval"] == name].set_index("num_seeds")["coverage"] for name in simulate.INTERVALS)
    assert 0.935 <= both.mean() <= 0.975
    assert both.between(0.92, 0.985).all()
    assert items.max() < 0.92 and items.mean() < 0.89
    assert seeds.max() < 0.80


def test_without_spread_of_seeds_redrawn_items_are_enough():
    design = Design(seed_spread=0.0)
    table = simulate.coverage([5], 400, np.random.default_rng(7), design).set_index("interval")["coverage"]
    assert table["items redrawn"] == pytest.approx(0.95, abs=0.03)
    assert 0.93 <= table["both, as in this book"] <= 0.985
    assert table["seeds redrawn"] < 0.75


def test_nothing_is_found_in_5_percent_and_the_detectable_difference_in_80():
    rng = np.random.default_rng(8)
    nothing = simulate.detections([0.0], 600, rng)
    assert nothing["found"][0] <= 0.075
    promised = nothing["detectable"][0]
    assert simulate.detections([promised], 400, rng)["found"][0] == pytest.approx(0.8, abs=0.08)


def test_the_figures_show_the_tables():
    rng = np.random.default_rng(9)
    covered = simulate.coverage([2, 4], 10, rng, Design(num_items=40))
    left, right = figures.plot_coverage(covered).axes
    assert [len(panel.get_lines()) >= 3 for panel in (left, right)] == [True, True]
    assert right.get_lines()[0].get_ydata() == pytest.approx(100 * covered["width"][covered["interval"] == "items redrawn"])
    power = simulate.detections([0.0, 0.1], 5, rng, Design(num_items=40))
    curve, ring = figures.plot_detections(power).axes[0].get_lines()[:2]
    assert curve.get_ydata() == pytest.approx(100 * power["found"])
    assert ring.get_xdata() == pytest.approx(100 * power["detectable"].mean())
