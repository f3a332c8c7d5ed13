"""The gallery of answers shows what was really answered, by one seed, where methods disagree and where they do not."""

from pathlib import Path

import pytest
from fixture_records import SIZES, question

from mmpeft.plan import Planned, Question
from mmpeft.records import Record, Store
from mmpeft.study import answers, comparison
from mmpeft.study.answers import Answers, marked
from mmpeft.tasks import TASKS

NUM = 12
TASK_NAMES = ["mini-scienceqa", "mini-iconqa-blank", "mini-flickr30k", "mini-vqav2"]
UNSEEN = {"mini-scienceqa", "mini-iconqa-blank"}


def wanted() -> Question:
    return question("method", tasks=TASK_NAMES, seeds=[3, 4], eval={"num_examples": NUM})


def right(run: Planned, i: int) -> bool:
    """Of every four questions one is right for all, one wrong for all, one right for LoRA alone, one for all but LoRA."""
    mine = run.spec.method.name == "lora"
    return run.spec.method.trains and (True, False, mine, not mine)[i % 4]


def save(store: Store, run: Planned) -> None:
    lines = [
        {
            "example_id": example.example_id,
            "picture_id": example.picture_id,
            "prediction": f"seed {run.spec.seed} <b>",
            "answers": list(example.answers),
            "score": float(right(run, i)),
            "parsed": True,
        }
        for i, example in enumerate(TASKS[run.spec.task].examples("test", NUM))
    ]
    record = Record(
        run_id=run.run_id,
        status="ok",
        spec=run.spec,
        task_version=run.task_version,
        fingerprint=run.fingerprint,
        scores={"score": 0.5, "unparsed": 0.0},
        cost={"trainable_params": SIZES[run.spec.method.name]},
        environment={},
        started_at="2026-11-22T00:00:00+00:00",
    )
    store.save(record, lines)


def shown(folder: Path, leave_out: str = "", **options: object) -> Answers:
    asked, store = wanted(), Store(folder)
    for run in asked.planned():
        if run.spec.method.name != leave_out or run.spec.task != "mini-scienceqa":
            save(store, run)
    return answers.disputed(comparison.read(asked, store), store, **options)  # type: ignore[arg-type]


def test_half_of_the_questions_are_disputed_and_the_rest_are_missed_or_right_for_all(tmp_path: Path) -> None:
    found = shown(tmp_path, n=8)
    assert len(found.asked) == 8 and {one.task for one in found.asked} == UNSEEN
    spreads = [{score for who, _, score in one.said if who not in ("Zero-shot", "Connector only")} for one in found.asked]
    assert spreads == [{0.0, 1.0}] * 4 + [{0.0}] * 2 + [{1.0}] * 2
    assert found == answers.disputed(comparison.read(wanted(), Store(tmp_path)), Store(tmp_path), n=8)


def test_the_answers_are_those_of_the_first_seed_and_are_escaped(tmp_path: Path) -> None:
    found = shown(tmp_path, n=2, connector="frozen")
    assert found.note == "Answers of seed 3, the methods with the connector frozen."
    html = found._repr_html_()
    assert "seed 3 &lt;b&gt;" in html and "seed 4" not in html and html.count("<img alt=") == 2
    assert all(mark in html for mark in ("✓", "✗"))
    for one in found.asked:
        assert [who for who, *_ in one.said][:3] == ["Zero-shot", "Connector only", "Full fine-tuning"]


def test_a_task_is_shown_only_if_every_row_has_answered(tmp_path: Path) -> None:
    assert {one.task for one in shown(tmp_path, leave_out="ia3").asked} == {"mini-iconqa-blank"}
    store = Store(tmp_path / "empty")
    nothing = answers.disputed(comparison.read(wanted(), store), store)
    assert not nothing.asked and "No answers are there yet" in nothing._repr_html_()


@pytest.mark.parametrize(("score", "expected"), [(0.0, "wrong"), (0.3, "partly right"), (1.0, "right")])
def test_a_mark_tells_right_from_partly_right_from_wrong(score: float, expected: str) -> None:
    assert marked(score) == expected and len(set(answers.MARKS.values())) == 3
