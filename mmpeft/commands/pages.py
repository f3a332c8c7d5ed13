"""The commands about what a reader sees: claims, notebook, book."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mmpeft.commands.terms import AsJson, Scale, StoreFolder, err, out, print_json


def claims(scale: Scale = None, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """Each claim of the paper with its verdict: supported, contradicted (and why) or undecided by the recorded runs."""
    from mmpeft.study.ledger import MARKS, counts, judged

    with err.status("reading every record, and drawing intervals: about a minute"):  # on a terminal alone
        found = judged(scale, None if store is None else str(store))
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    table = Table("verdict", "claim", "runs", "scale", box=None, pad_edge=False)
    for one in found:
        runs = f"{len(one.run_ids)} of {one.num_planned}"
        table.add_row(f"{MARKS[one.verdict]} {one.in_words}", one.claim.claim, runs, one.scale)
    out.print(table)
    out.print(", ".join(f"{number} {verdict}" for verdict, number in counts(found).items()))


def notebook(
    name: Annotated[str, typer.Argument(help="A notebook of notebooks/ without its ending.")],
    files: Annotated[
        list[Path] | None,
        typer.Option("-f", "--parameters", help="YAML file of parameters; later files win. Repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the executed notebook goes; by default into the book.")
    ] = None,
) -> None:
    """Execute a notebook with parameters, as papermill does, and refuse a parameter that it does not have."""
    from mmpeft.book import notebook as execute

    out.print(execute(name, files or [], to), soft_wrap=True)
    if files and to is None:
        out.print("this is the book's page now; `mmpeft book` makes its own again, --out FILE leaves it alone", soft_wrap=True)


def book(
    scale: Scale = None,
    store: StoreFolder = None,
    execute: Annotated[bool, typer.Option("--execute/--no-execute", help="Whether to execute the notebooks first.")] = True,
) -> None:
    """Execute the notebooks from the records and build the book; prints what it holds and where its first page is."""
    from mmpeft.book import build

    built = build(store, execute, scale)
    out.print(str(built), soft_wrap=True)
    out.print(built.page, soft_wrap=True)
