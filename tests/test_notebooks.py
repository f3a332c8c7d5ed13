"""The notebooks are clean, hold no logic and no typed result, and run from parameters alone."""

import ast
import re
import resource
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml

from mmpeft import book
from mmpeft.errors import MmpeftError
from mmpeft.plan import Question, load_question, questions
from mmpeft.study.claims import load_ledger

NAMES = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
SMOKE = [Path("params/method.yaml"), Path("params/scales/smoke.yaml")]


def read(name: str) -> Any:
    return nbformat.read(f"notebooks/{name}.ipynb", as_version=4)


def sources(name: str, cell_type: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == cell_type]


def test_the_book_knows_every_notebook() -> None:
    assert sorted(book.pages()) == NAMES
    assert set(questions()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_clean(name: str) -> None:
    cells = read(name).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")
    assert len({cell.id for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_hold_no_functions_and_few_imports(name: str) -> None:
    code = "\n".join(sources(name, "code"))
    assert not re.search(r"^\s*(def|class) |\bplt\.", code, re.MULTILINE)
    assert len(re.findall(r"^\s*(?:import|from) ", code, re.MULTILINE)) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_have_one_cell_of_literal_parameters(name: str) -> None:
    tagged = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in ast.parse(tagged[0].source).body:
        assert isinstance(line, ast.Assign)
        ast.literal_eval(line.value)


@pytest.mark.parametrize("name", questions())
def test_a_questions_page_begins_with_what_it_comes_to(name: str) -> None:
    cells = read(name).cells
    summary = [cell for cell in cells if "summary" in cell.metadata.get("tags", [])]
    assert summary[0].source.startswith("## In short\n")
    assert summary[1].source == "report.provenance(results, brief=True)"  # which says the scale
    assert len(summary) > 2
    tables = [cell for cell in summary if "verdict_table" in cell.source]
    assert bool(tables) == any(claim.question == name for claim in load_ledger().claims)
    in_code = [cell for cell in cells if cell.cell_type == "code" and cell not in summary]
    folded = [cell for cell in in_code if "hide-input" in cell.metadata.get("tags", [])]
    assert folded == in_code[:2], "parameters and imports"


@pytest.mark.parametrize("name", questions())
def test_no_result_is_typed_into_prose(name: str) -> None:
    assert not [text for text in sources(name, "markdown") if re.search(r"\d[\d.]*\s*(%|points)|\d\.\d+ ", text)]


@pytest.mark.parametrize("name", questions())
def test_a_questions_cell_and_its_file_say_the_same(name: str) -> None:
    parameters = papermill.inspect_notebook(f"notebooks/{name}.ipynb")
    assert set(parameters) == set(Question.model_fields)
    typed = {p: ast.literal_eval(info["default"]) for p, info in parameters.items()}
    written = yaml.safe_load(Path(f"params/{name}.yaml").read_text(encoding="utf-8"))
    assert {p: typed[p] for p in written} == written
    assert all(typed[p] is None or p == "allow_runs" for p in set(typed) - set(written))


@pytest.mark.parametrize("name", questions())
def test_a_question_runs_at_smoke_in_under_a_minute(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = book.notebook(name, [Path(f"params/{name}.yaml"), SMOKE[1]], tmp_path / f"{name}.ipynb")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's time, not the clock's: the machine may have other work.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 60
    executed = nbformat.read(out, as_version=4)
    assert "papermill" not in executed.metadata and "widgets" not in executed.metadata
    injected = [c for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "hide-input" in injected[0].metadata["tags"]
    ids = [cell.id for cell in executed.cells]
    assert ids.index("in-short") < ids.index("parameters-words") < ids.index("parameters"), "the answer before its parameters"
    text, planned = str(executed), len(load_question(name, "smoke").specs())
    assert f"{planned} of {planned} planned runs" in text and "The model is random" in text


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match=r"unknown parameter .* 'sedes'\. Did you mean 'seeds'\?"):
        book.notebook("method", SMOKE, tmp_path / "out.ipynb", {"sedes": [0]})
    with pytest.raises(MmpeftError, match=r"unknown notebook 'methods'\. Did you mean 'method'\?"):
        book.notebook("methods")
    assert not list(tmp_path.iterdir())


def test_plain_papermill_refuses_an_unknown_parameter_too(tmp_path: Path) -> None:
    refused = pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'sedes'")
    with book.private_kernels() as kernels, refused:
        papermill.execute_notebook(
            "notebooks/method.ipynb",
            str(tmp_path / "out.ipynb"),
            parameters={"scale": "smoke", "sedes": [0]},
            progress_bar=False,
            kernel_manager_class=kernels,
        )


def test_a_notebook_that_fails_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    out = tmp_path / "lesson_lora.ipynb"
    out.write_text("the old one", encoding="utf-8")
    with pytest.raises(MmpeftError, match="notebook lesson_lora, cell"):
        book.notebook("lesson_lora", [], out, {"num_in": "many"})
    assert out.read_text(encoding="utf-8") == "the old one"
