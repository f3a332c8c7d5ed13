"""Notebooks through papermill, and the book from what they became.

    notebooks/<name>.ipynb ─ papermill ─► book/_executed/<name>.ipynb ─ jupyter-book, execution off ─► book/_build/html

A notebook reaches the book only if its last cell ran. What papermill writes is no proof (after a timeout or a dead
kernel every cell reads "completed"), so the exception decides, and the file moves into place after it did not come.
The book is built with warnings as errors and without asking anything from the network.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpeft.errors import MmpeftError, unknown
from mmpeft.plan import Question, load_question, params_folder, project_root, questions, read_yaml, scale_file
from mmpeft.registry import DATA

TIMEOUT_SECONDS = 1800
WIDGET = "application/vnd.jupyter.widget-view+json"
MODEL = "tiny-llava"
DOWNLOADS = ("runs.csv", "runs.parquet")
FIGURE = '<span class="caption-number">Fig.'


def root() -> Path:
    """The clone of the project.

    Raises:
        MmpeftError: There is none: an installed package holds neither notebooks nor book.
    """
    found = project_root()
    if found is None:
        raise MmpeftError("notebooks, book: not part of the installed package; run this inside a clone of the project.")
    return found


def notebooks() -> list[str]:
    """The names of the notebooks there are."""
    return sorted(path.stem for path in (root() / "notebooks").glob("*.ipynb"))


# --------------------------------------------------------------------------------------------------
# One notebook
# --------------------------------------------------------------------------------------------------


def notebook(
    name: str,
    params: Sequence[str | Path] = (),
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Where the executed notebook lies.

    Args:
        name: A file of ``notebooks`` without its ending.
        params: YAML files; later ones win, key by key.
        out: Where it goes; by default into the book.
        overrides: Parameters that win over all files.

    Raises:
        MmpeftError: No such notebook or parameter, or a cell failed.
    """
    path = root() / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise unknown("notebook", name, notebooks())
    parameters = _checked(path, params, overrides or {})
    out = Path(out) if out else root() / "book" / "_executed" / f"{name}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".unfinished.{out.name}")  # in the same folder, so that the move is one step
    _execute(path, temporary, parameters)
    _tidy(temporary, name)
    temporary.replace(out)
    return out


def _checked(path: Path, files: Sequence[str | Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, each of which the notebook has; papermill itself would only warn."""
    from papermill import inspect_notebook

    given: dict[str, Any] = {}
    for file in files:
        given |= read_yaml(Path(file))
    given |= overrides
    known = inspect_notebook(str(path))
    for parameter in given:
        if parameter not in known:
            raise unknown(f"parameter of notebook {path.stem}", parameter, known)
    if "question" in known:
        Question.from_parameters(_literals(path) | given)
    return given


def _literals(path: Path) -> dict[str, Any]:
    """The notebook's own parameters: the literals of its tagged cell."""
    import ast

    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())), "")
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    return {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in lines}


