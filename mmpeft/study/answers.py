"""Questions with what each method answered, right and wrong marked: from stored answers of one seed, the same at each build.

disputed(results, store)   where the methods of a question disagree most, and where all are right or all are wrong
forgotten(tracks)          what the base knew before training on something else, and who has lost it
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

import numpy as np

from mmpeft.errors import MmpeftError
from mmpeft.records import Store
from mmpeft.study.comparison import CONNECTOR_SAID, FULL_MARKS, Results, Variant, full_marks
from mmpeft.study.gallery import image_tag
from mmpeft.study.tracks import GROUPS, Tracks, places
from mmpeft.task import Example
from mmpeft.tasks import TASKS

MARKS = {"right": "✓", "partly right": "≈", "wrong": "✗"}
"""A sign before each answer, so that no color is needed."""


@dataclass(frozen=True)
class Asked:
    """A question with the answers to it.

    Attributes:
        task: Of which task.
        example: The question.
        said: (who, answer, score as a share of the most it can be), in the order of tables.
    """

    task: str
    example: Example
    said: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Answers:
    """Questions with the answers to them.

    Attributes:
        asked: What is shown; may be none.
        note: Whose answers these are.
    """

    asked: tuple[Asked, ...]
    note: str = ""

    def _repr_html_(self) -> str:
        if not self.asked:
            return "<p>No answers are there yet.</p>"
        return f'<p>{escape(self.note)}</p><div class="gallery">{"".join(map(_card, self.asked))}</div>'

    def __repr__(self) -> str:
        lines = [f"{who}: {marked(score)} {text}" for one in self.asked for who, text, score in one.said]
        return "\n".join([self.note, *lines])


def marked(score: float) -> str:
    """``right``, ``partly right`` or ``wrong``."""
    return "right" if score >= 1 else "partly right" if score > 0 else "wrong"


def _card(one: Asked) -> str:
    image = image_tag(TASKS[one.task], one.example.picture_id, f"picture for the question: {one.example.prompt}")
    lines = "<br>".join(
        f'<span title="{marked(score)}">{MARKS[marked(score)]}</span> <small>{escape(who)}</small> {escape(text) or "…"}'
        for who, text, score in one.said
    )
    column = f"<small>{escape(TASKS[one.task].column)}</small>"
    asked = f"{escape(one.example.prompt)}<br><b>{escape(one.example.answer)}</b>"
    return f"<figure>{image}<figcaption>{column}<br>{asked}<br>{lines}</figcaption></figure>"


@cache
def _examples(task: str) -> dict[str, Example]:
    """The questions by id; none of a dataset that is not on this machine."""
    splits = [split for split in ("dev", "test") if TASKS[task].at_hand(split)]
    return {example.example_id: example for split in splits for example in TASKS[task].examples(split)}


def _picked(asked: Sequence[Asked], n: int, worth: Callable[[Asked], float]) -> list[Asked]:
    """The ``n`` questions of most worth, in turn from each task, the first ones where they are equal; none worth nothing."""
    queues = [
        sorted((one for one in asked if one.task == task and worth(one) > 0), key=worth, reverse=True)
        for task in dict.fromkeys(one.task for one in asked)
    ]
    in_turn = [queue[place] for place in range(n) for queue in queues if place < len(queue)]
    return in_turn[:n]


# --------------------------------------------------------------------------------------------------
# Where methods disagree
# --------------------------------------------------------------------------------------------------


def disputed(results: Results, store: Store, n: int = 8, connector: str = "tuned") -> Answers:
    """Questions of unseen tasks with the answers of each method at the plan's first seed, beside those without a method.

    Half are those where the methods' scores differ most. The rest are such that all methods are wrong or all are right, as
    many of each as there are. Captions are left out: they are neither right nor wrong.

    Args:
        results: From comparison.read.
        store: Where the answers are.
        n: How many questions.
        connector: Which rows of the methods, ``frozen`` or ``tuned``.
    """
    rows = [row for row in results.variants if row.label in CONNECTOR_SAID or row.connector == connector]
    seed = results.question.seeds[0]
    tasks = [task for task in results.tasks("unseen") if TASKS[task].metric not in FULL_MARKS]
    asked = [one for task in tasks for one in _asked(store, results, rows, task, seed)]
    chosen = _picked(asked, (n + 1) // 2, lambda one: float(np.std(_of_methods(one))))
    for end in (0, 1):  # all wrong, then all right
        share = n - len(chosen) if end else (n - len(chosen)) // 2
        chosen += _picked(asked, share, lambda one, end=end: float(all(s == end for s in _of_methods(one))))  # type: ignore[misc]
    return Answers(tuple(chosen), f"Answers of seed {seed}, the methods with the connector {connector}.")


def _of_methods(one: Asked) -> list[float]:
    return [score for who, _, score in one.said if who not in CONNECTOR_SAID] or [0.5]


def _asked(store: Store, results: Results, rows: Iterable[Variant], task: str, seed: int) -> list[Asked]:
    """The questions of a task with every row's answer; none unless each row that is planned has left its answers."""
    said: dict[str, Mapping[str, tuple[str, float]]] = {}
    for row in rows:
        runs = [run for run in results.variants[row] if run.spec.task == task]
        run = next((run for run in runs if run.spec.seed == seed or not run.spec.method.trains), None)
        answers = _answers(store, run.run_id, task) if run else {}
        if not answers:
            return []
        said[row.label] = answers
    known = _examples(task)
    ids = [name for name in next(iter(said.values()), {}) if name in known and all(name in each for each in said.values())]
    return [Asked(task, known[name], tuple((who, *each[name]) for who, each in said.items())) for name in ids]


