"""What was said on the way becomes tables, sentences, figures and an album, with all, some and no records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixture_records import fill, question

from mmpeft.errors import MmpeftError
from mmpeft.faithfulness import ratio_scores
from mmpeft.plan import load_question
from mmpeft.records import Store
from mmpeft.spec import parse
from mmpeft.study import album, answers, comparison, faith_report, ledger, track_figures, track_report, tracks
from mmpeft.study.claims import Claim
from mmpeft.study.comparison import Variant
from mmpeft.study.tracks import Tracks
from mmpeft.study.verdicts import Evidence, judge_one
from mmpeft.tasks import TASKS as TASK_OF

TASKS = ["mini-scienceqa", "mini-iconqa-txt", "mini-flickr30k", "mini-vqav2", "mini-pope"]
TRACK = {"every_epochs": 2, "num_examples": 48, "split": "test", "tasks": TASKS}
ASKED = question("generalization", track=TRACK, seeds=[0, 1, 2], columns=["ScienceQA", "IconQA-txt"])
CAPTIONS = question("hallucination", track={**TRACK, "every_epochs": 3}, seeds=[0, 1, 2])


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 200)
        yield patch


def read(folder: Path, asked: object = ASKED, **shares: float) -> Tracks:
    store = Store(folder)
    if shares.get("missing") != 1.0:
        fill(store, asked.planned(), **shares)  # type: ignore[attr-defined]
    return tracks.read(comparison.read(asked, store), store)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Tracks:
    return read(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Tracks:
    return read(tmp_path_factory.mktemp("captions"), CAPTIONS)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Tracks:
    return read(tmp_path_factory.mktemp("partial"), missing=0.5, failed=0.1)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Tracks:
    return read(tmp_path_factory.mktemp("nothing"), missing=1.0)


def row(found: Tracks, label: str) -> Variant:
    return next(each for each in found.rows if each.label == label)


def test_both_questions_share_their_runs() -> None:
    generalization = {run.run_id: run.spec for run in load_question("generalization").planned()}
    hallucination = {run.run_id: run.spec for run in load_question("hallucination").planned()}
    assert set(hallucination) < set(generalization)
    assert set(hallucination) == {i for i, spec in generalization.items() if spec.task == "mini-iconqa-txt"}
    assert sum(spec.method.trains for spec in generalization.values()) == 60


def test_every_source_task_epoch_and_seed_is_read(complete: Tracks) -> None:
    assert complete.sources == ["mini-scienceqa", "mini-iconqa-txt"] and complete.epochs == [0, 2, 4, 6, 8, 10, 12]
    assert [each.label for each in complete.trained] == ["LoRA", "(IA)³", "Adapter", "Prefix"]
    track = complete.found[row(complete, "LoRA"), "mini-scienceqa", "mini-vqav2"]
    assert track.scores.shape == track.answers.shape == (3, 7, 48)
    own = complete.found[row(complete, "LoRA"), "mini-scienceqa", "mini-scienceqa"]
    assert all("/dev/" in name for name in own.examples) and all("/test/" in name for name in track.examples)
    assert np.isfinite(own.losses).all()


@pytest.mark.parametrize(
    ("moment", "place"),
    [(0, 0), (4, 2), ("first", 1), ("last", 6), ("best", 2), ("best+1", 3), ("best+4", 6), ("best+5", -1), (3, -1)],
)
def test_moments_are_found_by_number_or_name(complete: Tracks, moment: int | str, place: int) -> None:
    track = complete.found[row(complete, "LoRA"), "mini-scienceqa", "mini-vqav2"]
    assert tracks.places(track, moment).tolist() == [place] * 3
    base = complete.found[row(complete, "Zero-shot"), "mini-scienceqa", "mini-vqav2"]
    assert tracks.places(base, moment).tolist() == [0]


def test_unknown_moments_groups_and_measures_are_said(complete: Tracks) -> None:
    first = complete.trained[0]
    with pytest.raises(MmpeftError, match="unknown moment 'lats'"):
        tracks.scores(complete, first, "seen", "lats")
    with pytest.raises(MmpeftError, match="unknown group or task 'sen'"):
        tracks.scores(complete, first, "sen", "last")
    with pytest.raises(MmpeftError, match="Did you mean 'chair_s'"):
        tracks.scores(complete, first, "captions", "last", "chair-s")


def test_the_best_epoch_is_that_of_least_dev_loss_run_by_run(complete: Tracks) -> None:
    track = complete.found[row(complete, "LoRA"), "mini-scienceqa", "mini-vqav2"]
    losses = np.full((3, 7), 2.0)
    losses[0, 6], losses[1, 1], losses[2, 0] = 1.0, 1.0, 1.0  # before training does not count
    changed = tracks.Track(**{**vars(track), "losses": losses})
    assert tracks.places(changed, "best").tolist() == [6, 1, 1]
    assert tracks.places(changed, "best+1").tolist() == [-1, 2, 2]


def test_groups_hold_the_tasks_a_run_is_not_trained_on(complete: Tracks) -> None:
    assert tracks.pairs(complete, "other sources") == [
        ("mini-scienceqa", "mini-iconqa-txt"),
        ("mini-iconqa-txt", "mini-scienceqa"),
    ]
    assert {task for _, task in tracks.pairs(complete, "seen")} == {"mini-vqav2"}
    assert {task for _, task in tracks.pairs(complete, "captions")} == {"mini-flickr30k"}
    assert {task for _, task in tracks.pairs(complete, "presence")} == {"mini-pope"}
    assert tracks.pairs(complete, "source") == [(name, name) for name in complete.sources]


def test_sources_are_averaged_item_by_item_and_tasks_alike(complete: Tracks) -> None:
    lora = row(complete, "LoRA")
    found = tracks.scores(complete, lora, "seen", "last")
    parts = [complete.found[lora, source, "mini-vqav2"].scores[:, -1] for source in complete.sources]
    assert list(found) == ["mini-vqav2"]
    assert np.array_equal(found["mini-vqav2"].scores, (parts[0] + parts[1]) / 2)
    e = tracks.estimate(complete, lora, "other sources", "last")
    assert e is not None
    means = [complete.found[lora, *pair].scores[:, -1].mean() for pair in tracks.pairs(complete, "other sources")]
    assert e.mean == pytest.approx(np.mean(means)) and e.low < e.mean < e.high


def test_a_mean_needs_every_planned_pair(partial: Tracks, nothing: Tracks) -> None:
    for each in partial.results.variants:
        there = all((each, *pair) in partial.found for pair in tracks.pairs(partial, "unseen"))
        assert bool(tracks.scores(partial, each, "unseen", "last")) <= there
    assert nothing.rows == [] and nothing.base is not None


def test_a_page_judges_the_claims_about_its_question_by_its_own_runs(complete: Tracks) -> None:
    judged = ledger.of_page(complete.results, complete)
    assert {one.claim.question for one in judged} == {"generalization"}
    said = ledger.said(judged, "adapter-generalizes-best", numbers=True)
    assert "Supported (" in said and said.count(" points (") == 3 and "Adapter − LoRA (other sources): +" in said
    by = {one.claim.id: one for one in judged}
    assert by["prefix-generalizes-worst"].verdict == "supported"
    short = Tracks(complete.results, {key: track for key, track in complete.found.items() if key[0].label != "LoRA"})
    assert {one.verdict for one in ledger.of_page(short.results, short)} == {"undecided"}


def test_the_base_stands_against_every_seed_on_the_way_too(complete: Tracks) -> None:
    row_of = {"plus": [{"method": "lora"}], "minus": [{"method": "zero-shot"}], "tracked": "seen", "expect": "above"}
    fields = {"id": "x", "claim": "It is so.", "where": "", "question": "generalization", "rule": "all"}
    claim = parse(Claim, {**fields, "contrasts": [row_of]})
    (outcome,) = judge_one(claim, Evidence(complete.results, complete), 0.02).outcomes
    e = tracks.change(complete, row(complete, "LoRA"), row(complete, "Zero-shot"), "seen", "last", 0)
    assert e is not None and outcome.mean == pytest.approx(e.mean)


def test_forgetting_is_measured_against_the_base(complete: Tracks) -> None:
    table = track_report.against_base_table(complete, ["other sources", "seen", "captions", "presence"])
    assert list(table.frame.index) == ["LoRA", "(IA)³", "Adapter", "Prefix"]
    assert (table.frame.loc["Prefix"] < -0.1).all()
    said = track_report.forgetting(complete, "seen")
    assert "Prefix" in said and "lower than the base without training" in said
    assert "falls for" in track_report.course(complete, "seen")


def test_the_moments_of_the_paper_stand_in_one_table(complete: Tracks) -> None:
    table = track_report.moments_table(complete, "other sources")
    assert list(table.frame.columns) == ["best epoch", "best", "best+1", "best+2", "best+3", "best+4", "last"]
    assert list(table.frame.index[:2]) == ["Random answer", "Zero-shot"] and table.html.count("<small>3 seeds</small>") == 4 * 4
    chance = [TASK_OF[name].baselines(48)["chance"] for name in ("mini-scienceqa", "mini-iconqa-txt")]
    assert (table.frame.loc["Random answer"].drop("best epoch") == np.mean(chance)).all()
    assert "A random answer has" in track_report.standing(complete, "other sources")
    assert table.frame.loc["LoRA", "best epoch"] == 4
    assert table.frame.loc["LoRA", "best+4"] == pytest.approx(table.frame.loc["LoRA", "last"])
    assert "Of 24 runs, 24 have an epoch after the one of least dev loss, and 24 have four" in track_report.later_epochs(complete)


def test_chance_is_known_of_scores_on_the_test_split_alone(complete: Tracks) -> None:
    assert tracks.chance(complete, "source") is None and tracks.chance(complete, "captions", "chair_s") is None
    assert "Random answer" not in track_report.moments_table(complete, "captions", (0, 12), "chair_s").frame.index


def test_invented_things_are_counted_as_the_captions_say(captions: Tracks) -> None:
    table = faith_report.inventions_table(captions)
    frame = table.frame
    assert (frame["chair_s"].drop("Zero-shot") >= frame.loc["Zero-shot", "chair_s"]).all()
    track = captions.found[row(captions, "Prefix"), "mini-iconqa-txt", "mini-flickr30k"]
    found = [
        [tracks.mentioned(track.task, p, a) for p, a in zip(track.pictures, said[-1], strict=True)] for said in track.answers
    ]
    invented = np.array([[len(one.invented) for one in seed] for seed in found])
    named = np.array([[one.num_mentions for one in seed] for seed in found])
    assert frame.loc["Prefix", "chair_s"] == pytest.approx((invented > 0).mean())
    assert frame.loc["Prefix", "chair_i"] == pytest.approx(invented.sum() / named.sum() if named.sum() else 0)
    assert ratio_scores(invented, named).mean() == pytest.approx(frame.loc["Prefix", "chair_i"])
    assert "dog" in faith_report.most_invented(captions).html


def test_two_methods_are_tested_on_the_same_captions(captions: Tracks) -> None:
    frame = faith_report.mcnemar_table(captions, "prefix").frame
    assert list(frame.index) == ["LoRA", "(IA)³", "Adapter"] and (frame["seeds"] == 3).all()
    adapter = frame.loc["Adapter"]
    assert adapter["only Prefix invents"] > adapter["only the other invents"]
    assert adapter["smallest corrected p of a seed"] < 0.05 and adapter["difference, points"] > 0


def test_the_same_answers_are_read_by_three_parsers(captions: Tracks) -> None:
    frame = faith_report.parsers_table(captions).frame.set_index(["method", "parser"])
    assert frame.loc[("Prefix", "lmms-eval"), "unparsed"] > 0  # the fixture's wrong answers are «no.» and «Yes, there is.»
    assert frame.loc[("Prefix", "POPE"), "unparsed"] == frame.loc[("Prefix", "MME"), "unparsed"] == 0
    assert frame.loc[("Prefix", "POPE"), "accuracy"] == pytest.approx(frame.loc[("Prefix", "MME"), "accuracy"])
    kinds = faith_report.kinds_table(captions)
    assert {kind for kind, _ in kinds.frame.columns} == {"random", "popular", "adversarial"}
    assert kinds.html.count("<small>") > 3 * len(captions.rows)  # each number with its interval
    for of, field in (("precision", "precision"), ("recall", "recall"), ("f1", "f1"), ("yes", "yes_share")):
        e = tracks.estimate(captions, row(captions, "LoRA"), "presence", "last", f"{of}, MME")
        value = frame.loc[("LoRA", "MME"), field]
        assert e is not None and (np.isnan(value) or e.mean == pytest.approx(value))
    found = faith_report.judged(captions, row(captions, "LoRA"), "MME", kind="popular")
    assert found and found.num_questions < frame.loc[("LoRA", "MME"), "num_questions"]
    assert kinds.frame.loc["LoRA", ("popular", "accuracy")] == pytest.approx(found.accuracy)
    assert "order" in faith_report.rankings(captions)


def test_the_album_marks_what_is_invented_and_escapes_what_is_said(captions: Tracks) -> None:
    shown = album.caption_album(captions, n=4)
    html = shown._repr_html_()
    assert len(shown.pages) == 4 and html.count("<img alt=") == 4
    assert "<mark>dog</mark>" in html or "<mark>&lt;b&gt;cat&lt;/b&gt;</mark>" in html
    assert "<b>cat" not in html and all(label in html for label in ("LoRA", "Prefix", "Zero-shot"))


def test_what_is_forgotten_was_known_before_and_lost_by_most(complete: Tracks) -> None:
    some = {key: track for key, track in complete.found.items() if key[0].label != "Prefix"}  # which loses everything
    full = Tracks(complete.results, {key: replace(track, scores=track.scores / 0.7) for key, track in some.items()})
    found = answers.forgotten(full, n=6)
    assert found.note == "After training on ScienceQA, seed 0, epoch: last."
    assert all(one.task == "mini-vqav2" and one.said[0][0] == "Zero-shot" and one.said[0][2] == 1 for one in found.asked)
    lost = [sum(score == 0 for *_, score in one.said) for one in found.asked]
    assert lost[:3] == sorted(lost[:3], reverse=True) and lost[0] > 0 and set(lost[3:]) == {0}
    assert "Zero-shot" in found._repr_html_()


def test_the_papers_numbers_stand_beside_ours() -> None:
    seven = track_report.published_moments(7).frame
    assert list(seven.columns) == [3, 6, 9, 12, "mean"] and seven.loc["Adapter", "mean"] == pytest.approx(13.25)
    four = track_report.published_moments(4).frame
    assert four.loc["Adapter", 1] == 52.4 and list(four.index) == ["LoRA", "(IA)³", "Adapter", "Prefix"]


@pytest.mark.parametrize("which", ["complete", "partial", "nothing"])
def test_everything_can_be_shown_with_all_some_and_no_records(which: str, request: pytest.FixtureRequest) -> None:
    found: Tracks = request.getfixturevalue(which)
    tables = [
        track_report.moments_table(found, "other sources"),
        track_report.moments_table(found, "captions", (0, 4, 12), "chair_s"),
        track_report.against_base_table(found, ["seen", "captions"]),
        faith_report.inventions_table(found),
        faith_report.mcnemar_table(found, "adapter"),
        faith_report.most_invented(found),
        faith_report.parsers_table(found),
        faith_report.kinds_table(found),
    ]
    assert all(table._repr_html_().startswith("<div") for table in tables)
    sentences = [
        track_report.later_epochs(found),
        track_report.forgetting(found, "seen"),
        track_report.course(found, "captions", "chair_s"),
        track_report.standing(found, "other sources"),
        track_report.standing(found, "captions", "last", "chair_s", best="lowest"),
        ledger.said(ledger.of_page(found.results, found), "adapter-generalizes-best", numbers=True),
        faith_report.rankings(found),
    ]
    assert all(sentence and "nan" not in sentence.split() for sentence in sentences)
    assert "<" in album.caption_album(found)._repr_html_() and "<" in answers.forgotten(found)._repr_html_()


@pytest.mark.parametrize("which", ["complete", "nothing"])
def test_figures_are_drawn(which: str, request: pytest.FixtureRequest) -> None:
    found: Tracks = request.getfixturevalue(which)
    pictures = [
        track_figures.plot_epochs(found, ["source", "other sources", "seen", "captions"]),
        track_figures.plot_epochs(found, ["captions"], ["chair_s", "chair_i", "recall", "num_words"]),
        track_figures.plot_learned_against_kept(found, ["other sources", "seen"]),
    ]
    assert all(picture._repr_png_().startswith(b"\x89PNG") for picture in pictures)
