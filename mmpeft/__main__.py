"""The command line: ``mmpeft COMMAND`` or ``python -m mmpeft COMMAND``; ``--help`` says what there is.

A mistake in what was asked is one message on stderr and exit code 2, never a traceback. Exit code 1 means that
the command did its work and the answer is no: a run failed, an audit differs, the machine is not ready.
"""

import json
import os
import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from mmpeft import __version__
from mmpeft.errors import MmpeftError, unknown
from mmpeft.forecast import calc, plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mmpeft.audit import Audit
    from mmpeft.cluster import Cluster
    from mmpeft.execute import RunFunction
    from mmpeft.plan import Question
    from mmpeft.real.overlap import Overlap
    from mmpeft.records import Record, Store

NO, MISTAKE = 1, 2
"""Exit codes: the answer is no; the question was wrong."""

ALL = "all questions"
"""Where status counts a run once, however many questions need it."""
ENGINES = ("local", "ray")

LEVELS = {"ok": "green", "warning": "yellow", "failed": "red"}

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


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

QuestionName = Annotated[
    str | None, typer.Argument(metavar="QUESTION", help="A file of params/ without its ending, or the path of a YAML file.")
]
Scale = Annotated[str | None, typer.Option(help="A file of params/scales; by default the question's own.")]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of the records; by default the scale's.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local processes; by default one a core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.callback(invoke_without_command=True)
def start(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Parameter-efficient fine-tuning of multimodal language models: a study that runs on a laptop.

    [bold]params/[/] says what is compared, [bold]run[/] trains what is missing, [bold]book[/] shows what came of it.
    """
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command()
def run(
    question: QuestionName = None,
    every: Annotated[bool, typer.Option("--all", help="Every question of params/.")] = False,
    scale: Scale = None,
    store: StoreFolder = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Local processes; by default as the scale says.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many runs.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Make failed runs again.")] = False,
    engine: Annotated[str, typer.Option(help="Where runs are made: local, or ray, a cluster.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster; auto: the one this machine belongs to.")] = "auto",
    gpus_per_run: Annotated[float, typer.Option(min=0, help="GPUs that Ray keeps for a run; 0.5: two runs on one.")] = 0.0,
    cores_per_run: Annotated[float, typer.Option(min=0, help="Cores that Ray keeps for a run.")] = 1.0,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes that make one run together, one a GPU.")] = None,
    accelerate: Annotated[str | None, typer.Option(help="ddp, fsdp, zero2, zero3, or a path.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between two checkpoints of a run.")] = None,
) -> None:
    """Train and evaluate what is missing; each run leaves one record.

    Safe to stop and to start again at any moment, and to start several times on one store: no run is made twice.
    """
    from mmpeft.cluster import Cluster
    from mmpeft.execute import RUN
    from mmpeft.launch import Launch, configuration
    from mmpeft.plan import load_question, questions

    if every == (question is not None):
        raise MmpeftError(f"run: name one question, or --all for all of them ({', '.join(questions())}).")
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    cluster = Cluster(address, gpus_per_run, cores_per_run) if engine == "ray" else None
    settings = (processes, configuration(accelerate) if accelerate else None, checkpoint_every)
    failed = 0
    for name in questions() if question is None else [question]:
        asked = load_question(name, scale)
        records = _store(asked, store)
        how = RUN if settings == (None, None, None) else Launch(records.path.resolve(), *settings)
        failed += _run(asked, records, workers or asked.workers, limit, retry_failed, cluster, how)
        if store is None and not asked.store:
            _print_scores(records, asked)
    if failed:
        raise typer.Exit(NO)


def _run(
    asked: "Question",
    store: "Store",
    workers: int,
    limit: int | None,
    retry_failed: bool,
    cluster: "Cluster | None",
    how: "RunFunction | str",
) -> int:
    """How many of the question's runs are failed after this call."""
    from mmpeft.execute import run_missing
    from mmpeft.pictures import prepare_features

    planned = asked.planned()
    due = store.missing(planned) + (store.failed(planned) if retry_failed else [])
    due = due if limit is None else due[:limit]
    if due:
        if cluster is None:  # a cluster's machines compute what they lack themselves
            prepare_features(due, workers)
        run_missing(due, store, workers, retry_failed=retry_failed, engine=cluster, run=how)
    records = store.records(planned)
    counts = _counts(planned, records)
    _print_status({asked.question: counts})
    _print_failures(records)
    return int(counts["failed"])


def _print_scores(store: "Store", asked: "Question") -> None:
    """What a scale without a store leaves: its scores, since its records are gone in a moment."""
    table = Table("task", "method", "connector", "seed", "score", box=None, pad_edge=False)
    for row in store.collect(asked.planned()).to_dict("records"):
        score = f"{row['score']:.3f}" if row["status"] == "ok" else "failed"
        table.add_row(row["task"], row["label"], row["connector"], str(row["seed"]), score)
    out.print(table)
    out.print("this scale keeps no records; --store FOLDER does", style="dim")


def _store(asked: "Question", folder: Path | None) -> "Store":
    from mmpeft.records import Store

    return Store(folder if folder is not None else asked.store_folder())


@app.command()
def status(question: QuestionName = None, scale: Scale = None, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """How far a question is (without a name: every question): planned, done, failed, hours that workers spent.

    Questions share runs; the line for all of them counts each run once.
    """
    from mmpeft.plan import load_question, questions

    planned: dict[str, set[tuple[str, str]]] = {}
    records: dict[tuple[str, str], Record] = {}
    for name in questions() if question is None else [question]:
        asked = load_question(name, scale)
        kept, runs = _store(asked, store), asked.planned()
        planned[asked.question] = {(str(kept.path), run.run_id) for run in runs}
        records |= {(str(kept.path), record.run_id): record for record in kept.records(runs)}
    if question is None:
        planned[ALL] = set().union(*planned.values())
    found = {name: _counts(runs, [records[run] for run in runs if run in records]) for name, runs in planned.items()}
    if as_json:
        _print_json(found)
        return
    _print_status(found)
    _print_failures(records.values())


def _counts(planned: "Collection[Any]", records: "Collection[Record]") -> dict[str, float]:
    """``{planned, done, failed, worker_hours}``."""
    from mmpeft.records import worker_hours

    states = [record.status for record in records]
    counts = {"planned": len(planned), "done": states.count("ok"), "failed": states.count("failed")}
    return {**counts, "worker_hours": round(worker_hours(records), 3)}


def _print_status(found: dict[str, dict[str, float]]) -> None:
    total = found.get(ALL)
    table = Table("question", "planned", "done", "failed", "worker-hours", box=None, pad_edge=False)
    for name in [name for name in found if name != ALL]:
        counts = found[name]
        table.add_row(name, *(str(counts[key]) for key in ("planned", "done", "failed")), f"{counts['worker_hours']:.1f}")
    out.print(table)
    if total:
        hours = f"{total['worker_hours']:.1f} worker-hours"
        out.print(f"{ALL}: {total['planned']} runs, {total['done']} done, {total['failed']} failed, {hours}", soft_wrap=True)


def _print_failures(records: "Iterable[Record]") -> None:
    for record in records:
        if record.status == "failed":
            where = f"{record.spec.task}, {record.spec.method.label}"
            out.print(f"failed: {record.run_id} ({where}): {record.error}", markup=False, soft_wrap=True)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    question: Annotated[str | None, typer.Option(help="Only the runs of this question; by default every record.")] = None,
    form: Annotated[
        str, typer.Option("--format", help="peft (a JSON file a run, as its comparison of methods reads them), csv or parquet.")
    ] = "peft",
    scale: Scale = None,
    store: StoreFolder = None,
) -> None:
    """Write the recorded runs, failed ones included, to files for other programs."""
    from mmpeft.study.export import export as write

    paths = write(folder, form, question, scale, store)
    out.print(f"{len(paths)} files below {folder}" if len(paths) > 1 else paths[0], soft_wrap=True)


@app.command()
def audit(
    question: QuestionName = None,
    scale: Scale = None,
    sample: Annotated[int, typer.Option(min=1, help="How many recorded runs to make again.")] = 6,
    seed: Annotated[int | None, typer.Option(min=0, help="Draws the sample; by default another each time.")] = None,
    store: StoreFolder = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Make a random sample of recorded runs again and compare them with their records.

    Without a question, any record of the store may be drawn. Exit code 1 if one is not reproduced.
    """
    from mmpeft.audit import audit as make_audit
    from mmpeft.plan import load_question, questions

    asked = load_question(question or questions()[0], scale)
    planned = None if question is None else asked.planned()
    seed = random.SystemRandom().randrange(100_000) if seed is None else seed
    records, workers = _store(asked, store), workers or _cores()
    found = make_audit(records, planned, num_runs=sample, seed=seed, workers=workers, progress=not as_json)
    if as_json:
        _print_json(found.to_dict())
    else:
        _print_audit(found)
    if not found.passed:
        raise typer.Exit(NO)


def _print_audit(found: "Audit") -> None:
    for one in found.comparisons:
        mark = "[green]same[/]" if one.exact else "[yellow]close[/]" if one.reproduced else "[red]differs[/]"
        out.print(f"{mark}  {one.run_id}  {one.name}", soft_wrap=True)
        for difference in one.differences:
            out.print(f"       {difference}", markup=False, soft_wrap=True)
    if found.num_outdated:
        out.print(f"{found.num_outdated} records are of an earlier base or task and were not drawn from", style="dim")
    limits = ", ".join(f"{name} ± {limit:g}" for name, limit in found.tolerances.items())
    out.print(f"sample of {len(found.comparisons)} from {found.num_candidates} records, seed {found.seed}; tolerance: {limits}")
    out.print(found.verdict, style="bold green" if found.passed else "bold red")


@app.command()
def claims(scale: Scale = None, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """Each claim of the paper with its verdict: supported, contradicted or undecided by the recorded runs."""
    from mmpeft.study.ledger import MARKS, counts, judged

    found = judged(scale, None if store is None else str(store))
    if as_json:
        _print_json([one.to_dict() for one in found])
        return
    table = Table("verdict", "claim", "runs", "scale", box=None, pad_edge=False)
    for one in found:
        runs = f"{len(one.run_ids)} of {one.num_planned}"
        table.add_row(f"{MARKS[one.verdict]} {one.verdict}", one.claim.claim, runs, one.scale)
    out.print(table)
    out.print(", ".join(f"{number} {verdict}" for verdict, number in counts(found).items()))


@app.command()
def data(question: QuestionName = None, scale: Scale = None, workers: Workers = None) -> None:
    """Compute the vision features that a question needs (without a name: every question), ahead of its runs.

    They are kept in the user's cache folder, or in $MMPEFT_CACHE; a damaged file is computed again.
    """
    from mmpeft.pictures import prepare_features
    from mmpeft.plan import load_question, questions

    names = questions() if question is None else [question]
    planned = [one for name in names for one in load_question(name, scale).planned()]
    num_computed = prepare_features(planned, workers or _cores())
    out.print(f"{num_computed} pictures computed; the cache holds what {', '.join(names)} needs")


@app.command()
def datasets(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Real datasets; none lists them all.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the first example as a model sees it.")] = False,
    overlap: Annotated[bool, typer.Option("--overlap", help="Look for pictures that their splits share.")] = False,
    model: Annotated[str, typer.Option(help="The model that --show asks.")] = "toy",
) -> None:
    """Download real datasets to the shelf in the cache folder, once, and say what was drawn; see the page on datasets.

    A folder named by $MMPEFT_DATA goes before the network: copies of hub repositories, or the authors' own files.
    """
    from mmpeft.real.overlap import overlaps
    from mmpeft.tasks import REAL

    if bad := [name for name in names or [] if name not in REAL]:
        raise unknown("dataset", bad[0], REAL)
    if not names:
        table = Table("name", "stands in column", "metric", "licence", box=None, pad_edge=False)
        for task in REAL.values():
            table.add_row(task.name, task.column, task.metric, task.licence)
        out.print(table)
        return
    chosen = [REAL[name] for name in names]
    for task in chosen:
        for split in task.splits:
            found = task.split(split).manifest
            drawn = f", drawn {found.drawn}" if found.drawn else ""
            sizes = f"{found.num_examples} examples of {found.num_pictures} pictures{drawn}"
            out.print(f"{task.name} {split}: {sizes}; {found.place}; ids {found.ids_sha256[:16]}", markup=False, soft_wrap=True)
        if show:
            from mmpeft.seen import first_example

            seen = first_example(task, model, task.splits[0])
            size = " × ".join(map(str, seen.picture))
            out.print(f"  {seen.example_id}, {size} pixels, {seen.num_tokens} tokens, {seen.num_unknown} unknown", markup=False)
            out.print(f"  in:     {seen.text!r}\n  labels: {seen.labels!r}", markup=False, soft_wrap=True)
    if overlap:
        _print_overlaps(overlaps(chosen))


def _print_overlaps(found: "list[Overlap]") -> None:
    """The pairs that share a picture; exit code 1 if there is one."""
    shared = [one for one in found if one.shared]
    table = Table("split", "and", "pictures by id", "by file", "of", box=None, pad_edge=False)
    for one in shared:
        table.add_row(one.first, one.second, str(one.by_id), str(one.by_bytes), str(one.num_second))
    if shared:
        out.print(table)
    out.print(f"{len(shared)} of {len(found)} pairs of splits share a picture")
    if shared:
        raise typer.Exit(NO)


@app.command()
def models(as_json: AsJson = False) -> None:
    """The models of the study: where each comes from, its licence, what it cannot take and why."""
    from mmpeft.models import MODELS, Hub

    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "about": model.about,
            "kind": model.entry.kind,
            "source": model.source.place if isinstance(model.source, Hub) else "this package",
            "licence": model.source.licence if isinstance(model.source, Hub) else "Apache-2.0",
            "gated": isinstance(model.source, Hub) and model.source.gated,
            "image_tokens": model.num_image_tokens,
            "needs": list(model.needs),
            "refused": dict(model.entry.refused),
        }
        for name, model in MODELS.items()
    ]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        terms = f"{row['licence']}{', gated' if row['gated'] else ''}"
        out.print(f"{row['model']:<21} {row['source']:<55} {row['image_tokens']:>5} image tokens  {terms}", soft_wrap=True)
    for row in rows:
        for method, reason in row["refused"].items():
            out.print(f"refused: {method} on {row['model']}: {reason}", markup=False, soft_wrap=True)


@app.command()
def counts(
    model: Annotated[str, typer.Option(help="A model of `mmpeft models`.")] = "llava-1.5-7b",
    every_size: Annotated[bool, typer.Option("--every-size", help="All sizes that the paper tries.")] = False,
    as_json: AsJson = False,
) -> None:
    """How many parameters each method trains on a model at its full size, without its weights.

    Percentages are of the base and what is kept, as in the paper's Table 15; what is printed there stands beside the count that
    gives it.
    """
    from dataclasses import asdict

    from mmpeft.counts import rows, sizes, unmet

    found, counted = sizes(model), rows(model, every_size)
    if as_json:
        _print_json({"model": model, "sizes": asdict(found), "counts": counted})
        return
    parts = {"language model": found.language_model, "connector": found.connector, "vision encoder": found.vision_encoder}
    said = ", ".join(f"{name} {value:,}" for name, value in parts.items())
    out.print(f"{model}: {found.total:,} parameters: {said}", soft_wrap=True)
    table = Table("method", "location", "trained", "kept", "frozen %", "tuned %", box=None, pad_edge=False)
    for row in counted:
        name = " ".join(filter(None, (row["method"], str(row["size"] or ""), row["layout"].split(":")[0])))
        percents = (f"{row[f'percent{c}']:.3f}{'*' if row[f'printed{c}'] else ''}" for c in ("", "_tuned"))
        table.add_row(name, row["location"], f"{row['trained']:,}", f"{row['kept']:,}", *percents)
    out.print(table)
    if any(row["printed"] or row["printed_tuned"] for row in counted):
        out.print("* as printed in the paper's Table 15")
    for method, connector, value, nearest in unmet(model):
        out.print(f"printed there as {value}, counted {nearest:.5f}: {method} with a {connector} connector", soft_wrap=True)


@app.command()
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


@app.command()
def book(
    scale: Scale = None,
    store: StoreFolder = None,
    execute: Annotated[bool, typer.Option("--execute/--no-execute", help="Whether to execute the notebooks first.")] = True,
) -> None:
    """Execute the notebooks from the records and build the book; prints what it holds and where its first page is."""
    from mmpeft.book import build

    built = build(store, execute, scale)
    out.print(built, soft_wrap=True)
    out.print(built.page, soft_wrap=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check whether this machine can run the study, and say what to do where it cannot."""
    from dataclasses import asdict

    from mmpeft.doctor import diagnose

    checks = diagnose()
    bad = [check for check in checks if check.level == "failed"]
    if as_json:
        _print_json({"ok": not bad, "checks": [asdict(check) for check in checks]})
    else:
        table = Table("check", "", "found", "what to do", box=None, pad_edge=False)
        for check in checks:
            table.add_row(check.name, f"[{LEVELS[check.level]}]{check.level}[/]", check.found, check.remedy)
        out.print(table)
        out.print("this machine is not ready" if bad else "this machine is ready", style="bold red" if bad else "bold green")
    if bad:
        raise typer.Exit(NO)


@app.command()
def base(
    name: Annotated[str, typer.Argument(help="The base to make.")] = "tiny-llava",
    to: Annotated[Path | None, typer.Option("--out", help="Its folder; by default the package's own.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make it anew though the package has one.")] = False,
) -> None:
    """Make a base model from nothing: about an hour on two cores.

    Another base has another fingerprint, and every record names the fingerprint of its base: runs of the
    packaged one no longer count for it.
    """
    from mmpeft.registry import DATA

    makers = ("tiny-llava",)
    if name not in makers:
        raise unknown("base", name, makers)
    folder = to if to is not None else DATA / name
    if (folder / "model.safetensors").exists() and not replace:
        raise MmpeftError(f"{folder} holds a base already; give another folder (--out FOLDER) or say --replace.")
    from mmpeft.mini.base import make

    make(folder)
    out.print(folder, soft_wrap=True)


app.command()(plan)
app.command()(calc)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def main() -> None:
    """The entry point of the ``mmpeft`` command."""
    app(prog_name="mmpeft")


if __name__ == "__main__":
    main()
