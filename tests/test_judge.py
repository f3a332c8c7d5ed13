"""MMHal-Bench for a judge: what is asked of one, and how what it replies is read, counted and refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import hub_fixture
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mmpeft.__main__ import app
from mmpeft.errors import MmpeftError
from mmpeft.records import Store
from mmpeft.run import run
from mmpeft.spec import RunSpec
from mmpeft.study.judge import PROMPT, judged, read_replies, requests, score_of, summary
from mmpeft.study.tracks import GROUPS
from mmpeft.tasks import REAL

ASKED = {"model": "toy", "task": "mmhal", "method": {"name": "zero-shot"}, "eval": {"max_new_tokens": 6}}
TRAINED = {
    "model": "toy",
    "task": "okvqa",
    "method": {"name": "lora", "r": 2},
    "train": {"num_examples": 3, "num_epochs": 2, "batch_size": 3, "learning_rate": 0.01},
    "eval": {"num_examples": 1},
    "track": {"tasks": ["mmhal"], "every_epochs": 1, "num_examples": 1},
}
STRANGER = {"model": "toy", "task": "okvqa", "method": {"name": "zero-shot"}, "eval": {"num_examples": 1}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Three runs on the authors' files: one asked, one asked while it was trained on something else, one not asked."""
    folder = tmp_path_factory.mktemp("judge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPEFT_DATA", str(hub_fixture.write_official(folder / "official")))
        kept = Store(folder / "store")
        for fields in (ASKED, TRAINED, STRANGER):
            kept.save(*run(RunSpec.from_dict(fields)))
        yield kept


@pytest.fixture(scope="module")
def run_of(store: Store) -> Callable[[dict[str, object]], str]:
    """The id of the run with these settings."""
    ids = {record.spec: record.run_id for record in store.records()}
    return lambda fields: ids[RunSpec.from_dict(fields)]


@pytest.fixture
def asked(store: Store, run_of: Callable[..., str]) -> list[dict[str, object]]:
    return requests(store, run_of(ASKED))


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["judge", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def write(path: Path, replies: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": name, "reply": text}) + "\n" for name, text in replies.items()))
    return path


def test_a_request_holds_all_that_a_judge_needs(store: Store, run_of: Callable[..., str], asked: list[dict[str, str]]) -> None:
    said = store.predictions(run_of(ASKED)).set_index("example_id")["prediction"]
    assert len(asked) == 4 and {one["id"]: one["answer"] for one in asked} == {
        f"{run_of(ASKED)}/{example}": answer for example, answer in said.items()
    }
    rows = {row["question"]: row for row in map(hub_fixture.mmhal_row, range(4))}
    for one in asked:
        row = rows[one["question"]]
        assert (one["question_type"], one["reference"]) == (row["question_type"], row["gt_answer"])
        assert one["image_contents"] == row["image_content"]
        parts = (one["question"], one["reference"], one["answer"], ", ".join(one["image_contents"]))
        assert all(part in one["prompt"] for part in parts) and "{" not in one["prompt"]


def test_the_rubric_names_every_grade_and_how_to_give_it() -> None:
    assert all(f"\n{grade}: " in PROMPT for grade in range(7))
    assert "the word Score, a colon and one whole number from 0 to 6" in PROMPT


def test_braces_in_an_answer_do_no_harm(store: Store, run_of: Callable[..., str], tmp_path: Path) -> None:
    record, said = store.load(run_of(ASKED)), store.predictions(run_of(ASKED)).assign(prediction="{question} {0}")
    assert record is not None
    other = Store(tmp_path)
    other.save(record, said.to_dict("records"))
    assert all("\n{question} {0}\n" in one["prompt"] for one in requests(other, record.run_id))


def test_of_a_run_asked_on_the_way_the_last_answers_are_judged(store: Store, run_of: Callable[..., str]) -> None:
    tracked = store.tracked(run_of(TRAINED)).query("task == 'mmhal'")
    assert sorted(tracked["epoch"]) == [0, 1, 2]
    (one,) = requests(store, run_of(TRAINED))
    (last,) = tracked.query("epoch == 2").itertuples()
    assert (one["id"], one["answer"]) == (f"{run_of(TRAINED)}/{last.example_id}", last.prediction)


def test_a_record_claims_no_more_than_that_there_were_answers(store: Store, run_of: Callable[..., str]) -> None:
    record, said = store.load(run_of(ASKED)), store.predictions(run_of(ASKED))["prediction"]
    assert record is not None and set(record.scores) == {"score", "unparsed", "num_words"}
    assert record.scores["score"] == np.mean([bool(text) for text in said])
    scored = REAL["mmhal"].score(REAL["mmhal"].examples("test"), ["A dog.", "", " ", "I see no dog at all."])
    assert (scored.score, scored.parsed, scored.extra) == (0.5, [True, False, False, True], {"num_words": 2.0})


def test_it_is_in_no_average_over_tasks() -> None:
    assert not [name for name, holds in GROUPS.items() if holds("mmhal", ["okvqa"])]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("It names a dog that is marked.\nScore: 5", 5),
        ("**Score:** 0", 0),
        ("> score : 6/6.\n", 6),
        ("Score: 2\n\nAs I said:\nScore: 2", 2),
        ("Score: 2\nor rather\nScore: 4", None),
        ("The score is 4", None),
        ("Score: 7", None),
        ("Score: 16", None),
        ("Score: -1", None),
        ("Score: 3.5", None),
        ("Score: 3-4", None),
        ("Score: <0-6>", None),
        ("I cannot grade this.", None),
        ("", None),
    ],
)
def test_a_score_is_read_only_where_a_line_gives_exactly_one(reply: str, score: int | None) -> None:
    assert score_of(reply) == score


