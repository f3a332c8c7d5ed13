"""Every run as one table of a page, which a reader sorts, searches and filters without a network."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from itables.javascript import generate_init_offline_itables_html, to_html_datatable
from itables.utils import find_package_file

from mmpeft.methods import METHODS
from mmpeft.records import WORK_SECONDS
from mmpeft.study.comparison import full_marks
from mmpeft.study.export import as_table, recorded
from mmpeft.study.report import Prose, listed
from mmpeft.tasks import TASKS

ROWS_SHOWN = 15
DATATABLES = find_package_file("html/dt_bundle.js")
"""The table's program, which the page carries itself: a page opened as a file may load no other."""

MEASURED = ("trainable_params", "train_num_examples", "train_num_steps", "train_num_epochs", *WORK_SECONDS)
"""Columns that a table lacks while no run has them."""

HEADS, FILTERS = {"target": 0, "content": ["order"]}, {"target": 1, "content": ["search"]}
"""Above each column: arrows that sort by it, and a field that filters it, by words or by numbers."""


WORDS: dict[str, Any] = {
    "zeroRecords": "no run is like this",
    "emptyTable": "no run has left a record yet",
    "entries": {"_": "runs", "1": "run"},
}


@dataclass(frozen=True, eq=False)
class Explorer:
    """A table to sort, search and filter.

    Attributes:
        frame: One row a run, with the columns that a reader sees.
    """

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        table = to_html_datatable(
            self.frame,
            connected=False,
            table_id="runs",
            classes="display compact nowrap",
            columnControl=[HEADS, FILTERS],
            ordering={"indicators": False, "handler": True},
            layout={"topStart": "search", "topEnd": "pageLength", "bottomStart": "info", "bottomEnd": "paging"},
            pageLength=ROWS_SHOWN,
            lengthMenu=[ROWS_SHOWN, 50, 200],
            scrollX=True,
            maxBytes=0,
            showIndex=False,
            language=WORDS,
            display_logo_when_loading=False,
        )
        return f'<div class="explorer">{generate_init_offline_itables_html(DATATABLES)}{table}</div>'

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)


def runs(scale: str | None = None, store: str | None = None) -> pd.DataFrame:
    """Every run that left a record, with every column of :func:`mmpeft.study.export.as_table`.

    Args:
        scale: A scale other than the questions' own.
        store: A folder of records other than the scale's.
    """
    return as_table(recorded(scale=scale, store=store), scale)


def explore(table: pd.DataFrame) -> Explorer:
    """The columns of :func:`runs` that tell runs apart; scores in percent of the most that a metric can give."""
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *MEASURED])))
    table = table.sort_values(["task", "method", "connector", "seed"], key=_ranks, kind="stable", ignore_index=True)
    # A column in which every value is missing is one of numbers too.
    numbers = table[["score", "learning_rate", "connector_learning_rate", *WORK_SECONDS]].astype(float)
    seconds = numbers[list(WORK_SECONDS)].sum(axis=1, min_count=1)
    marks = [full_marks(task) if task in TASKS else 1.0 for task in table["task"]]
    shown = {
        "task": table["task"],
        "base has": table["seen"].map({True: "seen", False: "not seen"}),
        "method": table["label"],
        "connector": table["connector"],
        "location": table["location"],
        "size": _sizes(table),
        "trained": table["trainable_params"],
        "score": (100 * numbers["score"] / marks).round(1),
        "seed": table["seed"],
        "split": table["split"],
        "learning rate": numbers["learning_rate"].fillna(numbers["connector_learning_rate"]),
        "examples": table["train_num_examples"],
        "training": _lengths(table),
        "seconds": seconds.round(1),
        "questions": table["questions"],
        "error": table["error"],
        "run": table["run_id"],
    }
    return Explorer(pd.DataFrame({name: _blank(column) for name, column in shown.items()}))


def in_brief(table: pd.DataFrame) -> Prose:
    """How many runs there are, how they ended, how long workers had to do with them, and what is not among them."""
    if table.empty:
        return Prose("No run has left a record yet.")
    failed = int((table["status"] == "failed").sum())
    hours = table.reindex(columns=list(WORK_SECONDS)).sum().sum() / 3600
    text = f"{len(table):,} runs left a record, and {failed or 'none'} of them failed. They took {hours:.1f} hours of a worker."
    idle = int((table["questions"] == "").sum())
    if idle:
        text += f" {idle:,} of them serve no question of this scale."
    return Prose(f"{text} Models: {listed(dict.fromkeys(table['model']))}.")


def _ranks(column: pd.Series) -> pd.Series:
    """The order of a first look: methods as tables list them, the rest as it is."""
    return column.map(list(METHODS).index) if column.name == "method" else column


def _sizes(table: pd.DataFrame) -> pd.Series:
    """LoRA's rank, the Adapter's bottleneck, Prefix's tokens."""
    fields = [METHODS[name].size_field for name in table["method"]]
    sizes = [int(table[field].iloc[row]) if field else None for row, field in enumerate(fields)]
    return pd.Series(sizes, dtype="object")


def _lengths(table: pd.DataFrame) -> pd.Series:
    """How long a run trained, in the unit it was given."""
    given = zip(table["train_num_steps"], table["train_num_epochs"], strict=True)
    return pd.Series([_length(steps, "steps") or _length(epochs, "epochs") for steps, epochs in given], dtype="object")


def _length(number: float | None, unit: str) -> str:
    return "" if pd.isna(number) else f"{number:g} {unit}"


def _blank(column: pd.Series) -> pd.Series:
    """The column with nothing where a value is missing: «nan» would make words of numbers."""
    return column.astype("object").where(column.notna(), "")
