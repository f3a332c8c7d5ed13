"""Every run as files for other programs: one table, or the JSON files of peft's own comparison of methods.

    <folder>/runs.csv, <folder>/runs.parquet      one row a run with every column
    <folder>/<task>/results/<experiment>.json     one file a run, in the layout of huggingface/peft, method_comparison

Their ``processing.py`` reads a folder of such files: ``run_info`` (what was asked), ``train_info`` (what it cost and
scored) and ``meta_info`` (with what). It passes over keys that it does not know, so a file holds our whole spec too. A text
or a fraction that we do not have is null. Of their whole numbers none may be null, so one that no run of ours measures is
NOT_MEASURED, which no measurement can be, and is named under ``meta_info.not_measured``. The peak of an accelerator's memory is
of what was allocated, theirs of what was reserved; a run on a CPU used none.
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from mmpeft.errors import MmpeftError, unknown
from mmpeft.files import write_whole
from mmpeft.plan import load_question, questions
from mmpeft.records import ROW_COLUMNS, WORK_SECONDS, Record, Store, row_of
from mmpeft.study.comparison import full_marks
from mmpeft.tasks import TASKS

NOT_MEASURED = -1
LAST_STEPS = 10
"""The training loss in a file is the mean over so many last steps."""

PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch", "accelerate")
COLUMN_TYPES = {(int,): "Int64", (float,): "float64", (float, int): "float64", (bool,): "boolean", (str,): "string"}
"""A column's type by the types of its values, so that a missing one does not make fractions of counts."""


# --------------------------------------------------------------------------------------------------
# Which runs
# --------------------------------------------------------------------------------------------------


def recorded(question: str | None = None, scale: str | None = None, store: str | Path | None = None) -> list[Record]:
    """The records of a question's runs; without a name every record in the questions' stores.

    Args:
        question: A file of ``params``, by name.
        scale: A scale other than the questions' own.
        store: A folder of records other than the scale's.

    Raises:
        MmpeftError: No such question or scale.
    """
    if question is not None:
        asked = load_question(question, scale)
        return Store(store or asked.store_folder()).records(asked.planned())
    folders = [store] if store else dict.fromkeys(load_question(name, scale).store_folder() for name in questions())
    return [record for folder in folders for record in Store(folder).records()]


def answered(scale: str | None = None) -> dict[str, list[str]]:
    """The questions that each planned run helps to answer, by run_id."""
    found: dict[str, list[str]] = {}
    for name in questions():
        for run in load_question(name, scale).planned():
            found.setdefault(run.run_id, []).append(name)
    return found


def as_table(records: Iterable[Record], scale: str | None = None) -> pd.DataFrame:
    """One row a run with every column: its id, the questions it helps to answer, settings, scores (0–1), cost."""
    serves = answered(scale)
    rows = [{"run_id": r.run_id, "questions": ", ".join(serves.get(r.run_id, ())), **row_of(r)} for r in records]
    columns = dict.fromkeys(["run_id", "questions", *ROW_COLUMNS, *(name for row in rows for name in row)])
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in columns})


def _column(values: Sequence[Any]) -> "pd.Series[Any]":
    kinds = {type(value) for value in values if value is not None}
    return pd.Series(values, dtype=COLUMN_TYPES.get(tuple(sorted(kinds, key=str)), "object"))


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------


