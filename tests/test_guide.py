"""The guide's advice follows from the records: other records, other advice; no records, none."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixture_records import Rule, by_size, fill, question
from made_results import asked, results_of

from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS
from mmpeft.records import Store
from mmpeft.spec import RunSpec, parse
from mmpeft.study import comparison, guide, guide_report
from mmpeft.study.claims import Ledger, load_ledger
from mmpeft.study.comparison import Results
from mmpeft.study.guide import Advice, advise, ranked
from mmpeft.study.guide_report import Advised
from mmpeft.study.situations import Guide, Situation, load_guide
from mmpeft.study.tracks import Tracks
from mmpeft.study.verdicts import Evidence, Outcome

MARGIN = 0.02
FROZEN: dict[str, Any] = {
    "id": "x",
    "situation": "You ask.",
    "decides": "the average",
    "question": "method",
    "each": ["lora", "ia3", "adapter", "prefix"],
    "rows": {"": {"connector": "frozen"}},
    "over": "unseen",
    "against": [{"method": "zero-shot"}],
}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmpeft.study.verdicts.NUM_DRAWS", 300)
        patch.setattr(comparison, "NUM_DRAWS", 300)
        yield patch


def results(folder: Path, rule: Rule = by_size, **options: Any) -> Results:
    planned = question()
    return comparison.read(planned, fill(Store(folder), planned.planned(), rule, **options))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(tmp_path_factory.mktemp("complete"))


def advice(found: Results, **changes: Any) -> Advice:
    situation = parse(Situation, FROZEN | changes)
    return advise(Guide(situations=[situation]), lambda _: Evidence(found, Tracks(found, {})), MARGIN)[0]


def favoring(name: str, by: float) -> Rule:
    return lambda spec: 0.4 + by * (spec.method.name == name)


def test_other_records_give_another_advice(tmp_path: Path) -> None:
    for name in ("prefix", "lora"):
        found = advice(results(tmp_path / name, favoring(name, 0.3)))
        assert found.take == (METHODS[name].label,) and found.sureness == guide.SURE
        assert found.num_runs == found.num_planned == 4 * 5 * 3 + 5


def test_the_best_is_sure_only_by_more_than_the_margin(complete: Results) -> None:
    assert advice(complete).ranking[0].name == "LoRA"
    # The same point for every seed and item: surely there, and below two.
    little = advice(results_of(asked("method"), lambda spec: 0.4 + 0.01 * (spec.method.name == "lora")), against=[])
    assert little.take == ("LoRA",) and little.sureness == guide.LITTLE


def test_what_is_the_same_makes_no_difference_and_what_is_noisy_cannot_be_told() -> None:
    same = advice(results_of(asked("method"), lambda spec: 0.4), against=[])
    assert same.sureness == guide.NO_MATTER and len(same.kept) == 4
    noisy = advice(results_of(asked("method"), lambda spec: 0.4, noise=2.0), against=[])
    assert noisy.sureness == guide.CANNOT_TELL and guide_report.taken(noisy) == "any of them"


def test_those_not_told_apart_stay_together() -> None:
    worse = {"ia3": 0.3, "prefix": 0.35}
    found = advice(results_of(asked("method"), lambda spec: 0.6 - worse.get(spec.method.name, 0.0), noise=0.5), against=[])
    assert set(found.kept) == {"LoRA", "Adapter"} and found.sureness == guide.ONE_OF
    assert guide_report.taken(found) in ("LoRA or Adapter", "Adapter or LoRA")


def test_where_nothing_is_gained_the_advice_is_to_take_none_of_them() -> None:
    found = results_of(asked("method"), by_size)
    seen, unseen = advice(found, over="seen"), advice(found, over="unseen")
    assert seen.instead == "Zero-shot" and seen.sureness == guide.SURE
    assert guide_report.taken(seen) == "none of them: the untrained base"
    assert unseen.instead is None
    assert advice(found, over="seen", against=[], beside=FROZEN["against"]).instead is None


def test_a_candidate_without_runs_makes_an_advice_wait(tmp_path: Path) -> None:
    found = advice(results_of(asked("method"), by_size, keep=lambda spec: spec.method.name != "prefix"))
    assert found.waiting == ("Prefix",) and found.sureness == guide.NOT_YET
    assert guide_report.taken(found).startswith("so far ") and "Not enough runs yet: Prefix." in guide_report.why(found)
    nothing = advice(results(tmp_path, missing=1.0))
    assert nothing.sureness == guide.NOT_YET and nothing.num_runs == 0 and guide_report.taken(nothing) == "not known yet"


def test_some_missing_runs_are_counted_and_the_advice_is_called_interim(tmp_path: Path) -> None:
    found = advice(results(tmp_path, favoring("lora", 0.3), missing=0.2))
    assert found.num_runs < found.num_planned
    assert guide_report.how_sure(found).startswith("so far: ") or found.sureness == guide.NOT_YET


def test_only_what_merges_is_a_candidate_where_it_must(complete: Results) -> None:
    found = advice(complete, must="mergeable")
    assert {one.name for one in found.ranking} == {METHODS[name].label for name in METHODS if METHODS[name].mergeable}


def test_candidates_below_chance_are_no_choice() -> None:
    low = advice(results_of(asked("method"), lambda spec: 0.05 + 0.03 * (spec.method.name == "lora")))
    assert low.below_chance and low.ranking[0].value < low.references["Random answer"] and low.sureness == guide.SURE
    assert guide_report.taken(low) == "none is above a random answer"
    assert "None scores more than a random answer (" in guide_report.reason(low)
    high = advice(results_of(asked("method"), lambda spec: 0.5))
    assert not high.below_chance and "random answer" not in guide_report.reason(high)


def test_a_candidate_must_keep_what_it_has_to_on_average() -> None:
    kept = {"Zero-shot": 0.56, "a": 0.55, "b": 0.53}
    assert guide._left_out(kept, "Zero-shot", MARGIN) == ("b",)
    assert guide._left_out({"a": 0.1}, "Zero-shot", MARGIN) == ()
    with pytest.raises(MmpeftError, match="name one"):
        parse(Situation, FROZEN | {"tracked": "captions", "measure": "chair_s", "keeps": "recall"})


def test_where_no_candidate_keeps_it_there_is_no_advice() -> None:
    one, two = ranked([("a", 0.2), ("b", 0.3)], [None, Outcome("", "supported", 0.1, 0.05, 0.2)])
    assert guide._sureness([one, two], (), MARGIN, ["a", "b"]) == guide.NOT_FAIR
    assert guide._sureness([one], (), MARGIN, ["b"]) == guide.LIKELY
    assert guide._sureness([one, two], (), MARGIN) == guide.SURE
    assert guide._sureness([one, two], (), MARGIN, (), ["one seed"]) == guide.LIKELY


def test_what_goes_with_a_choice_is_said_beside_it() -> None:
    found = advice(results_of(asked("method"), by_size), over="seen", against=[], beside=FROZEN["against"])
    assert f"{found.ranking[0].name} against the untrained base " in guide_report.reason(found)
    settled = Advised((advice(results_of(asked("method"), by_size), over="seen"),), {}, (), MARGIN)
    assert "surely not more than 2 points above the untrained base" in guide_report.none_of_them(settled)


def test_the_smallest_file_wins_by_bytes_and_its_price_is_told(complete: Results) -> None:
    sizes = {"lora": 400.0, "ia3": 100.0, "adapter": 300.0, "prefix": 200.0}
    runs = complete.runs.assign(adapter_bytes=complete.runs["method"].map(sizes))
    found = advice(replace(complete, runs=runs), measure="adapter_bytes", better="lower", against=[])
    assert [one.name for one in found.ranking] == ["(IA)³", "Prefix", "Adapter", "LoRA"] and found.sureness == guide.SURE
    behind = found.ranking[1].behind
    assert behind and behind.mean == pytest.approx(math.log(2))
    assert found.price and found.price[0] == "LoRA" and found.price[1].mean and found.price[1].mean > 0
    assert "with 2.0 times as much: Prefix" in guide_report.reason(found)
    near = complete.runs.assign(adapter_bytes=complete.runs["method"].map({**sizes, "ia3": 180.0}))
    found = advice(replace(complete, runs=near), measure="adapter_bytes", better="lower", against=[])
    assert found.sureness == guide.LITTLE  # a ninth more is less than the margin of ratios, a fifth


def test_without_time_for_tuning_the_flat_method_wins() -> None:
    grid = {"lora": [0.001, 0.01], "prefix": [0.01, 0.1]}

    def rule(spec: RunSpec) -> float:
        peaked = {0.001: 0.2, 0.01: 0.8}
        return peaked[spec.train.learning_rate] if spec.method.name == "lora" else 0.6  # type: ignore[index]

    variants = [{"method": {"name": name}} for name in grid]
    planned = asked("learning_rate", variants=variants, learning_rate_grid=grid)
    changes = {"question": "learning_rate", "each": list(grid), "rows": {"": {}}, "measure": "one trial", "against": []}
    found = advice(results_of(planned, rule), **changes)
    assert [one.name for one in found.ranking] == ["Prefix", "LoRA"] and found.sureness == guide.LIKELY
    assert found.caveats == ("one seed",) and guide_report.reason(found).endswith("One seed.")
    assert found.ranking[0].value == pytest.approx(0.6) and found.ranking[1].value == pytest.approx(0.5)
    short = advice(results_of(planned, rule, keep=lambda spec: spec.train.learning_rate != 0.1), **changes)
    assert short.waiting == ("Prefix",)
    wide = asked("learning_rate", variants=variants, learning_rate_grid=grid | {"prefix": [0.01, 1.0]})
    assert advice(results_of(wide, rule), **changes).caveats == ("one seed", "the grids are not equally wide")


def test_a_lower_spread_is_better(complete: Results) -> None:
    luck = {"lora": 0.01, "ia3": 0.2, "adapter": 0.2, "prefix": 0.2}

    def rule(spec: RunSpec) -> float:
        return 0.5 + luck[spec.method.name] * (spec.seed - 1) if spec.method.name in luck else 0.5

    found = advice(results_of(asked("method"), rule), measure="seed_sd", better="lower", over="ScienceQA", against=[])
    assert found.ranking[0].name == "LoRA" and found.ranking[0].value == pytest.approx(0.01)
    behind = found.ranking[1].behind
    assert behind and behind.mean == pytest.approx(math.log(20))


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(0.03, 0.05), (0.10, 0.12)], guide.SURE),
        ([(0.01, 0.05), (0.10, 0.12)], guide.LITTLE),
        ([(-0.01, 0.05), (0.10, 0.12)], guide.ONE_OF),
        ([(-0.01, 0.015), (-0.01, 0.02)], guide.NO_MATTER),
        ([(-0.01, 0.015), (-0.01, 0.03)], guide.CANNOT_TELL),
        ([(None, None), (0.10, 0.12)], guide.ONE_OF),
        ([], guide.NOT_YET),
    ],
)
def test_how_sure_an_advice_is_follows_from_the_intervals(ends: list[Any], expected: str) -> None:
    behind = [Outcome("", "undecided", low, low, high) for low, high in ends]
    assert guide._sureness(ranked([("a", 0.2), *(("b", 0.1) for _ in ends)], [None, *behind]), (), MARGIN) == expected


def test_who_stands_above_one_that_is_kept_is_kept_too() -> None:
    sure, open_, far = (Outcome("", "undecided", low, low, 0.3) for low in (0.01, -0.02, 0.1))
    found = ranked([("a", 0.5), ("b", 0.48), ("c", 0.45), ("d", 0.2)], [None, sure, open_, far])
    assert [one.name for one in found if not one.told_apart] == ["a", "b", "c"]
    assert guide._sureness(found, (), MARGIN) == guide.ONE_OF


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Advised]:
    folder = str(tmp_path_factory.mktemp("nothing"))
    return lambda scale: guide_report.advised(scale, folder)


def test_every_situation_names_rows_that_its_question_has_and_waits_for_runs(nothing: Callable[[str | None], Advised]) -> None:
    found = nothing(None)
    assert [one.situation.id for one in found.found] == [one.id for one in load_guide().situations]
    assert all(one.sureness == guide.NOT_YET and one.num_runs == 0 < one.num_planned for one in found.found)
    assert not [one for one in found.found if one.absent]
    assert "not known yet" in guide_report.none_of_them(found)


def test_at_a_scale_with_other_rows_candidates_are_left_out_by_name(nothing: Callable[[str | None], Advised]) -> None:
    found = nothing("smoke")
    assert "Adapter, connector tuned" in found.of("unseen").absent
    assert "Adapter" in guide_report.details(found).html


def test_the_table_links_each_advice_to_its_page_and_to_the_ledger(nothing: Callable[[str | None], Advised]) -> None:
    html = guide_report.table(nothing(None), "_executed/").html
    for one in load_guide().situations:
        assert f'href="_executed/{one.question}.html"' in html
        assert all(f'href="_executed/claims.html#{name}"' in html for name in one.claims)
    short = guide_report.in_short(nothing(None), "_executed/").html
    assert "When to use none of them" in short and short.count("Not enough runs yet") == len(load_guide().headlines)


def test_every_advice_leans_on_the_ledger_or_says_its_question() -> None:
    known = {claim.id for claim in load_ledger().claims}
    assert len(load_guide().situations) >= 8
    assert all(set(one.claims) <= known for one in load_guide().situations)


def test_a_guide_with_a_mistake_is_refused() -> None:
    with pytest.raises(MmpeftError, match=r"unknown method 'lorra'\. Did you mean 'lora'"):
        parse(Situation, FROZEN | {"each": ["lorra"]})
    with pytest.raises(MmpeftError, match="stands twice"):
        parse(Guide, {"situations": [FROZEN, FROZEN]})
    with pytest.raises(MmpeftError, match="unknown headline 'y'"):
        parse(Guide, {"headlines": ["y"], "situations": [FROZEN]})
    leaning = parse(Guide, {"situations": [FROZEN | {"claims": ["adapter-bets"]}]})
    with pytest.raises(MmpeftError, match="Did you mean 'adapter-best'"):
        guide_report.advised(situations=leaning, ledger=Ledger(margin=MARGIN, claims=load_ledger().claims))
