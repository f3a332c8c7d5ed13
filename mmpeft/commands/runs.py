"""The commands about runs: run, pre-step, status, export, judge, audit, data."""

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mmpeft.commands.terms import NO, AsJson, QuestionName, Scale, StoreFolder, Workers, num_cores, open_store, out, print_json
from mmpeft.errors import MmpeftError, unknown
from mmpeft.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mmpeft.audit import Audit
    from mmpeft.cluster import Cluster
    from mmpeft.execute import RunFunction
    from mmpeft.plan import Question
    from mmpeft.records import Record, Store

ALL = "all questions"
"""Where status counts a run once, however many questions need it."""

ENGINES = ("local", "ray")

Processes = Annotated[int | None, typer.Option(min=1, help="Processes that make one run together, one a GPU.")]
CheckpointEvery = Annotated[int | None, typer.Option(min=1, help="Steps between two checkpoints.")]
Accelerate = Annotated[str | None, typer.Option(help="ddp, fsdp, zero2, zero3, or a path.")]


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
    gpus_per_run: Annotated[
        float | None, typer.Option(min=0, help="GPUs that Ray keeps for a run; by default one, if there are any.")
    ] = None,
    cores_per_run: Annotated[float, typer.Option(min=0, help="Cores that Ray keeps for a run.")] = 1.0,
    processes: Processes = None,
    accelerate: Accelerate = None,
    checkpoint_every: CheckpointEvery = None,
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
        records = open_store(asked, store)
        plain = settings == (None, None, None) and not records.checkpoints()
        how = RUN if plain else Launch(records.path.resolve(), *settings)
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
    from mmpeft.launch import Launch
    from mmpeft.models import Hub, known
    from mmpeft.pictures import prepare_features
    from mmpeft.reach import look_for

    planned = asked.planned()
    due = store.missing(planned) + (store.failed(planned) if retry_failed else [])
    due = due if limit is None else due[:limit]
    if due:
        if isinstance(how, Launch):
            for one in due:
                how.check(one.spec)
        if cluster is None:  # a cluster's machines find and compute what they lack themselves
            for name in dict.fromkeys(one.spec.model for one in due):
                if isinstance(source := known(name).source, Hub):
                    look_for(f"model {name}", source.id, source.revision)
            prepare_features(due, workers)
        run_missing(due, store, workers, retry_failed=retry_failed, engine=cluster, run=how)
    records = store.records(planned)
    counts = _counts(planned, records)
    _print_status({asked.question: counts})
    _print_failures(records)
    return int(counts["failed"])


def pre_step(
    question: QuestionName = None,
    scale: Scale = None,
    processes: Processes = None,
    accelerate: Accelerate = None,
    checkpoint_every: CheckpointEvery = None,
) -> None:
    """Make the base that a question's runs start from (without a name: every question's), where its scale has a pre-step.

    It is kept in the user's cache folder, or in $MMPEFT_CACHE, and made once. A run whose pre-step is missing makes it itself,
    in the way that it is launched; but full fine-tuning asks for more memory than most runs.
    """
    from mmpeft.launch import Launch, configuration
    from mmpeft.plan import load_question, questions
    from mmpeft.pre_step import kept_at, provenance

    names = questions() if question is None else [question]
    specs = [spec for name in names for spec in load_question(name, scale).specs()]
    wanted = {kept_at(spec.model, spec.pre_step): spec for spec in specs if spec.pre_step}
    launch = Launch(Path(), processes, configuration(accelerate) if accelerate else None, checkpoint_every)
    for path, spec in wanted.items():
        state = "there" if path.exists() else "made"
        launch.pre_step(spec)
        out.print(f"{state}: {provenance(spec)['pre_step']}", soft_wrap=True)
    if not wanted:
        out.print("no run asked for has a pre-step")


