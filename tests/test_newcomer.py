"""What a newcomer adds is found by itself: a question is a file of parameters, a notebook and a line in the contents."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from fixture_records import fill

from mmpeft import book
from mmpeft.errors import MmpeftError
from mmpeft.plan import load_question, questions
from mmpeft.records import Store

CONTENTS = """
format: jb-book
root: glossary
parts:
  - caption: The study
    chapters:
      - file: bibliography
      - file: _executed/capacity
      - file: _executed/claims
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one question, small enough to build."""
    place = tmp_path / "clone"
    shutil.copytree("book", place / "book", ignore=shutil.ignore_patterns("_build", "_executed"))
    shutil.copytree("params/scales", place / "params" / "scales")
    (place / "notebooks").mkdir()
    for name in ("params/capacity.yaml", "params/claims.yaml", "notebooks/capacity.ipynb"):
        shutil.copy(name, place / name)
    shutil.copy("notebooks/claims.ipynb", place / "notebooks" / "claims.ipynb")
    only = nbformat.read(place / "notebooks" / "claims.ipynb", as_version=4)
    only.cells = only.cells[:4]  # what other pages point to; its verdicts need every question
    nbformat.write(only, place / "notebooks" / "claims.ipynb")
    (place / "book" / "_toc.yml").write_text(CONTENTS, encoding="utf-8")
    (place / "book" / "glossary.md").write_text("# Words\n", encoding="utf-8")
    monkeypatch.chdir(place)
    return place


def copy(place: Path, name: str) -> None:
    """The question capacity under another name, as somebody would begin a new one."""
    for old in (place / "params" / "capacity.yaml", place / "notebooks" / "capacity.ipynb"):
        shutil.copy(old, old.with_stem(name))


def rename(place: Path, name: str) -> None:
    """Say the new name where the old one stood."""
    parameters, notebook = place / "params" / f"{name}.yaml", place / "notebooks" / f"{name}.ipynb"
    text = parameters.read_text(encoding="utf-8").replace("question: capacity", f"question: {name}")
    parameters.write_text(text, encoding="utf-8")
    cells = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in cells["cells"]:
        cell["source"] = [line.replace('question = "capacity"', f'question = "{name}"') for line in cell["source"]]
    notebook.write_text(json.dumps(cells), encoding="utf-8")


def test_a_copied_question_is_planned_run_and_a_page_of_the_book(clone: Path) -> None:
    copy(clone, "ranks")
    rename(clone, "ranks")
    contents = clone / "book" / "_toc.yml"
    contents.write_text(contents.read_text(encoding="utf-8") + "      - file: _executed/ranks\n", encoding="utf-8")
    assert questions() == ["capacity", "ranks"]
    assert book.notebooks() == sorted(book.pages()) == ["capacity", "claims", "ranks"]
    ranks, capacity = (load_question(name, "smoke").planned() for name in ("ranks", "capacity"))
    assert ranks == capacity  # the same runs: made once for both
    store = fill(Store(clone / "store"), ranks)
    built = book.build(store.path, scale="smoke")
    assert (built.pages, built.figures, built.warnings) == (5, 2, 0)
    text = (built.page.parent / "_executed" / "ranks.html").read_text(encoding="utf-8")
    assert f"{len(ranks)} of {len(ranks)} planned runs" in text


def test_a_copy_that_still_has_the_old_name_is_told_to_change_it(clone: Path) -> None:
    copy(clone, "ranks")
    with pytest.raises(MmpeftError, match=r"ranks\.yaml: question: says 'capacity'; write the file's own name, 'ranks'"):
        load_question("ranks")
