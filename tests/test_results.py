"""What the repository's own records say, and that the settings follow from them."""

import json
from functools import cache
from pathlib import Path

import pytest

from mmpeft.plan import load_question, questions
from mmpeft.records import Store
from mmpeft.registry import fingerprint
from mmpeft.study import comparison, ledger, report
from mmpeft.study.comparison import Results

ROOT = Path(__file__).resolve().parent.parent


@cache
def sweep() -> Results:
    question = load_question("learning_rate")
    return comparison.read(question, Store(question.store_folder()))


def test_the_rates_of_tiny_are_the_best_of_the_recorded_sweep() -> None:
    assert sweep().counts["missing"] == 0
    best = report.best_rates(sweep()).frame.set_index("method")["best rate"].to_dict()
    assert len(best) == 6
    used = {report.METHODS[name].label: rate for name, rate in sweep().question.learning_rates.items()}
    assert used == best


def test_no_best_rate_lies_at_the_end_of_its_grid() -> None:
    table = report.best_rates(sweep()).frame
    assert not table.loc[table["at the end"], "method"].tolist()


@pytest.mark.parametrize("name", questions())
def test_every_planned_run_of_a_question_left_a_record(name: str) -> None:
    question = load_question(name)
    counts = Store(question.store_folder()).status(question.planned())
    assert counts["done"] + counts["failed"] == counts["planned"]


def test_every_record_is_of_the_packaged_base_and_has_its_predictions() -> None:
    records = sorted((ROOT / "results" / "records").glob("*.json"))
    assert records
    for path in records:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["fingerprint"] == fingerprint(content["spec"]["model"]), f"{path.name} is of another base"
        packed = ROOT / "results" / "predictions" / f"{path.stem}.jsonl.gz"
        assert packed.exists() == (content["predictions_sha256"] is not None), path.name


def test_the_readme_says_what_the_ledger_says() -> None:
    said = str(ledger.in_brief(ledger.judged("tiny"))).split(".")[0]
    text = " ".join(Path("README.md").read_text(encoding="utf-8").split())
    assert said[1:] in text  # the sentence begins there in small
    assert f"{sum(1 for _ in Path('results/records').glob('*.json')):,} recorded runs" in text
