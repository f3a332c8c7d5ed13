"""The real datasets as a reader needs them: sizes, licences, places, wordings; nothing is downloaded."""

import re
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from mmpeft.errors import unknown
from mmpeft.real.places import Folder
from mmpeft.real.task import DEV_RATIO, RealTask
from mmpeft.study.report import DASH, Table, to_html
from mmpeft.tasks import REAL


def datasets_of_the_study() -> list[RealTask]:
    """Each dataset once, in its first wording."""
    return list({task.dataset: task for task in reversed(REAL.values())}.values())[::-1]


def size(task: RealTask, split: str) -> str:
    """How many examples a split has, in words: all the authors have, a draw, or its part of train."""
    if split not in task.splits:
        return DASH
    of_train = task.dev_from_train and split in ("train", "dev")
    whole = task.sizes.get("train" if of_train else split)
    if of_train and whole:
        whole = round(whole * (DEV_RATIO if split == "dev" else 1 - DEV_RATIO))
    about = "about " if of_train else ""
    drawn = task.draw.get(split)
    if drawn and (whole is None or drawn < whole):
        return f"{drawn:,} drawn" + (f" of {about}{whole:,}" if whole else "")
    return f"{about}{whole:,}" if whole else "all"


def size_table() -> Table:
    """One row a dataset: its splits, its metric, its licence and its home, to which its name leads on the page."""
    rows = [
        {
            "dataset": task.dataset,
            "in the paper": "evaluation" if task.evaluation_only else "seen" if task.seen else "unseen",
            **{split: size(task, split) for split in ("train", "dev", "test")},
            "metric": task.metric,
            "licence": task.licence,
            "home": task.homepage,
        }
        for task in datasets_of_the_study()
    ]
    links = [f'<a href="{escape(str(row["home"]))}">{row["dataset"]}</a>' for row in rows]
    frame = pd.DataFrame(rows)
    return Table(frame, to_html(frame.drop(columns="home").assign(dataset=links), index=False, fitted=True))


def place_table() -> Table:
    """One row a dataset: its repositories on the hub in the order in which they are tried, and the authors' files."""
    rows = []
    for task in datasets_of_the_study():
        places = [place for split in task.places.values() for place in split]
        names = (place.name.partition(":")[0] for place in places if not isinstance(place, Folder))
        hub = dict.fromkeys(re.sub(r"@([0-9a-f]{7})[0-9a-f]{33}$", r"@\1", name) for name in names)
        missing = [split for split, there in task.places.items() if all(isinstance(place, Folder) for place in there)]
        note = f" (not {', '.join(missing)})" if hub and missing else ""
        named = (", ".join(hub) or DASH) + note
        rows.append({"dataset": task.dataset, "hub, in this order": named, "authors' files": task.official})
    return _table(rows)


def wording_table(dataset: str = "") -> Table:
    """One row a task: its prompt, with the places of the question and the choices marked.

    Args:
        dataset: Only the wordings of this one; empty means all.

    Raises:
        MmpeftError: There is no dataset of this name.
    """
    names = {task.dataset for task in REAL.values()}
    if dataset and dataset not in names:
        raise unknown("dataset", dataset, names)
    return _table(
        [
            {"task": task.name, "prompt": task.prompts[task.wording].replace("\n", " ⏎ "), "longest answer": task.max_new_tokens}
            for task in REAL.values()
            if dataset in ("", task.dataset)
        ]
    )


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    frame = pd.DataFrame(rows)
    return Table(frame, to_html(frame, index=False, fitted=True))
