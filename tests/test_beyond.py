"""Beyond the mean: normalized scores by hand, who beats whom, and where an interval is from, against what was put in."""

import numpy as np
import pytest
from fixture_records import question
from made_results import NUM_ITEMS, results_of

from mmpeft.spec import RunSpec
from mmpeft.study import beyond, comparison, figures
from mmpeft.study.comparison import Results
from mmpeft.tasks import TASKS

ASKED = question(columns=["ScienceQA", "IconQA-blank", "Flickr30k", "OKVQA"])
GAINED = {"mini-scienceqa": 0.4, "mini-iconqa-blank": 0.01, "mini-flickr30k": 0.1, "mini-okvqa": 0.0}
PART = {"zero-shot": 0.0, "connector": 0.3, "full": 1.0, "lora": 0.8, "ia3": 0.7, "adapter": 0.6, "prefix": 0.4}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 200)
        yield patch


def by_part(spec: RunSpec) -> float:
    """A method goes its part of the way; LoRA is ahead of (IA)³ on ScienceQA alone."""
    part = PART[spec.method.name]
    if spec.method.name == "ia3" and TASKS[spec.task].metric == "CIDEr-D":
        part = 0.95
    return 0.3 + GAINED[spec.task] * part


@pytest.fixture(scope="module")
def complete() -> Results:
    return results_of(ASKED, by_part, noise=0.01)


def test_a_normalized_average_is_that_of_the_parts_and_names_what_is_left_out(complete: Results) -> None:
    table = beyond.normalized_table(complete)
    assert table.frame.loc["LoRA, tuned", "normalized"] == pytest.approx(0.8, abs=0.02)
    assert table.frame.loc["(IA)³, tuned", "normalized"] == pytest.approx((0.7 + 0.95) / 2, abs=0.03)
    assert table.frame.loc["Full fine-tuning, tuned", "normalized"] == pytest.approx(1)
    assert "Left out of the second column: IconQA-blank, where full fine-tuning gains no more than 2 points" in table.html
    whole = results_of(question(columns=["ScienceQA", "OKVQA"]), by_part)
    assert "No task is left out" in beyond.normalized_table(whole).html


def test_another_order_by_normalized_scores_is_said(complete: Results) -> None:
    said = beyond.normalized_order(complete)
    assert "the order is another than with raw averages" in said and "change places" in said
    same = results_of(question(columns=["ScienceQA", "OKVQA"]), by_part, noise=0.001)
    same_said = beyond.normalized_order(same)
    assert "Full fine-tuning" in same_said and "LoRA, tuned and (IA)³, tuned" not in same_said


def test_the_typical_run_is_not_moved_by_one_that_failed_to_learn() -> None:
    def one_fails(spec: RunSpec) -> float:
        fails = spec.method.name == "lora" and spec.seed == 0 and spec.task == "mini-scienceqa"
        return 0.3 if fails else by_part(spec)

    asked = question(columns=["ScienceQA", "Flickr30k", "OKVQA"], seeds=[0, 1, 2, 3])
    row = beyond.typical_table(results_of(asked, one_fails, noise=0.005)).frame.loc["LoRA, tuned"]
    assert row["mean"] < 0.75 and row["interquartile mean"] == pytest.approx(0.8, abs=0.04)


def test_who_beats_whom_follows_the_scores_and_both_ways_add_up(complete: Results) -> None:
    table = beyond.better_table(complete)
    frame = table.frame.astype(float)
    assert frame.loc["LoRA, tuned", "Prefix, tuned"] > 0.9 and np.isnan(frame.loc["LoRA, tuned", "LoRA, tuned"])
    both = frame.to_numpy() + frame.to_numpy().T
    assert both[~np.eye(len(both), dtype=bool)] == pytest.approx(1)


@pytest.mark.parametrize(("of_seeds", "noise"), [(0.2, 0.0), (0.0, 0.2), (0.0, 0.0)])
def test_the_interval_is_told_apart_into_seeds_and_items(of_seeds: float, noise: float) -> None:
    results = results_of(ASKED, lambda spec: by_part(spec) + of_seeds * (spec.seed - 1), noise=noise)
    said = beyond.seeds_and_items(results, "unseen")
    items = 0.1 / np.sqrt(NUM_ITEMS) / np.sqrt(3)
    seeds = of_seeds / np.sqrt(3) / np.sqrt(3)
    chance = noise / np.sqrt(3 * NUM_ITEMS) / np.sqrt(3)
    found = said.rsplit("standard errors ", 1)[1].split(" points")[0].replace(" and", ",").split(", ")
    assert [float(value) / 100 for value in found] == pytest.approx([seeds, items, chance], rel=0.25, abs=0.003)


def test_without_both_ends_or_runs_nothing_is_claimed() -> None:
    for name in ("zero-shot", "full"):
        some = results_of(ASKED, by_part, keep=lambda spec, name=name: spec.method.name != name)  # type: ignore[misc]
        assert "not known yet" in beyond.normalized_order(some)
        assert beyond.typical_table(some).frame.loc["LoRA, tuned"].isna().all()
        assert beyond.profile(some, beyond.rows(some)[0]) is None
    nothing = results_of(ASKED, by_part, keep=lambda spec: False)
    for table in (beyond.normalized_table(nothing), beyond.typical_table(nothing), beyond.better_table(nothing)):
        assert table.frame.empty
    assert "not known yet" in beyond.seeds_and_items(nothing)
    assert figures.plot_profiles(nothing)._repr_png_().startswith(b"\x89PNG")


def test_profiles_have_a_line_a_method_told_apart_by_color_and_mark(complete: Results) -> None:
    frozen, tuned = figures.plot_profiles(complete).axes
    lines = [line for panel in (frozen, tuned) for line in panel.lines if line.get_marker() != "None"]
    marks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len({color for color, _ in marks}) == len({mark for _, mark in marks}) == len(marks) == 6
    share = beyond.profile(complete, beyond.rows(complete)[0])
    assert share is not None and (np.diff(share.share) <= 0).all()
