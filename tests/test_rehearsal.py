"""The paper's own study from its parameter files to its page, with stand-ins for what only the hub has.

The model is random and tiny, of LLaVA-1.5's architecture, prompt and framing of pictures; the datasets are four rows of each.
Everything else is what `mmpeft run method --scale paper` does: prompts, pre-step, methods and rates, bf16, passes, metrics.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import hub_fixture
import pytest

from mmpeft.book import notebook
from mmpeft.execute import run_missing
from mmpeft.loading import Loaded, tiny
from mmpeft.models import MODELS, Hub, Model, Precision
from mmpeft.plan import Planned, load_question, params_folder
from mmpeft.records import Record, Store

QUESTION = load_question("method", "paper")


@dataclass(frozen=True)
class StandIn(Hub):
    """The same place on the hub, but its weights are made here."""

    def load(self, model: Model, precision: Precision) -> Loaded:
        return tiny(model, precision=precision)


def chosen() -> list[Planned]:
    """Each row of the comparison once, each time on another task."""
    rows: dict[tuple[str, bool], list[Planned]] = {}
    for run in QUESTION.planned():
        rows.setdefault((run.spec.method.name, run.spec.connector.tuned), []).append(run)
    return [runs[number % len(runs)] for number, runs in enumerate(rows.values())]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("rehearsal")
    hub_fixture.write_official(folder / "data")
    model = MODELS[QUESTION.model]
    source = StandIn(**{each.name: getattr(model.source, each.name) for each in fields(model.source)})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MMPEFT_DATA", str(folder / "data"))
        patched.setenv("MMPEFT_CACHE", str(folder / "cache"))
        patched.setitem(MODELS, QUESTION.model, replace(model, source=source))
        run_missing(chosen(), made := Store(folder / "results"), progress=False)
    return made


def test_every_row_of_the_papers_comparison_runs_and_keeps_its_contract(store: Store) -> None:
    records = [store.load(run.run_id) for run in chosen()]
    assert [record and (record.status, record.error) for record in records] == [("ok", None)] * len(records)
    assert {record.spec.task for record in records if record} == set(QUESTION.tasks)
    for record in records:
        assert record
        assert record.spec.train.precision == "bf16"
        assert record.spec.train.gradient_accumulation_steps == (16 if record.spec.method.trains else 1)
        assert str(record.environment["pre_step"]).startswith("llava-1.5-7b-")
        assert record.contract["frozen_unchanged"] and record.contract["reload_delta_logits"] <= 1e-4
        assert len(store.predictions(record.run_id)) > 0


def test_all_runs_start_from_one_pre_step(store: Store) -> None:
    made = [record.environment["pre_step"] for run in chosen() if isinstance(record := store.load(run.run_id), Record)]
    assert len(made) == len(chosen()) and len(set(made)) == 1


def test_the_page_of_the_question_reads_those_records_and_says_what_is_missing(store: Store, tmp_path: Path) -> None:
    files = [params_folder() / "method.yaml", params_folder() / "scales" / "paper.yaml"]
    page = notebook("method", files, tmp_path / "method.ipynb", {"store": str(store.path), "allow_runs": False})
    said = page.read_text(encoding="utf-8")
    assert f"{len(chosen())} of {len(QUESTION.planned())} planned runs" in said
    assert "scale paper" in said