def test_means_and_shares_are_by_question_type_and_what_has_no_score_is_counted(asked: list[dict[str, str]]) -> None:
    by_type = sorted(asked, key=lambda one: (one["question_type"], one["id"]))  # adversarial twice, attribute twice
    replies = dict(zip((one["id"] for one in by_type), ("Score: 2", "Score: 5", "no idea"), strict=False))
    rows = judged(asked, replies)
    assert len(rows) == 4 and rows["score"].isna().sum() == 2
    found = summary(rows).set_index("questions")
    assert list(found.index) == ["adversarial", "attribute", "all", "all, no score as 0"]
    assert found.loc["adversarial"].tolist() == [2, 3.5, 0.5, 0, 0]
    assert found.loc["attribute", ["asked", "unread", "no_reply"]].tolist() == [2, 1, 1]
    assert np.isnan(found.loc["attribute", "score"]) and np.isnan(found.loc["attribute", "invented"])
    assert found.loc["all"].tolist() == [4, 3.5, 0.5, 1, 1]
    assert found.loc["all, no score as 0"].tolist() == [4, 1.75, 0.75, 1, 1]


def test_three_is_not_invented_and_two_is(asked: list[dict[str, str]]) -> None:
    rows = judged(asked, {one["id"]: f"Score: {score}" for one, score in zip(asked, (0, 2, 3, 6), strict=True)})
    assert rows["invented"].tolist() == [1.0, 1.0, 0.0, 0.0] and summary(rows)["questions"].tolist()[-1] == "all"


def test_the_round_trip_by_the_command(store: Store, run_of: Callable[..., str], tmp_path: Path) -> None:
    where = ("--store", store.path)
    assert call(run_of(ASKED), "--ask", tmp_path / "ask.jsonl", *where).stdout.startswith("4 requests in ")
    written = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    assert written == requests(store, run_of(ASKED))
    replies = {one["id"]: "Fine.\nScore: 4" for one in written}
    whole = call(run_of(ASKED), "--replies", write(tmp_path / "replies.jsonl", replies), *where, "--json")
    assert whole.exit_code == 0, whole.output
    all_types = {"questions": "all", "asked": 4, "score": 4.0, "invented": 0.0, "unread": 0, "no_reply": 0}
    assert json.loads(whole.stdout)["rows"][-1] == all_types and not json.loads(whole.stdout)["without_score"]
    lost = replies.popitem()[0]
    some = call(run_of(ASKED), "--replies", write(tmp_path / "replies.jsonl", replies), *where)
    assert some.exit_code == 1 and f"no score: {lost}" in some.stdout and "all, no score as 0" in some.stdout


def test_a_wrong_run_and_replies_of_another_are_refused(
    store: Store, run_of: Callable[..., str], asked: list[dict[str, str]], tmp_path: Path
) -> None:
    with pytest.raises(MmpeftError, match="'nobody' has left no record"):
        requests(store, "nobody")
    with pytest.raises(MmpeftError, match="was asked okvqa; take one with task: mmhal"):
        requests(store, run_of(STRANGER))
    path = write(tmp_path / "replies.jsonl", {one["id"]: "Score: 4" for one in asked})
    wrong = call(run_of(TRAINED), "--replies", path, "--store", store.path)
    assert wrong.exit_code == 2 and "is none of this run's requests" in wrong.stderr
    neither = call(run_of(ASKED), "--store", store.path)
    assert neither.exit_code == 2 and "say --ask FILE" in neither.stderr
    assert call(run_of(ASKED), "--replies", tmp_path / "none.jsonl", "--store", store.path).exit_code == 2


def test_other_data_than_the_runs_is_refused(
    store: Store, run_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub_fixture.write_official(tmp_path / "other")
    rows = [row | {"question": "what color is it?"} for row in map(hub_fixture.mmhal_row, range(4))]
    (folder / "mmhal/response_template.json").write_text(json.dumps(rows))
    monkeypatch.setenv("MMPEFT_DATA", str(folder))
    with pytest.raises(MmpeftError, match="is not in the mmhal of this machine"):
        requests(store, run_of(ASKED))


@pytest.mark.parametrize("line", ["not JSON", "[]", "3", '{"id": "a"}', '{"id": "a", "reply": null}', '{"id": 1, "reply": "x"}'])
def test_a_line_that_is_no_reply_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('\n{"id": "b", "reply": "Score: 1"}\n' + line)
    with pytest.raises(MmpeftError, match=r"replies: line 3 of .* is not \{"):
        read_replies(path)


def test_a_second_reply_to_one_request_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"id": "b", "reply": "Score: 1"}\n' * 2)
    with pytest.raises(MmpeftError, match="b has a second reply in line 2"):
        read_replies(path)


def test_the_first_example_as_a_model_sees_it(store: Store) -> None:
    from mmpeft.seen import first_example

    seen = first_example(REAL["mmhal"], "toy", "test")
    assert seen.text.startswith("<s>USER:<image>×4what is next to the ") and seen.num_unknown == 0
    assert seen.labels.startswith("there is a wall next to the ") and seen.labels.endswith(".</s>")
