"""The page on own data does what it says: its file is a dataset, its questions run, and its page comes out."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import nbformat
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from mmpeft import book
from mmpeft.__main__ import app
from mmpeft.execute import run_missing
from mmpeft.plan import Question
from mmpeft.planner import budgets, words_of
from mmpeft.real import shelf
from mmpeft.records import Store
from mmpeft.tasks import REAL, TASKS

PAGE = Path("book/own.md").read_text(encoding="utf-8")
TREES = {"oak": (60, 120, 30), "elm": (150, 170, 60), "ash": (90, 60, 40)}


def blocks(language: str) -> list[str]:
    """The code blocks of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def lay_out(folder: Path) -> None:
    """The reader's folder, as the page draws it."""
    folder.mkdir(parents=True)
    rng = Random(0)
    for split, number in (("train", 120), ("test", 12)):
        rows = []
        for i in range(number):
            tree = rng.choice(sorted(TREES))
            leaf = Image.new("RGB", (32, 32), TREES[tree])
            leaf.paste((200, 200, 0), (0, 0, 4 + i % 24, 1 + i // 24 + 20 * (split == "test")))  # no two are alike
            leaf.save(folder / f"{split}-{i}.jpg")
            rows.append({"picture": f"{split}-{i}.jpg", "question": "Which tree is this?", "answer": tree})
        (folder / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's file, in which every Python finds the dataset among the others."""
    (code,) = blocks("python")
    (tmp_path / "leaves_task.py").write_text(code, encoding="utf-8")
    registered = "import leaves_task\nfrom mmpeft import tasks\ntasks.TASKS['leaves'] = leaves_task.Leaves()\n"
    (tmp_path / "sitecustomize.py").write_text(registered, encoding="utf-8")
    lay_out(tmp_path / "data" / "leaves")
    monkeypatch.setenv("MMPEFT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = importlib.util.spec_from_file_location("leaves_task", tmp_path / "leaves_task.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for registry in (TASKS, REAL):
        monkeypatch.setitem(registry, "leaves", module.Leaves())
    yield tmp_path


def on_a_toy(text: str, folder: Path) -> dict[str, Any]:
    """A question of the page on the random model."""
    asked: dict[str, Any] = yaml.safe_load(text)
    small = {"model": "toy", "train": {"num_examples": 24, "num_steps": 2, "batch_size": 8}, "store": str(folder / "store")}
    return asked | small | {"seeds": asked["seeds"][:2]}


def test_the_dataset_of_the_page_is_read_shown_and_split(leaves: Path) -> None:
    said = CliRunner().invoke(app, ["datasets", "leaves", "--show", "--overlap"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 0, said.output
    assert "leaves test: 12 examples of 12 pictures" in said.output
    assert "Which tree is this?" in said.output and "0 of 3 pairs of splits share a picture" in said.output
    assert sum(len(TASKS["leaves"].all_examples(split)) for split in ("train", "dev")) == 120
    right = TASKS["leaves"].all_examples("test")
    assert TASKS["leaves"].score(right, [example.answer.upper() for example in right]).score == 1
    assert shelf.folder_of("leaves", 1).is_relative_to(leaves)


def test_the_questions_of_the_page_run_are_planned_and_give_their_pages(leaves: Path) -> None:
    compare, rates = (on_a_toy(text, leaves) for text in blocks("yaml"))
    assert words_of("leaves").answer == 4
    for name, asked, said in (("method", compare, "Leaves"), ("learning_rate", rates, "The best rate of each method")):
        question = Question.from_parameters(asked)
        summary = run_missing(question.planned(), Store(asked["store"]), progress=False)
        assert (summary.done, summary.failed) == (len(question.planned()), 0)
        path = leaves / f"{asked['question']}.yaml"
        path.write_text(yaml.safe_dump(asked), encoding="utf-8")
        out = book.notebook(name, [path], leaves / f"{name}.ipynb")
        text = str(nbformat.read(out, as_version=4))
        assert budgets([Question.from_parameters(asked | {"model": "llava-1.5-7b"})], "h100")[0].gpu_hours > 0
        assert f"{summary.done} of {summary.done} planned runs" in text and said in text


def test_the_commands_of_the_page_are_commands() -> None:
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines() if line.startswith("mmpeft ")]
    assert len(lines) == 5
    for _, command, *words in map(str.split, lines):
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
        assert [word for word in words if word.startswith("-") and word not in told] == []
        assert os.sep not in words[0]
