"""A claim's verdict follows from the runs and the rule, and from nothing else."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_records import NUM_EXAMPLES, Rule, by_size, fill, question
from made_results import results_of

from mmpeft.errors import MmpeftError
from mmpeft.records import Store
from mmpeft.spec import RunSpec, parse
from mmpeft.stats import Estimate
from mmpeft.study import comparison, ledger
from mmpeft.study.claims import Claim, Ledger, load_ledger
from mmpeft.study.comparison import Results
from mmpeft.study.tracks import Tracks
from mmpeft.study.verdicts import Evidence, Judged, Outcome, chosen, described, evidence, judge, ruled, weighed, why_contradicted
from mmpeft.tasks import TASKS

TUNED_OVER_FROZEN = {
    "each": ["lora", "ia3", "adapter", "prefix"],
    "plus": {"connector": "tuned"},
    "minus": {"connector": "frozen"},
}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpeft.study.verdicts.NUM_DRAWS", 300)
        patch.setattr(comparison, "NUM_DRAWS", 300)
        yield patch


def results(folder: Path, rule: Rule = by_size, **options: Any) -> Results:
    asked = question(**options.pop("changes", {}))
    return comparison.read(asked, fill(Store(folder), asked.planned(), rule, **options))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(tmp_path_factory.mktemp("complete"))


def claim(*contrasts: dict[str, Any], rule: str = "all") -> Claim:
    fields = {
        "id": "x",
        "claim": "It is so.",
        "where": "section 1",
        "question": "method",
        "rule": rule,
        "contrasts": list(contrasts),
    }
    return parse(Claim, fields)


def verdict(found: Results, one: Claim, margin: float = 0.02) -> Judged:
    return judge(Ledger(margin=margin, claims=[one]), lambda _: Evidence(found, Tracks(found, {})))[0]


@pytest.mark.parametrize(
    ("expect", "low", "high", "expected"),
    [
        ("above", 0.01, 0.05, "supported"),
        ("above", -0.05, -0.01, "contradicted"),
        ("above", -0.01, 0.05, "undecided"),
        ("above", -0.01, 0.01, "contradicted"),
        ("above", 0.001, 0.015, "contradicted"),
        ("below", -0.05, -0.01, "supported"),
        ("below", 0.01, 0.05, "contradicted"),
        ("near", -0.01, 0.015, "supported"),
        ("near", 0.03, 0.05, "contradicted"),
        ("near", -0.05, -0.03, "contradicted"),
        ("near", 0.01, 0.05, "undecided"),
    ],
)
def test_a_contrast_is_weighed_by_its_interval(expect: str, low: float, high: float, expected: str) -> None:
    assert weighed(expect, low, high, margin=0.02) == expected


@pytest.mark.parametrize(
    ("expect", "low", "high", "expected"),
    [
        ("above", -0.05, -0.01, "the other way round"),
        ("above", -0.01, 0.01, "smaller than the margin"),
        ("above", -0.015, -0.005, "smaller than the margin"),  # being near comes first
        ("below", 0.01, 0.05, "the other way round"),
        ("below", -0.015, 0.001, "smaller than the margin"),
        ("near", 0.03, 0.05, "larger than the margin"),
        ("above", -0.01, 0.05, ""),
        ("near", -0.01, 0.01, ""),
    ],
)
def test_a_contradiction_has_a_reason(expect: str, low: float, high: float, expected: str) -> None:
    assert why_contradicted(expect, low, high, margin=0.02) == expected


def test_the_decisive_contrast_is_the_one_that_leaves_least_to_the_claim() -> None:
    def least(expect: str, verdict: Any, *ends: tuple[float | None, float | None]) -> str:
        pair = {"plus": {"method": "lora"}, "minus": {"method": "ia3"}, "expect": expect}
        outcomes = tuple(Outcome(str(i), verdict, low, low, high) for i, (low, high) in enumerate(ends))
        return Judged(claim(*[pair] * len(ends)), verdict, outcomes, "tiny", (), 0).decisive.name

    assert least("above", "supported", (0.03, 0.2), (0.01, 0.3)) == "1"
    assert least("below", "supported", (-0.2, -0.03), (-0.3, -0.01)) == "1"
    assert least("above", "undecided", (None, None), (-0.1, 0.2), (-0.05, 0.01)) == "2"
    assert least("above", "contradicted", (-0.3, -0.01), (-0.2, -0.15)) == "1"
    assert least("near", "supported", (-0.001, 0.001), (-0.01, 0.015)) == "1"
    assert least("near", "contradicted", (0.03, 0.5), (-0.4, -0.2)) == "1"


def test_all_needs_every_contrast_and_most_more_than_half() -> None:
    yes, no, open_ = "supported", "contradicted", "undecided"
    assert ruled("all", [yes, yes]) == yes and ruled("all", [yes, open_]) == open_ and ruled("all", [yes, no]) == no
    assert ruled("most", [yes, yes, no]) == yes and ruled("most", [yes, no]) == open_ and ruled("most", [no, no, yes]) == no


def test_what_the_runs_show_is_supported_and_its_opposite_contradicted(complete: Results) -> None:
    unseen = claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": "above"})
    found = verdict(complete, unseen)
    assert found.verdict == "supported" and len(found.outcomes) == 4
    assert len(found.run_ids) == found.num_planned == 4 * 2 * 5 * 3
    opposite = claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": "below"})
    assert verdict(complete, opposite).verdict == "contradicted"
    seen = claim({**TUNED_OVER_FROZEN, "over": "seen", "expect": "near"})
    assert verdict(complete, seen).verdict == "supported"


def test_a_contrast_of_two_rows_is_their_paired_difference(complete: Results) -> None:
    one = claim(
        {
            "plus": {"method": "lora", "connector": "tuned"},
            "minus": {"method": "ia3", "connector": "tuned"},
            "over": "all",
            "expect": "above",
        }
    )
    outcome = verdict(complete, one).outcomes[0]
    a, b = (comparison.find(complete, label, "tuned") for label in ("LoRA", "(IA)³"))
    assert a and b
    by_task = [complete.scores[a][task].scores.mean() - complete.scores[b][task].scores.mean() for task in complete.tasks()]
    assert outcome.mean == pytest.approx(np.mean(by_task))
    assert outcome.low is not None and outcome.low < np.mean(by_task) < outcome.high  # type: ignore[operator]


def test_a_difference_of_differences_over_two_groups_is_the_sum_of_their_averages(complete: Results) -> None:
    one = claim(
        {
            "plus": [
                {"method": "lora", "connector": "tuned", "over": "unseen"},
                {"method": "lora", "connector": "frozen", "over": "seen"},
            ],
            "minus": [
                {"method": "lora", "connector": "frozen", "over": "unseen"},
                {"method": "lora", "connector": "tuned", "over": "seen"},
            ],
            "expect": "above",
        }
    )
    outcome = verdict(complete, one).outcomes[0]
    tuned, frozen = (comparison.find(complete, "LoRA", connector) for connector in ("tuned", "frozen"))
    assert tuned and frozen
    gains = {g: comparison.gain(complete, tuned, frozen, g) for g in ("unseen", "seen")}
    assert all(isinstance(e, Estimate) for e in gains.values())
    assert outcome.mean == pytest.approx(gains["unseen"].mean - gains["seen"].mean)  # type: ignore[union-attr]


def test_the_base_without_training_stands_against_every_seed(complete: Results) -> None:
    one = claim(
        {"plus": {"method": "full", "connector": "tuned"}, "minus": {"method": "zero-shot"}, "over": "unseen", "expect": "above"}
    )
    assert verdict(complete, one).verdict == "supported"


def test_more_contrasts_ask_for_wider_intervals(complete: Results) -> None:
    pair = {
        "plus": {"method": "lora", "connector": "tuned"},
        "minus": {"method": "lora", "connector": "frozen"},
        "over": "unseen",
    }
    alone = verdict(complete, claim({**pair, "expect": "above"})).outcomes[0]
    among = verdict(complete, claim(*[{**pair, "expect": "above"}] * 8)).outcomes[0]
    assert alone.low is not None and among.low is not None and among.low < alone.low


def test_a_claim_without_its_runs_is_undecided(tmp_path: Path) -> None:
    found = verdict(results(tmp_path, missing=1.0), claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": "above"}))
    assert found.verdict == "undecided" and found.run_ids == () and found.num_planned == 120
    assert found.to_dict()["interval"] is None


def wobbling(spec: RunSpec) -> float:
    """Prefix swings from seed to seed, LoRA hardly does."""
    width = {"prefix": 0.08, "lora": 0.01}.get(spec.method.name, 0.03)
    return 0.5 + width * (-1) ** spec.seed * (1 + 0.1 * spec.seed)


def test_spreads_over_seeds_are_compared_as_a_ratio(tmp_path: Path) -> None:
    found = results(tmp_path, wobbling, changes={"seeds": list(range(10))})
    steady = {
        "measure": "seed_sd",
        "plus": {"method": "lora", "connector": "frozen"},
        "minus": {"method": "prefix", "connector": "frozen"},
    }
    one = verdict(found, claim({**steady, "over": "ScienceQA", "expect": "below"}))
    assert one.verdict == "supported"
    outcome = one.outcomes[0]
    variants = [comparison.find(found, label, "frozen") for label in ("LoRA", "Prefix")]
    sds = [found.scores[v]["mini-scienceqa"].scores.mean(1).std(ddof=1) for v in variants if v]
    assert outcome.mean == pytest.approx(math.log(sds[0] / sds[1]))
    both = claim({**steady, "over": "unseen", "expect": "below"})
    with pytest.raises(MmpeftError, match="one column"):
        verdict(found, both)


def test_spreads_surely_within_a_fifth_of_each_other_do_not_differ() -> None:
    asked = question(seeds=list(range(12)), columns=["ScienceQA"])
    found = results_of(asked, lambda spec: 0.5 + 0.03 * (-1) ** spec.seed * (1 + 0.02 * spec.seed))
    rows = {"plus": {"method": "lora", "connector": "frozen"}, "minus": {"method": "prefix", "connector": "frozen"}}
    one = verdict(found, claim({"measure": "seed_sd", **rows, "over": "ScienceQA", "expect": "below"}))
    (outcome,) = one.outcomes
    assert one.in_words == "contradicted: smaller than the margin"
    assert outcome.high is not None and 0.02 < outcome.high < math.log(1.2)  # the margin of scores would be too narrow


def test_a_claim_says_so_where_each_of_its_rows_scores_less_than_a_random_answer() -> None:
    asked = question(columns=["ScienceQA", "IconQA-txt"], eval={"num_examples": 48})
    rows = {"plus": {"method": "lora", "connector": "frozen"}, "minus": {"method": "prefix", "connector": "frozen"}}
    one = claim({**rows, "over": "unseen", "expect": "above"})

    def judged(lora: float, prefix: float) -> Judged:
        by_method = {"lora": lora, "prefix": prefix}
        return verdict(results_of(asked, lambda spec: by_method.get(spec.method.name, 0.5)), one)

    low = judged(0.1, 0.2)
    assert low.in_words == "contradicted: the other way round, each row below a random answer"
    assert low.reason == "the other way round" and low.to_dict()["below_chance"]
    assert "each row below a random answer" in ledger.verdict_table([low]).html
    assert ledger.in_brief([low]).endswith("Of all verdicts 1 rest on rows that each lie below a random answer.")
    assert judged(0.2, 0.1).in_words == "supported: each row below a random answer"
    for apart in (judged(0.5, 0.1), judged(0.1, 0.5), judged(0.5, 0.6)):
        assert not apart.below_chance and "random answer" not in apart.in_words + ledger.in_brief([apart])


def test_ranks_choose_among_the_sizes_of_a_question(tmp_path: Path) -> None:
    variants = [{"method": {"name": "lora", "r": r}} for r in (2, 4, 8)]
    found = results(tmp_path, changes={"variants": variants, "tasks": ["mini-okvqa", "mini-scienceqa"]})
    one = claim(
        {"plus": {"method": "lora", "size": "largest"}, "minus": {"method": "lora", "size": "smallest"}, "expect": "above"}
    )
    sizes = [
        found.variants[v][0].spec.method.r
        for word in ("smallest", "middle", "largest")
        for v in chosen(one, found, {"size": word})
    ]  # type: ignore[union-attr]
    assert sizes == [2, 4, 8]
    assert verdict(found, one).verdict == "contradicted"  # the fixture knows no sizes: the difference is none


def test_draws_of_the_subset_are_pooled(tmp_path: Path) -> None:
    variants = [{"method": {"name": "lora"}, "train": {"subset_seed": draw}} for draw in (0, 1)] + [{"method": {"name": "ia3"}}]
    found = results(tmp_path, changes={"variants": variants, "tasks": ["mini-okvqa"]})
    assert len(chosen(claim({"plus": {}, "minus": {}, "expect": "near"}), found, {"method": "lora"})) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"method": "lora"}, ["fits 2 rows", "connector"]),
        ({"method": "lora", "connector": "tuned", "r": 3}, ["no such row"]),
        ({"method": "lora", "conector": "tuned"}, ["setting 'conector'", "Did you mean 'connector'?"]),
    ],
)
def test_a_row_that_is_not_there_or_not_one_is_refused(complete: Results, row: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MmpeftError) as error:
        verdict(complete, claim({"plus": row, "minus": {"method": "zero-shot"}, "expect": "above"}))
    assert all(word in str(error.value) for word in ["claim x", *words])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expect": "higher"}, ["expect", "above"]),
        ({"each": ["lorra"]}, ["'lorra'", "Did you mean 'lora'?"]),
        ({"minsu": {}}, ["minsu", "minus"]),
    ],
)
def test_a_wrong_field_of_a_claim_is_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MmpeftError) as error:
        claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": "above", **change})
    assert all(word in str(error.value) for word in words)


def test_a_column_that_is_not_there_is_refused(complete: Results) -> None:
    with pytest.raises(MmpeftError, match="Did you mean 'OKVQA'"):
        verdict(complete, claim({**TUNED_OVER_FROZEN, "over": "OKVQ", "expect": "above"}))


def test_a_contrast_reads_as_words() -> None:
    (first, *_) = claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": "above"}).spread()
    assert described(first) == "LoRA, connector tuned − LoRA, connector frozen (unseen)"
    twice = {"plus": [{"method": "lora"}, {"method": "ia3"}], "minus": [{"method": "adapter"}, {"method": "prefix"}]}
    assert described(claim({**twice, "expect": "above"}).contrasts[0]) == "(LoRA + (IA)³) − (Adapter + Prefix) (all)"
    captions = {"tracked": "captions", "measure": "chair_s", "plus": {"method": "lora"}, "minus": {"method": "prefix"}}
    words = "share of captions that invent a thing: LoRA − Prefix (captions)"
    assert described(claim({**captions, "expect": "below"}).contrasts[0]) == words
    spreads = {"measure": "seed_sd", "plus": {"method": "lora"}, "minus": {"method": "prefix"}, "over": "OKVQA"}
    assert described(claim({**spreads, "expect": "below"}).contrasts[0]) == "spread over seeds: LoRA over Prefix (OKVQA)"


# The shipped ledger


@cache
def shipped() -> Ledger:
    return load_ledger()


def test_the_ledger_holds_at_least_fifteen_claims_each_with_its_place() -> None:
    assert len(shipped().claims) >= 15
    assert all(claim.where and claim.claim.endswith((".", ")")) for claim in shipped().claims)


def test_every_claim_finds_its_rows_in_its_question(tmp_path: Path) -> None:
    from mmpeft.plan import load_question, questions

    asked = {one.question for one in shipped().claims}
    assert asked <= set(questions())
    empty = {name: evidence(load_question(name), Store(tmp_path)) for name in asked}
    found = judge(shipped(), empty.__getitem__)
    assert {one.verdict for one in found} == {"undecided"} and all(one.num_planned for one in found)


def test_the_paper_against_itself_counts_what_can_be_read() -> None:
    by = {one.id: one for one in shipped().claims if one.published}
    (best,) = by["adapter-best"].published
    cases = {case.name: case for case in ledger.cases(best, 0.02)}
    # Table 1, printed averages: Qwen-VL-Chat Adapter 77.3 against LoRA 77.0; 13B LoRA 78.3 and (IA)³ 78.5 against Adapter 77.7.
    assert cases["Qwen-VL-Chat"].holds and not cases["LLaVA-1.5-13B"].holds and not cases["ShareGPT4V-7B"].holds
    assert cases["LLaVA-1.5-13B"].difference == pytest.approx(0.777 - 0.785, abs=0.001)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Table 2, averages of seven cells each; printed: LoRA on both 75.5, the MLP 75.2, attention 75.1; (IA)³ 74.1 twice.
        ("lora-best-at-both", {"LLaVA-1.5-7B, against mlp": 0.0024, "LLaVA-1.5-7B, against attention": 0.0043}),
        ("ia3-best-at-both", {"LLaVA-1.5-7B, against mlp": 0.0003}),
        # Table 3, seen columns of Prefix: 51.6, 65.6, 53.1 with least and 61.3, 67.6, 76.3 with most data.
        ("data-helps-unseen-only", {"Prefix, seen, against data 1": 0.1163}),
        # Table 6, SDs on ScienceQA: the Adapter's 3.12, 2.75, 1.80, 1.91; the lowest others .32, .92, .78, .85.
        ("adapter-steadiest", {"size 1, ScienceQA": 0.028, "size 2, ScienceQA": 0.0183, "size 4, ScienceQA": 0.0106}),
        # Table 4, four epochs after the least dev loss; Table 7, captions of a hundred after three and twelve epochs.
        ("adapter-generalizes-best", {"epoch 1": 0.012, "epoch 4": 0.011}),
        ("adapter-hallucinates-least", {"epoch 3": 0.03, "epoch 12": -0.06}),
    ],
)
def test_differences_are_those_of_the_printed_numbers(name: str, expected: dict[str, float]) -> None:
    published = next(one for one in shipped().claims if one.id == name).published
    found = {case.name: case.difference for one in published for case in ledger.cases(one, 0.02)}
    assert {place: found[place] for place in expected} == pytest.approx(expected, abs=0.0002)


def test_a_question_without_a_claim_says_so() -> None:
    assert "no claim of the paper about this question" in ledger.verdict_table([], pages=False).html


def test_tables_and_sentences_say_the_verdicts(complete: Results) -> None:
    found = [verdict(complete, claim({**TUNED_OVER_FROZEN, "over": "unseen", "expect": expect})) for expect in ("above", "below")]
    assert ledger.counts(found) == {"supported": 1, "contradicted": 1, "undecided": 0}
    assert "Of 2 claims of the paper, 1 are supported by our runs at the scale tiny" in ledger.in_brief(found)
    assert "Why contradicted: the difference is the other way round (1)." in ledger.in_brief(found)
    assert [one.to_dict()["reason"] for one in found] == ["", "the other way round"]
    assert "Contradicted: the other way round (120 of 120 runs" in ledger.said([found[1]], "x")
    assert "Supported (120 of 120 runs, scale tiny)" in ledger.said(found, "x")
    table = ledger.verdict_table(found)
    assert table.frame["verdict"].tolist() == ["supported", "contradicted"] and "✗ contradicted" in table.html
    assert "the other way round" in table.html
    assert len(ledger.contrast_table(found[0]).frame) == 4
    with pytest.raises(MmpeftError, match="not in the ledger"):
        ledger.said(found, "y")
    paper = ledger.paper_table(shipped()).frame.set_index("claim")
    assert len(paper) >= 20 and set(", ".join(paper["table"]).split(", ")) == {"1", "2", "3", "4", "6", "7", "13"}
    steadiest = paper.loc["The Adapter is the steadiest method over seeds."]
    assert steadiest["legible places"] == 8 and steadiest["borne out in"] == 0


def test_the_fixture_has_enough_items_for_intervals() -> None:
    assert NUM_EXAMPLES >= 50 and len(TASKS) >= 8
