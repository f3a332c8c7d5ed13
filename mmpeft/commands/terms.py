"""What commands share: their options, their exit codes, how they print."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mmpeft.plan import Question
    from mmpeft.records import Store

NO, MISTAKE = 1, 2
"""Exit codes: the answer is no; the question was wrong."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

QuestionName = Annotated[
    str | None, typer.Argument(metavar="QUESTION", help="A file of params/ without its ending, or the path of a YAML file.")
]
Scale = Annotated[str | None, typer.Option(help="A file of params/scales; by default the question's own.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of the records; by default the scale's.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local processes; by default one a core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_store(asked: "Question", folder: Path | None) -> "Store":
    """The store in the folder, or in the question's own."""
    from mmpeft.records import Store

    return Store(folder if folder is not None else asked.store_folder())


def print_json(content: Any) -> None:
    """Print it as JSON that people can read."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
