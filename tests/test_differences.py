"""Tables of differences: the star follows Holm over the table, the notes count what is there and what is missing."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from fixture_records import fill, question
from made_results import results_of

from mmpeft import decide
from mmpeft.records import Store
from mmpeft.spec import RunSpec
from mmpeft.stats import Estimate
from mmpeft.study import comparison, differences, factors, report
from mmpeft.study.claims import load_ledger
from mmpeft.study.comparison import Results

ASKED = question(columns=["ScienceQA", "OKVQA"])


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 200)
        yield patch


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = fill(Store(tmp_path_factory.mktemp("partial")), ASKED.planned(), missing=0.2, failed=0.2)
    return comparison.read(ASKED, store)


def estimate(mean: float, error: float = 0.01) -> Estimate:
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error, error, math.inf, 3)


def whole(spec: RunSpec) -> float:
    return 0.5 + 0.2 * spec.connector.tuned


def test_the_star_is_holms_over_all_cells_of_the_table() -> None:
    results = results_of(ASKED, whole)
    family = [0.05, 0.023, 0.0, -0.022]  # p: below .0001, .021, 1, .028
    shown = {f"row {i}": {"points": estimate(mean), "size": "r 4"} for i, mean in enumerate(family)}
    table = differences.compared({row: {"points": 0.0} for row in shown}, shown, "nothing", results)
    assert table.html.count("<b>*</b>") == 2 and "+5.0<b>*</b><small>+3.0 to +7.0</small>" in table.html
    assert "Holm's correction for the 4 differences of this table: 1 of the 3 whose own interval excludes it" in table.html
    needed = 100 * decide.minimum_detectable_difference(0.01, 1, degrees_of_freedom=math.inf)
    assert f"looked at alone: {needed:.1f} points" in table.html and "<td>r 4</td>" in table.html
    two = differences.stars({i: estimate(mean) for i, mean in enumerate(family[:2])})
    assert two == {0: differences.STAR, 1: differences.STAR}  # in a smaller family the second one stays


def test_verdicts_of_a_family_correct_what_is_higher_and_not_what_is_equal() -> None:
    family = {"far": estimate(0.05), "near": estimate(0.023), "third": estimate(0.02), "none": estimate(0.0, 0.001), "?": None}
    found = decide.verdicts(family, 0.02)
    assert found == {"far": "higher", "near": "undecided", "third": "undecided", "none": "equal", "?": "undecided"}
    assert {name: decide.verdict(e, 0.02) for name, e in family.items() if e}["near"] == "higher"
    assert decide.verdicts({"far": estimate(-0.05)}, 0.02) == {"far": "lower"} and decide.verdicts({}, 0.02) == {}


def test_a_family_holds_a_false_finding_in_one_table_of_twenty() -> None:
    rng = np.random.default_rng(0)
    tables = [decide.verdicts({i: estimate(mean) for i, mean in enumerate(rng.normal(0, 0.01, 12))}, 0.0) for _ in range(800)]
    assert np.mean([any(side != "undecided" for side in table.values()) for table in tables]) == pytest.approx(0.05, abs=0.025)


def test_a_table_says_how_many_runs_failed_or_are_missing_and_where(partial: Results, tmp_path: Path) -> None:
    counts = partial.counts
    assert counts["failed"] and counts["missing"]
    for table in (
        differences.paired_table(partial, "zero-shot"),
        differences.with_leads(report.method_table(partial), partial),
        factors.effects_table(partial, "unseen"),
    ):
        assert f"{counts['done']} of {counts['planned']} planned runs" in table.html
        assert f"({counts['failed']} failed, {counts['missing']} missing)" in table.html
        assert re.search(r"Rows without all of theirs: .* \d of \d", table.html)
    whole_store = comparison.read(ASKED, fill(Store(tmp_path), ASKED.planned()))
    assert "planned runs" not in differences.paired_table(whole_store, "zero-shot").html


def test_the_base_stands_against_every_seed_whichever_side_it_is_on() -> None:
    results = results_of(ASKED, whole, noise=0.1)
    base, lora = comparison.find(results, "Zero-shot"), comparison.find(results, "LoRA", "tuned")
    assert base and lora
    ahead, behind = comparison.gain(results, lora, base, "unseen"), comparison.gain(results, base, lora, "unseen")
    assert ahead and behind and behind.num_seeds == 3
    assert (behind.mean, behind.low, behind.high) == (-ahead.mean, -ahead.high, -ahead.low)


def test_a_table_of_scores_says_how_small_a_lead_could_be_found() -> None:
    results = results_of(ASKED, whole, noise=0.1)
    html = differences.with_leads(report.method_table(results), results).html
    assert "Unseen average, the best row over each other one" in html and "Seen average, the best row" in html


def test_the_margin_of_sentences_is_that_of_the_ledger() -> None:
    assert comparison.margin() == load_ledger().margin