def _print_scores(store: "Store", asked: "Question") -> None:
    """What a scale without a store leaves: its scores, since its records are gone in a moment."""
    table = Table("task", "method", "connector", "seed", "score", box=None, pad_edge=False)
    for row in store.collect(asked.planned()).to_dict("records"):
        score = f"{row['score']:.3f}" if row["status"] == "ok" else "failed"
        table.add_row(row["task"], row["label"], row["connector"], str(row["seed"]), score)
    out.print(table)
    out.print("this scale keeps no records; --store FOLDER does", style="dim")


def status(question: QuestionName = None, scale: Scale = None, store: StoreFolder = None, as_json: AsJson = False) -> None:
    """How far a question is (without a name: every question): planned, done, failed, hours that workers spent.

    Questions share runs; the line for all of them counts each run once.
    """
    from mmpeft.plan import load_question, questions

    planned: dict[str, set[tuple[str, str]]] = {}
    records: dict[tuple[str, str], Record] = {}
    for name in questions() if question is None else [question]:
        asked = load_question(name, scale)
        kept, runs = open_store(asked, store), asked.planned()
        planned[asked.question] = {(str(kept.path), run.run_id) for run in runs}
        records |= {(str(kept.path), record.run_id): record for record in kept.records(runs)}
    if question is None:
        planned[ALL] = set().union(*planned.values())
    found = {name: _counts(runs, [records[run] for run in runs if run in records]) for name, runs in planned.items()}
    if as_json:
        print_json(found)
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
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        where = f"{record.spec.task}, {record.spec.method.label}"
        out.print(f"failed: {record.run_id} ({where}): {record.error}", markup=False, soft_wrap=True)
    if failed:
        out.print("failed runs are not made again by themselves: mmpeft run … --retry-failed")


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


def judge(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run that was asked mmhal.")],
    ask: Annotated[Path | None, typer.Option(help="Write the requests here, one JSON a line, its text under prompt.")] = None,
    replies: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help='Read replies, one {"id": …, "reply": …} a line.')
    ] = None,
    scale: Scale = None,
    store: StoreFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's answers to MMHal-Bench as requests for a judge, or read the judge's replies back.

    No judge is called: the requests go, in whatever way, to one that you have. Exit code 1 if an answer is left without a score.
    """
    from mmpeft.plan import load_question, questions
    from mmpeft.study.judge import judged, read_replies, requests, summary

    if (ask is None) == (replies is None):
        raise MmpeftError("judge: say --ask FILE to write the requests, or --replies FILE to read what came back.")
    asked = requests(open_store(load_question(questions()[0], scale), store), run_id)
    if ask is not None:
        write_whole(ask, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in asked).encode())
        out.print(f"{len(asked)} requests in {ask}", soft_wrap=True)
    if replies is not None:
        rows = judged(asked, read_replies(replies))
        found, bare = summary(rows), rows["id"][rows["score"].isna()]
        if as_json:
            print_json({"rows": json.loads(found.to_json(orient="records")), "without_score": list(bare)})
        else:
            out.print(found.to_string(index=False, na_rep="–", float_format="{:.2f}".format), markup=False)
            for one in bare:
                out.print(f"no score: {one}", markup=False, soft_wrap=True)
        if len(bare):
            raise typer.Exit(NO)


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
    records, workers = open_store(asked, store), workers or num_cores()
    found = make_audit(records, planned, num_runs=sample, seed=seed, workers=workers, progress=not as_json)
    if as_json:
        print_json(found.to_dict())
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


def data(question: QuestionName = None, scale: Scale = None, workers: Workers = None) -> None:
    """Compute the vision features that a question needs (without a name: every question), ahead of its runs.

    They are kept in the user's cache folder, or in $MMPEFT_CACHE; a damaged file is computed again.
    """
    from mmpeft.pictures import prepare_features
    from mmpeft.plan import load_question, questions

    names = questions() if question is None else [question]
    planned = [one for name in names for one in load_question(name, scale).planned()]
    num_computed = prepare_features(planned, workers or num_cores())
    out.print(f"{num_computed} pictures computed; the cache holds what {', '.join(names)} needs")