def _execute(path: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Run it with this Python, in the project's folder, from a kernel that nobody else talks to.

    Raises:
        MmpeftError: A cell raised, the kernel died, or the time was up.
    """
    import nbformat
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    nbformat.validate(nbformat.read(path, as_version=4))
    try:
        with private_kernels() as kernels:
            execute_notebook(
                str(path),
                str(out),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(root()),
                progress_bar=False,
                execution_timeout=TIMEOUT_SECONDS,
                kernel_manager_class=kernels,
                extra_arguments=["--log-level=CRITICAL"],  # a kernel is interrupted when it ends, and would say so
            )
    except PapermillExecutionError as error:
        if error.ename == MmpeftError.__name__:
            raise MmpeftError(f"notebook {path.stem}: {error.evalue}") from None
        where = f"notebook {path.stem}, cell {error.exec_count}"
        raise MmpeftError(f"{where}: {error.ename}: {error.evalue}; see {out}") from error
    except CellTimeoutError as error:
        raise MmpeftError(f"notebook {path.stem}: a cell ran longer than {TIMEOUT_SECONDS} s.") from error
    except DeadKernelError as error:
        raise MmpeftError(f"notebook {path.stem}: its kernel died (out of memory?).") from error


@contextmanager
def private_kernels() -> Iterator[type]:
    """A manager whose kernels are reached through files in a folder of its own, which nobody else can take or read."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    # Addresses of this kind are short by law (some 100 characters), so not under a long $TMPDIR if it can be helped.
    with tempfile.TemporaryDirectory(prefix="kernel-", dir="/tmp" if os.path.isdir("/tmp") else None) as folder:

        class PrivateKernelManager(AsyncKernelManager):
            transport = "ipc"

            @default("connection_file")
            def _file_in_the_folder(self) -> str:
                return str(Path(folder) / "kernel.json")

        yield PrivateKernelManager


def _tidy(path: Path, name: str) -> None:
    """Fold the cell that papermill wrote; drop what it noted about this machine, and bars that need a kernel.

    A figure's label gets the notebook's name before it, so that a copied notebook is a page of its own. What a page comes to
    stands on it before its parameters.
    """
    import nbformat

    document = nbformat.read(path, as_version=4)
    document.metadata = {k: v for k, v in document.metadata.items() if k not in ("papermill", "widgets")}
    document.cells = _summary_first(document.cells)
    for cell in document.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Show what was set for this page", "code_prompt_hide": "Hide it"}
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "name" in figure:
            figure["name"] = f"{name}-{figure['name']}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    nbformat.write(document, path)


def _summary_first(cells: list[Any]) -> list[Any]:
    """The cells tagged ``summary``, which a notebook can only make late, before the words and the cell of its parameters."""
    summary = [cell for cell in cells if "summary" in cell.metadata.get("tags", [])]
    rest = [cell for cell in cells if cell not in summary]
    tagged = (i for i, cell in enumerate(rest) if "parameters" in cell.metadata.get("tags", []))
    start = next(tagged, 1) - 1
    return [*rest[:start], *summary, *rest[start:]]


# --------------------------------------------------------------------------------------------------
# The book
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """A book that was built, counted from its files.

    Attributes:
        page: Its first page.
        warnings: What Sphinx warned of.
        seconds: How long it took, notebooks included.
    """

    page: Path
    warnings: int
    seconds: float

    @property
    def pages(self) -> int:
        """The pages of its table of contents."""
        return len(self._pages())

    @property
    def figures(self) -> int:
        """The figures that have a number."""
        return sum(path.read_text(encoding="utf-8").count(FIGURE) for path in self._pages())

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(path.stat().st_size for path in self.page.parent.rglob("*") if path.is_file())

    def _pages(self) -> list[Path]:
        html = self.page.parent
        paths = [html / f"{name}.html" for name in _contents(html.parent.parent)]
        return [path for path in paths if path.is_file()]

    def __str__(self) -> str:
        return (
            f"{self.pages} pages, {self.figures} figures, {self.size_bytes / 1e6:.1f} MB, "
            f"{self.warnings} warnings, {self.seconds:.0f} seconds"
        )


def build(
    store: str | Path | None = None,
    execute: bool = True,
    scale: str | None = None,
    folder: str | Path | None = None,
) -> Built:
    """The book, built.

    Args:
        store: Records to read instead of the questions' own.
        execute: False takes the notebooks as they were executed last.
        scale: Another scale for all questions.
        folder: A copy of ``book`` to build in, for tests; by default ``book`` itself.

    Raises:
        MmpeftError: A notebook failed, or the build gave a warning.
    """
    clock = time.perf_counter()
    place = Path(folder) if folder else root() / "book"
    names = pages() if execute else []
    with _steps(len(names) + 1) as step:
        for name in names:
            step(f"notebook {name}")
            notebook(name, *_given(name, store, scale, place / "_executed" / f"{name}.ipynb"))
        step("pages")
        _write_model_page(place / "_executed" / "model.md")
        _write_downloads(place / "_executed", store, scale)
        page, warnings = _pages(place)
    return Built(page, warnings, time.perf_counter() - clock)


def pages() -> list[str]:
    """The notebooks that are pages of the book, in the order of its table of contents."""
    names = [Path(file).name for file in _contents(root() / "book") if file.startswith("_executed/")]
    return [name for name in names if name in notebooks()]


def _contents(place: Path) -> list[str]:
    """What a book's table of contents lists, the first page first."""
    contents = read_yaml(place / "_toc.yml")
    return [contents["root"], *(chapter["file"] for part in contents.get("parts", ()) for chapter in part["chapters"])]


def _given(name: str, store: str | Path | None, scale: str | None, out: Path) -> tuple[list[Path], Path, dict[str, Any]]:
    """Parameter files, place and overrides of a page. A question only reads its records, unless they are temporary."""
    at = {"store": str(Path(store).resolve()) if store is not None else None, "scale": scale}
    if name not in questions():
        known = _literals(root() / "notebooks" / f"{name}.ipynb")
        return [], out, {key: value for key, value in at.items() if value is not None and key in known}
    files = [params_folder() / f"{name}.yaml"]
    if scale and scale != load_question(name).scale:
        files.append(scale_file(scale))
    overrides: dict[str, Any] = {} if at["store"] is None else {"store": at["store"]}
    if store is not None or Question.load(*files).store:
        overrides["allow_runs"] = False
    return files, out, overrides


def _pages(place: Path) -> tuple[Path, int]:
    """The first of the pages, now built, and how often Sphinx warned.

    Raises:
        MmpeftError: Sphinx warned; its words are in the message.
    """
    command = [sys.executable, "-c", "import sys; from jupyter_book.cli.main import main; sys.exit(main())"]
    command += ["build", str(place), "-W", "-n", "--keep-going", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    page = place / "_build" / "html" / "index.html"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    told = [line for line in lines if "WARNING" in line or "ERROR" in line]
    if done.returncode or not page.is_file():
        raise MmpeftError("the book was not built:\n" + "\n".join(told or lines[-15:]))
    return page, len(told)


def _write_downloads(folder: Path, store: str | Path | None, scale: str | None) -> None:
    """Every run with every column, for the page that lists them."""
    from mmpeft.study.export import as_table, recorded, write_table

    table = as_table(recorded(scale=scale, store=store), scale)
    for name in DOWNLOADS:
        write_table(table, folder / name)


def _write_model_page(path: Path) -> None:
    """The model card as a page of the book: the words beside the weights."""
    card = DATA / MODEL / "README.md"
    if card.is_file():
        text = _without_front_matter(card.read_text(encoding="utf-8"))
    else:
        text = f"# {MODEL}\n\nIts weights are not here yet. `python -m mmpeft base {MODEL}` makes them.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _without_front_matter(text: str) -> str:
    """The card without the block of keys that model hubs put first."""
    if text.startswith("---\n") and "\n---\n" in text[4:]:
        return text[4:].split("\n---\n", 1)[1].lstrip()
    return text


@contextmanager
def _steps(total: int) -> Iterator[Callable[[str], None]]:
    """A function that shows the name of the step now begun, and how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("book", total=total, completed=-1)
        yield lambda name: bar.update(task, description=name, advance=1)