def export(
    folder: str | Path,
    form: str = "peft",
    question: str | None = None,
    scale: str | None = None,
    store: str | Path | None = None,
) -> list[Path]:
    """The files written, each whole or not at all.

    Args:
        folder: Where they go.
        form: One of FORMATS.
        question: As for :func:`recorded`, like the others.
        scale: See there.
        store: See there.

    Raises:
        MmpeftError: No such format, question or scale, or there is no run.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    records = recorded(question, scale, store)
    if not records:
        raise MmpeftError(f"{question or 'the questions'}: no run has left a record; `mmpeft run` makes them.")
    return FORMATS[form](records, Path(folder), scale)


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """The path, now a CSV file or, by its ending, a parquet file."""
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        table.to_parquet(buffer, index=False)
    else:
        table.to_csv(buffer, index=False)
    write_whole(path, buffer.getvalue())
    return path


def _csv(records: list[Record], folder: Path, scale: str | None) -> list[Path]:
    return [write_table(as_table(records, scale), folder / "runs.csv")]


def _parquet(records: list[Record], folder: Path, scale: str | None) -> list[Path]:
    return [write_table(as_table(records, scale), folder / "runs.parquet")]


def _peft(records: list[Record], folder: Path, scale: str | None) -> list[Path]:
    paths = []
    for record in records:
        path = folder / record.spec.task / "results" / f"{experiment_name(record).replace('/', '--')}.json"
        write_whole(path, (json.dumps(as_peft(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
        paths.append(path)
    return paths


FORMATS: dict[str, Callable[[list[Record], Path, str | None], list[Path]]] = {"peft": _peft, "csv": _csv, "parquet": _parquet}


# --------------------------------------------------------------------------------------------------
# One run in peft's layout
# --------------------------------------------------------------------------------------------------


def experiment_name(record: Record) -> str:
    """``<method>/<task>-seed<seed>-<run_id>``: theirs is a folder for a method and one in it for an experiment."""
    return f"{record.spec.method.name}/{record.spec.task}-seed{record.spec.seed}-{record.run_id}"


def as_peft(record: Record) -> dict[str, Any]:
    """The run in their layout."""
    method = record.spec.method
    fields = {name: value for name, value in method.model_dump(mode="json").items() if name != "name"}
    seconds = [record.cost.get(part) or 0.0 for part in WORK_SECONDS]
    train_info = _train_info(record)
    return {
        "run_info": {
            "created_at": record.started_at,
            "total_time": sum(seconds) if record.cost else None,
            "experiment_name": experiment_name(record),
            "peft_branch": None,
            "train_config": _train_config(record),
            "peft_config": {"peft_type": method.peft_type, **fields} if method.peft_type else None,
            "error_msg": record.error or "",
            "run_id": record.run_id,
            "spec": record.spec.model_dump(mode="json"),
        },
        "train_info": train_info,
        "meta_info": {**_meta_info(record), "not_measured": list(_not_measured(train_info, "train_info"))},
    }


def _train_config(record: Record) -> dict[str, Any]:
    spec, train = record.spec, record.spec.train
    rates = {"lr": train.learning_rate, "connector_lr": spec.connector.learning_rate, "weight_decay": train.weight_decay}
    return {
        "model_id": spec.model,
        "dtype": "float32",
        "max_seq_length": train.max_length,
        "batch_size": train.batch_size,
        "batch_size_eval": spec.eval.batch_size,
        "max_steps": _num_steps(record),
        "eval_steps": None,
        "compile": False,
        "use_gc": False,
        "query_template": None,
        "seed": spec.seed,
        "grad_norm_clip": train.max_grad_norm,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": rates,
        "lr_scheduler": train.schedule,
        "use_amp": train.precision == "bf16",
        "generation_kwargs": {"max_new_tokens": spec.eval.max_new_tokens},
        "attn_implementation": None,
    }


def _train_info(record: Record) -> dict[str, Any]:
    cost, on_cpu = record.cost, str(record.environment.get("device", "")).startswith("cpu")
    return {
        "accelerator_memory_reserved_avg": 0 if on_cpu else NOT_MEASURED,
        "accelerator_memory_max": 0 if on_cpu else _measured(cost.get("peak_memory_bytes")),
        "accelerator_memory_reserved_99th": 0 if on_cpu else NOT_MEASURED,
        "train_time": cost.get("train_seconds"),
        "file_size": _measured(cost.get("adapter_bytes")),
        "num_trainable_params": _measured(cost.get("trainable_params")),
        "num_total_params": _measured(cost.get("total_params")),
        "status": "success" if record.status == "ok" else "failed",
        "metrics": [*_on_the_way(record), *([_at_the_end(record)] if record.status == "ok" else [])],
    }


def _on_the_way(record: Record) -> list[dict[str, Any]]:
    """What the run's own task said on dev while it trained."""
    spec = record.spec
    return [
        {
            "step": point.step,
            "valid accuracy": point.scores["score"] / _marks(spec.task),
            "train loss": _loss(record, point.step),
            "train samples": point.step * spec.train.batch_size,
        }
        for point in record.track
        if point.task == spec.task
    ]


def _at_the_end(record: Record) -> dict[str, Any]:
    """The last entry, from which their tables are made. A run judged on dev has no test accuracy."""
    spec, share = record.spec, record.scores["score"] / _marks(record.spec.task)
    on_test = spec.eval.split == "test"
    return {
        "step": _num_steps(record),
        "test accuracy": share if on_test else None,
        **({} if on_test else {"valid accuracy": share}),
        "train loss": _loss(record, _num_steps(record)),
        "train samples": _num_steps(record) * spec.train.batch_size,
        "train total tokens": NOT_MEASURED,
        "metric": TASKS[spec.task].metric if spec.task in TASKS else None,
        "score": record.scores["score"],
    }


def _meta_info(record: Record) -> dict[str, Any]:
    environment, spec = record.environment, record.spec
    device = str(environment.get("device", ""))
    packages = {f"{name}-version": environment.get(name) for name in PACKAGES}
    return {
        "model_info": {"sha": record.fingerprint, "created_at": None},
        "dataset_info": {spec.task: {"sha": None, "created_at": None, "version": record.task_version}},
        "package_info": {**packages, "mmpeft-commit-hash": environment.get("git_commit")},
        "system_info": {
            "system": environment.get("platform"),
            "machine": device.removeprefix("cpu ") if device.startswith("cpu") else None,
            "accelerator": None if device.startswith("cpu") else device or None,
        },
        "pytorch_info": None,
    }


def _not_measured(part: Any, path: str) -> Iterable[str]:
    """Where in the file a number stands for none."""
    if isinstance(part, dict):
        for name, inner in part.items():
            yield from _not_measured(inner, f"{path}.{name}")
    elif isinstance(part, list):
        for position, inner in enumerate(part):
            yield from _not_measured(inner, f"{path}[{position}]")
    elif part == NOT_MEASURED:
        yield path


def _measured(value: float | None) -> int:
    return NOT_MEASURED if value is None else int(value)


def _marks(task: str) -> float:
    return full_marks(task) if task in TASKS else 1.0


def _num_steps(record: Record) -> int:
    """Optimizer steps made: a curve's steps count from 0."""
    return record.curve[-1][0] + 1 if record.curve else 0


def _loss(record: Record, step: int) -> float | None:
    """The mean training loss of the last steps before this one."""
    losses = [loss for at, loss in record.curve if at < step and loss is not None][-LAST_STEPS:]
    return fmean(losses) if losses else None
