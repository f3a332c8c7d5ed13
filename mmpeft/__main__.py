"""The command line: ``mmpeft COMMAND`` or ``python -m mmpeft COMMAND``; ``--help`` says what there is.

A mistake in what was asked is one message on stderr and exit code 2, never a traceback. Exit code 1 means that
the command did its work and the answer is no: a run failed, an audit differs, the machine is not ready.
"""

import warnings
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from mmpeft import __version__
from mmpeft.commands.forecast import calc, plan
from mmpeft.commands.inventory import base, counts, datasets, doctor, models
from mmpeft.commands.pages import book, claims, notebook
from mmpeft.commands.runs import audit, data, export, judge, pre_step, run, status
from mmpeft.commands.terms import MISTAKE, err, out
from mmpeft.errors import MmpeftError


class _Commands(TyperGroup):
    """The commands, with a user's mistake said in one message."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with warnings.catch_warnings():
            warnings.showwarning = cast(Any, _say_warning)
            try:
                return super().invoke(ctx)
            except MmpeftError as mistake:
                err.print("[bold red]error:[/]", end=" ")
                err.print(str(mistake), markup=False, soft_wrap=True)
                raise typer.Exit(MISTAKE) from None


def _say_warning(message: Any, *_: Any) -> None:
    err.print("[yellow]warning:[/]", end=" ")
    err.print(str(message), markup=False, soft_wrap=True)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def start(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Parameter-efficient fine-tuning of multimodal language models: a study that runs on a laptop.

    [bold]params/[/] says what is compared, [bold]run[/] trains what is missing, [bold]book[/] shows what came of it.
    """
    if version:
        out.print(__version__)
        raise typer.Exit


for command in (
    *(plan, calc, pre_step, run, status, export, judge, audit, claims, notebook, book),
    *(data, datasets, models, counts, doctor, base),
):
    app.command()(command)


def main() -> None:
    """The entry point of the ``mmpeft`` command."""
    app(prog_name="mmpeft")


if __name__ == "__main__":
    main()
