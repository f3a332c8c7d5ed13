"""The tasks as a reader sees them: pictures with questions, what needs no picture, and whose work is in them."""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import pandas as pd

from mmpeft.errors import unknown
from mmpeft.study.comparison import full_marks
from mmpeft.study.report import Table, percent, to_html
from mmpeft.task import Example, Task
from mmpeft.tasks import COLUMNS, MINI, TASKS


@dataclass(frozen=True)
class Gallery:
    """Pictures of a task with what is asked and answered about each; text stays text.

    Attributes:
        task: Whose pictures.
        examples: What is shown.
    """

    task: Task
    examples: tuple[Example, ...]

    def _repr_html_(self) -> str:
        return f'<div class="gallery">{"".join(self._card(example) for example in self.examples)}</div>'

    def __repr__(self) -> str:
        return "\n".join(f"{e.picture_id}: {e.prompt} → {e.answer}" for e in self.examples)

    def _card(self, example: Example) -> str:
        image = image_tag(self.task, example.picture_id, f"picture for the question: {example.prompt}")
        return (
            f"<figure>{image}"
            f"<figcaption>{escape(example.prompt)}<br><b>{escape(example.answer)}</b>"
            f"{self._others(example)}</figcaption></figure>"
        )

    def _others(self, example: Example) -> str:
        """The other references, where they differ from the answer."""
        others = [a for a in dict.fromkeys(example.answers) if a != example.answer]
        return f"<br><small>also accepted in part: {escape('; '.join(others))}</small>" if others else ""


def image_tag(task: Task, picture_id: str, alt: str) -> str:
    """A picture as an HTML image that holds its own data."""
    buffer = io.BytesIO()
    task.picture(picture_id).save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}" width="128" height="128">'


def task_gallery(task: str, n: int = 6, split: str = "train") -> Gallery:
    """``n`` pictures of a task, of as many kinds of question as there are; where there are two answers, of both in each kind.

    Raises:
        MmpeftError: No such task.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    examples = TASKS[task].examples(split, 200)
    two = len({e.answer for e in examples}) == 2
    kinds = [(e.kind, e.answer if two else "") for e in examples]
    chosen: dict[str, Example] = {}
    while len(chosen) < min(n, len({e.picture_id for e in examples})):
        for kind in dict.fromkeys(kinds):
            mine = (e for e, its in zip(examples, kinds, strict=True) if its == kind)
            example = next((e for e in mine if e.picture_id not in chosen), None)
            if example and len(chosen) < n:
                chosen[example.picture_id] = example
    return Gallery(TASKS[task], tuple(chosen.values()))


def task_table() -> Table:
    """One row a column: which dataset it stands for, its sizes, its metric, and what answers without looking score."""
    rows = []
    for task in COLUMNS.values():
        blind = {name: score / full_marks(task.name) for name, score in task.baselines().items()}
        rows.append(
            {
                "task": task.name,
                "stands for": task.column,
                "base has": "seen it" if task.seen else "not seen it",
                "metric": task.metric,
                **{split: len(task.examples(split)) for split in ("train", "dev", "test")},
                "random answer": blind["chance"],
                "most frequent answer": blind["majority"],
            }
        )
    frame = pd.DataFrame(rows)
    blind_columns = ["random answer", "most frequent answer"]
    shown = frame.assign(**{name: frame[name].map(percent) for name in blind_columns})
    shown = shown.rename(columns={name: f"{name} (%)" for name in blind_columns})
    return Table(frame, to_html(shown, index=False))


def kinds_table(task: str, split: str = "test") -> Table:
    """What kinds of question a task asks, and how often.

    Raises:
        MmpeftError: No such task.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    counts = Counter(example.kind for example in TASKS[task].examples(split))
    frame = pd.DataFrame(counts.most_common(), columns=["kind", "questions"])
    return Table(frame, to_html(frame, index=False))


def sources_table() -> Table:
    """Whose pictures, photographs, facts, fonts and weights are used, under which licence."""
    with (files("mmpeft") / "data" / "sources.csv").open(encoding="utf-8") as file:
        frame = pd.read_csv(file, keep_default_na=False)
    used = {source: [t.name for t in MINI.values() if source in t.sources] for source in frame["name"]}
    linked = [_link(name, url) for name, url in zip(frame["name"], frame["url"], strict=True)]
    tasks = [", ".join(used[name]) for name in frame["name"]]
    shown = frame.drop(columns="url").assign(name=linked, tasks=tasks)
    return Table(frame, to_html(shown, index=False))


def _link(name: str, url: str) -> str:
    return f'<a href="{escape(url)}">{escape(name)}</a>' if url else escape(name)
