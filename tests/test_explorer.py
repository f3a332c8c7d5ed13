"""The table of every run: what it shows, and that it carries all it needs."""

import re
from pathlib import Path

import pytest
from fixture_records import fill

from mmpeft.plan import load_question
from mmpeft.records import Store
from mmpeft.study import explorer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fill(Store(tmp_path), load_question("capacity", "smoke").planned(), failed=0.3)


def test_every_run_is_a_row_and_a_failed_one_says_why(store: Store) -> None:
    frame = explorer.explore(explorer.runs("smoke", str(store.path))).frame
    assert sorted(frame["run"]) == sorted(store.collect()["run_id"])
    failed = frame[frame["error"] != ""]
    assert 0 < len(failed) < len(frame)
    assert set(failed["score"]) == {""} and failed["error"].str.startswith("TrainingDiverged").all()
    assert all("capacity" in named.split(", ") for named in frame["questions"])


def test_numbers_stay_numbers_so_that_they_sort_as_such(store: Store) -> None:
    frame = explorer.explore(explorer.runs("smoke", str(store.path))).frame
    lora = frame[(frame["method"] == "LoRA") & (frame["error"] == "")]
    for name in ("size", "trained", "score", "seed", "learning rate", "seconds", "examples"):
        assert all(isinstance(value, int | float) for value in lora[name]), name
    assert set(frame.loc[frame["method"] == "(IA)³", "size"]) == {""}
    assert set(lora["training"]) == {"3 steps"}


def test_the_text_counts_runs_failures_and_hours(store: Store) -> None:
    runs = explorer.runs("smoke", str(store.path))
    failed = int((runs["status"] == "failed").sum())
    text = str(explorer.in_brief(runs))
    assert text.startswith(f"{len(runs)} runs left a record, and {failed} of them failed.")
    assert "serve no question" not in text
    assert "serve no question" in str(explorer.in_brief(explorer.runs("tiny", str(store.path))))


def test_an_empty_store_is_an_empty_table(tmp_path: Path) -> None:
    runs = explorer.runs("smoke", str(tmp_path))
    assert str(explorer.in_brief(runs)) == "No run has left a record yet."
    shown = explorer.explore(runs)
    assert shown.frame.empty and "no run has left a record yet" in shown._repr_html_()


def test_only_failed_runs_make_a_table_too(tmp_path: Path) -> None:
    fill(Store(tmp_path), load_question("capacity", "smoke").planned(), failed=1.0)
    shown = explorer.explore(explorer.runs("smoke", str(tmp_path)))
    assert "TrainingDiverged: the loss is &lt;nan&gt;" in shown._repr_html_()
    assert set(shown.frame["seconds"]) == {""}


def test_the_page_carries_the_tables_program_and_stays_light(store: Store) -> None:
    html = explorer.explore(explorer.runs("smoke", str(store.path)))._repr_html_()
    asked = re.findall(r"(?:src|import|from)[ =(]*['\"](?:https?:)?//[^'\"]+", html)
    assert not asked
    assert len(html) < 1_500_000