def _answers(store: Store, run_id: str, task: str) -> Mapping[str, tuple[str, float]]:
    record = store.load(run_id)
    if record is None or record.status != "ok":
        return {}
    try:
        lines = store.predictions(run_id)
    except MmpeftError:
        return {}  # set aside by the store: the run counts as missing
    columns = (lines[name] for name in ("example_id", "prediction", "score"))
    return {name: (text, score / full_marks(task)) for name, text, score in zip(*columns, strict=True)}


# --------------------------------------------------------------------------------------------------
# What is forgotten
# --------------------------------------------------------------------------------------------------


def forgotten(tracks: Tracks, n: int = 6, moment: int | str = "last") -> Answers:
    """Questions of the base's own tasks that it answered right, and what each method answers after training on another task.

    Half are those that most methods have lost, half those that all have kept, as far as there are such. One source, one seed.

    Args:
        tracks: From tracks.read.
        n: How many questions.
        moment: An epoch, or a name of one.
    """
    base = tracks.base
    for source in tracks.sources:
        tasks = [task for task in tracks.asked if task != source and GROUPS["seen"](task, tracks.sources)]
        rows = [row for row in tracks.trained if all((row, source, task) in tracks.found for task in tasks)]
        if base is None or not rows or not tasks or any((base, source, task) not in tracks.found for task in tasks):
            continue
        asked = [one for task in tasks for one in _before_and_after(tracks, source, task, [base, *rows], moment)]
        known = [one for one in asked if one.said[0][2] >= 1]
        chosen = _picked(known, (n + 1) // 2, lambda one: float(sum(score == 0 for *_, score in one.said)))
        kept = _picked(known, n - len(chosen), lambda one: float(all(score >= 1 for *_, score in one.said)))
        seed = tracks.found[rows[0], source, tasks[0]].seeds[0]
        return Answers((*chosen, *kept), f"After training on {TASKS[source].column}, seed {seed}, epoch: {moment}.")
    return Answers(())


def _before_and_after(tracks: Tracks, source: str, task: str, rows: Sequence[Variant], moment: int | str) -> list[Asked]:
    found = {row: tracks.found[row, source, task] for row in rows}
    at = {row: int(places(track, moment)[0]) for row, track in found.items()}
    known = _examples(task)
    return [
        Asked(
            task,
            known[name],
            tuple((row.label, str(t.answers[0, at[row], i]), float(t.scores[0, at[row], i])) for row, t in found.items()),
        )
        for i, name in enumerate(next(iter(found.values())).examples)
        if name in known
    ]
