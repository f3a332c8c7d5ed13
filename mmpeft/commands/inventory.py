"""The commands about what there is: datasets, models, counts, doctor, base."""

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mmpeft.commands.terms import NO, AsJson, out, print_json
from mmpeft.errors import MmpeftError, unknown

if TYPE_CHECKING:
    from mmpeft.real.overlap import Overlap
    from mmpeft.real.task import RealTask

LEVELS = {"ok": "green", "warning": "yellow", "failed": "red"}


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
        _print_datasets(list(REAL.values()))
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


def _print_datasets(tasks: "list[RealTask]") -> None:
    """A row a dataset; its other wordings and its licence below, since a line has no room for them."""
    wordings: dict[str, list[RealTask]] = {}
    for task in tasks:
        wordings.setdefault(task.dataset, []).append(task)
    table = Table("name", "train", "dev", "test", "metric", box=None, pad_edge=False)
    for first, *_ in wordings.values():
        sizes = (f"{size:,}" if (size := first.size(split)) else "" for split in ("train", "dev", "test"))
        table.add_row(first.name, *sizes, first.metric)
    out.print(table)
    out.print("sizes: questions with a picture, by the authors' numbers or as many as are drawn", style="dim", soft_wrap=True)
    others = [other.name for _, *others in wordings.values() for other in others]
    out.print(f"the same in LLaVA's wording: {', '.join(others)}", soft_wrap=True)
    for first, *_ in wordings.values():
        out.print(f"licence of {first.name}: {first.licence}", style="dim", markup=False, soft_wrap=True)


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


def models(as_json: AsJson = False) -> None:
    """The models of the study: where each comes from, its licence, what it cannot take and why."""
    from mmpeft.models import MODELS, Hub, Seeded

    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "about": model.about,
            "kind": model.entry.kind,
            "source": "a seed" if isinstance(model.source, Seeded) else model.source.place,
            "licence": model.source.licence if isinstance(model.source, Hub) else "Apache-2.0",
            "gated": isinstance(model.source, Hub) and model.source.gated,
            "image_tokens": model.num_image_tokens,
            "needs": list(model.needs),
            "refused": dict(model.entry.refused),
        }
        for name, model in MODELS.items()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        terms = f"{row['licence']}{', gated' if row['gated'] else ''}"
        place, _, revision = row["source"].partition("@")
        pinned = f"{place}@{revision[:8]}" if revision else place
        out.print(f"{row['model']:<21} {pinned:<48} {row['image_tokens']:>5} image tokens  {terms}", markup=False, soft_wrap=True)
    for row in rows:
        for method, reason in row["refused"].items():
            out.print(f"refused: {method} on {row['model']}: {reason}", markup=False, soft_wrap=True)


def counts(
    model: Annotated[str, typer.Option(help="A model of `mmpeft models`.")] = "llava-1.5-7b",
    every_size: Annotated[bool, typer.Option("--every-size", help="All sizes that the paper tries.")] = False,
    as_json: AsJson = False,
) -> None:
    """How many parameters each method trains on a model at its full size, without its weights.

    Percentages are of the base and what is kept, as in the paper's Table 15; what is printed there stands beside the count that
    gives it.
    """
    from mmpeft.counts import rows, sizes, unmet

    found, counted = sizes(model), rows(model, every_size)
    if as_json:
        print_json({"model": model, "sizes": asdict(found), "counts": counted})
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


def doctor(as_json: AsJson = False) -> None:
    """Check whether this machine can run the study, and say what to do where it cannot."""
    from mmpeft.doctor import diagnose

    checks = diagnose()
    bad = [check for check in checks if check.level == "failed"]
    if as_json:
        print_json({"ok": not bad, "checks": [asdict(check) for check in checks]})
    else:
        table = Table("check", "", "found", "what to do", box=None, pad_edge=False)
        for check in checks:
            table.add_row(check.name, f"[{LEVELS[check.level]}]{check.level}[/]", check.found, check.remedy)
        out.print(table)
        out.print("this machine is not ready" if bad else "this machine is ready", style="bold red" if bad else "bold green")
    if bad:
        raise typer.Exit(NO)


def base(
    name: Annotated[str, typer.Argument(help="The base to make.")] = "tiny-llava",
    to: Annotated[Path | None, typer.Option("--out", help="Its folder; by default the package's own.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make it anew though the package has one.")] = False,
) -> None:
    """Make a base model from pip packages: about an hour on two cores.

    Another base has another fingerprint, and every record names the fingerprint of its base: runs of the
    packaged one no longer count for it.
    """
    from mmpeft.registry import DATA

    makers = {"tiny-llava": "mmpeft.mini.base", "smollm2-llava": "mmpeft.mini.smollm2"}
    if name not in makers:
        raise unknown("base", name, makers)
    folder = to if to is not None else DATA / name
    if (folder / "model.safetensors").exists() and not replace:
        raise MmpeftError(f"{folder} holds a base already; give another folder (--out FOLDER) or say --replace.")
    import_module(makers[name]).make(folder)
    out.print(folder, soft_wrap=True)
