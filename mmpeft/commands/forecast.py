"""The commands about what runs would cost before they are made: plan, calc."""

from typing import Annotated

import typer
from rich.table import Table

from mmpeft.commands.terms import AsJson, out, print_json
from mmpeft.errors import MmpeftError

GpuName = Annotated[str, typer.Option(help="h100, h200, a100-80, a100-40, l40s or rtx-4090.")]


def plan(
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="A question of params/, or a YAML file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every question of params/.")] = False,
    scale: Annotated[str, typer.Option(help="A file of params/scales.")] = "paper",
    gpu: GpuName = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that share one run, each with the whole model.")] = 1,
    used_share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the GPU's peak that training reaches.")] = 0.35,
    as_json: AsJson = False,
) -> None:
    """What runs would cost before they are made: GPU-hours, memory, disk, and whether they fit."""
    from mmpeft.gpus import assumptions
    from mmpeft.plan import load_question, questions
    from mmpeft.planner import budgets, total

    if every == (question is not None):
        raise MmpeftError(f"plan: name one question, or --all for all of them ({', '.join(questions())}).")
    found = budgets([load_question(name, scale) for name in ([question] if question else questions())], gpu, gpus, used_share)
    said = assumptions(gpu, used_share)
    whole = total(found)
    if as_json:
        print_json({"budgets": [each.to_dict() for each in found], "total": whole, "assumptions": said})
        return
    rows = found[0].rows if question else [each.to_dict() for each in found]
    counted = ("runs",) if question else ("asks", "runs")
    table = Table(question or "question", *counted, "GPU-hours", "peak GiB", "fits", box=None, pad_edge=False)
    for row in [*rows, {**whole, "label": "all", "question": "all", "num_asked": ""}]:
        name = f"{row['label']}, {row['size']}" if row.get("size") else row["label" if question else "question"]
        asked = () if question else (str(row["num_asked"]),)
        size = (f"{row['num_runs']:,}", f"{row['gpu_hours']:,.1f}", f"{row['peak_bytes'] / 2**30:.1f}")
        table.add_row(name, *asked, *size, "yes" if row["fits"] else "[red]no[/]")
    out.print(table)
    out.print(f"about ${whole['dollars']:,.0f}, {whole['disk_bytes'] / 1e9:.1f} GB on disk", soft_wrap=True)
    if too_large := dict.fromkeys(label for each in found for label in each.too_large):
        names = "; ".join(too_large)
        remedy = "mmpeft run --accelerate fsdp --processes …, and mmpeft pre-step before."
        out.print(f"too large for one {gpu}: {names}. Cut it over several: {remedy}", soft_wrap=True)
    if every:
        out.print("runs and pre-steps that questions share are counted in the first question that asks for them", style="dim")
    out.print(said, style="dim", soft_wrap=True)


def calc(
    model: Annotated[str, typer.Option(help="The model.")] = "llava-1.5-7b",
    method: Annotated[str, typer.Option(help="The method.")] = "lora",
    size: Annotated[int | None, typer.Option(min=1, help="Its rank, bottleneck or number of virtual tokens.")] = None,
    location: Annotated[str, typer.Option(help="attention, mlp or both.")] = "both",
    connector: Annotated[str, typer.Option(help="frozen or tuned.")] = "frozen",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of one pass on one device.")] = 8,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of prompt and answer, without the picture's.")] = 64,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of these the answer's.")] = 4,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Compute activations again.")] = False,
    gpu: GpuName = "h100",
    as_json: AsJson = False,
) -> None:
    """What one configuration needs: trained parameters, memory of a step by part, operations, whether it fits a GPU."""
    from mmpeft.gpus import assumptions
    from mmpeft.planner import one_setup

    found = one_setup(
        {"model": model, "method": method, "size": size, "location": location, "connector": connector},
        {"precision": precision, "gradient_checkpointing": checkpointing},
        (batch_size, text_tokens, answer_tokens),
        gpu,
    )
    if as_json:
        print_json({**found, "assumptions": assumptions(gpu)})
        return
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        shown = f"{value / 2**30:,.2f} GiB" if name.endswith("_bytes") else f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(name.removesuffix("_bytes").replace("_", " "), shown)
    out.print(table)
    out.print(assumptions(gpu), style="dim", soft_wrap=True)
