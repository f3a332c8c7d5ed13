"""The best of so many trials is exact, and the page says who leads at which budget and what the rate does."""

import math
from itertools import combinations

import numpy as np
import pytest
from made_results import asked, results_of

from mmpeft.errors import MmpeftError
from mmpeft.spec import RunSpec
from mmpeft.study import comparison, tuning
from mmpeft.study.comparison import Results

SWEEP = asked("learning_rate")
BEST = {"lora": 2e-3, "ia3": 6e-2, "adapter": 2e-3, "prefix": 1e-1, "connector": 1e-3, "full": 5e-4}
TOP = {"lora": 0.7, "ia3": 0.6, "adapter": 0.65, "prefix": 0.5, "connector": 0.4, "full": 0.8}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 400)
        yield patch


def hills(width: float) -> Results:
    """Each method has a hill around its best rate; the narrower, the more the rate decides."""

    def rule(spec: RunSpec) -> float:
        name = spec.method.name
        rate = spec.train.learning_rate or spec.connector.learning_rate or 1.0
        return TOP[name] - width * abs(math.log10(rate / BEST[name]))

    return results_of(SWEEP, rule)


def test_the_expected_best_is_the_mean_over_all_ways_to_draw() -> None:
    scores = [0.3, 0.9, 0.1, 0.5, 0.4]
    for k in range(1, 6):
        by_hand = np.mean([max(drawn) for drawn in combinations(scores, k)])
        assert tuning.expected_best(scores, k) == pytest.approx(by_hand)
    several = np.array([scores, scores[::-1]])
    assert tuning.expected_best(several, 2).shape == (2,)
    for k in (0, 6):
        with pytest.raises(MmpeftError, match="between 1 and the 5 trials"):
            tuning.expected_best(scores, k)


def test_the_papers_rates_are_marked_and_are_no_trials() -> None:
    found = tuning.sweep(hills(0.1))
    assert found is not None
    assert found.methods == ["Connector only", "Full fine-tuning", "LoRA", "(IA)³", "Adapter", "Prefix"]
    assert found.trials_of("LoRA").sum() == 5 and found.rates[found.paper_of("LoRA")].tolist() == [2e-4]
    assert not (found.is_trial & found.is_paper).any() and found.is_paper.sum() == 5


def test_the_budget_grows_to_the_best_rate() -> None:
    results = hills(0.1)
    table = tuning.budgets_table(results).frame
    grid = [TOP["lora"] - 0.1 * abs(math.log10(rate / 2e-3)) for rate in SWEEP.learning_rate_grid["lora"]]
    assert table.loc["LoRA", 1] == pytest.approx(np.mean(grid)) and table.loc["LoRA", 5] == pytest.approx(max(grid))
    assert table.loc["LoRA", "paper"] == pytest.approx(TOP["lora"] - 0.1)
    assert table.loc["Full fine-tuning", "paper"] is None
    assert (table[[1, 2, 3, 4, 5]].astype(float).diff(axis=1).iloc[:, 1:] > 0).all().all()


def test_a_ranking_that_the_papers_rates_turn_is_said() -> None:
    results = hills(0.2)
    said = tuning.ranking(results)
    assert "Between the paper's rates and the best rate of each" in said and "told apart from zero" in said
    order = tuning.ranking_table(results).frame
    assert order.loc["5 trials each"].tolist() == ["Full fine-tuning", "LoRA", "Adapter", "(IA)³", "Prefix", "Connector only"]
    assert order.loc["the paper's rates"].tolist()[0] == "LoRA"
    assert "after Holm's correction for all 20 differences between two methods" in said  # ten pairs, at both rates
    assert "it is the same as at the best rate of each" in tuning.ranking(hills(0.0))


def test_the_last_order_is_that_of_whole_grids_also_where_one_is_longer() -> None:
    """The Adapter's grid has two rates more than the others'; here the larger of them is its best."""

    def rule(spec: RunSpec) -> float:
        return 0.9 if spec.train.learning_rate == 5e-2 and spec.method.name == "adapter" else TOP[spec.method.name]

    order = tuning.ranking_table(results_of(SWEEP, rule)).frame
    assert order.loc["best rate each"].tolist()[0] == "Adapter" and order.index[-1] == "best rate each"
    assert order.loc["1 trial each"].tolist()[0] == "Full fine-tuning"


@pytest.mark.parametrize(("width", "words"), [(0.6, "is the larger effect"), (0.01, "is not the larger effect")])
def test_the_larger_effect_is_decided_by_the_interval(width: float, words: str) -> None:
    assert words in tuning.larger_effect(hills(width))


def test_baselines_do_not_count_as_methods_where_rate_and_method_are_weighed() -> None:
    """Full fine-tuning far above and the connector far below spread the rows; the four methods are all alike."""
    tops = {"full": 0.95, "connector": 0.05}

    def rule(spec: RunSpec) -> float:
        rate = spec.train.learning_rate or spec.connector.learning_rate or 1.0
        return tops.get(spec.method.name, 0.6) - 0.04 * abs(math.log10(rate / BEST[spec.method.name]))

    said = tuning.larger_effect(results_of(SWEEP, rule))
    assert "the methods lie 0.0 points apart" in said and "is the larger effect" in said
    with_them = said.split("With Connector only and Full fine-tuning counted as methods too: ")[1]
    assert "a difference of −" in with_them


def test_the_spread_table_says_what_a_wrong_rate_costs() -> None:
    row = tuning.spread_table(hills(0.1)).frame.loc["LoRA"]
    assert row["best rate"] == 2e-3
    assert row["over the grid"] == pytest.approx(0.1 * abs(math.log10(1e-2 / 2e-3)))
    assert row["one rate off"] == pytest.approx(-0.1 * math.log10(5e-3 / 2e-3))
    assert row["the paper's rate"] == pytest.approx(-0.1)


def test_without_runs_nothing_is_claimed() -> None:
    nothing = results_of(SWEEP, lambda spec: 0.5, keep=lambda spec: False)
    assert tuning.sweep(nothing) is None and tuning.budgets(nothing) == {}
    assert tuning.budgets_table(nothing).frame.empty and tuning.spread_table(nothing).frame.empty
    assert "not known yet" in tuning.ranking(nothing) and "not known yet" in tuning.larger_effect(nothing)
    assert "Nothing can be ranked" in tuning.ranking_table(nothing).html
    some = results_of(SWEEP, lambda spec: 0.5, keep=lambda spec: spec.task != "mini-okvqa" or spec.method.name == "lora")
    found = tuning.sweep(some)
    assert found is not None and found.methods == ["LoRA"]  # a rate with a missing run has no average
