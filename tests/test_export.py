"""Runs as files for others: whole tables, and the fields that peft's own comparison of methods reads."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fixture_records import fill, question

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS
from mmpeft.plan import load_question
from mmpeft.records import Checkpoint, Record, Store
from mmpeft.study import export

FRACTION, COUNT, TEXT = (float, int, type(None)), (int,), (str, type(None))

READ = {
    "run_info.created_at": (str,),
    "run_info.total_time": (float, int),
    "run_info.experiment_name": (str,),
    "run_info.peft_branch": TEXT,
    "run_info.train_config": (dict,),
    "run_info.train_config.model_id": (str,),
    "run_info.peft_config": (dict, type(None)),
    "train_info.status": (str,),
    "train_info.accelerator_memory_reserved_avg": COUNT,
    "train_info.accelerator_memory_max": COUNT,
    "train_info.accelerator_memory_reserved_99th": COUNT,
    "train_info.train_time": (float, int),
    "train_info.file_size": COUNT,
    "train_info.num_trainable_params": COUNT,
    "train_info.metrics.-1.test accuracy": FRACTION,
    "train_info.metrics.-1.train loss": FRACTION,
    "train_info.metrics.-1.train samples": COUNT,
    "train_info.metrics.-1.train total tokens": COUNT,
    "meta_info.package_info.peft-version": TEXT,
    "meta_info.package_info.transformers-version": TEXT,
    "meta_info.package_info.datasets-version": TEXT,
    "meta_info.package_info.torch-version": TEXT,
    "meta_info.package_info.bitsandbytes-version": TEXT,
    "meta_info.system_info": (dict,),
}
"""Every field that the reader looks up by name, with the types that its conversions take.

Source: huggingface/peft, method_comparison/processing.py (``_preprocess_common``, ``_preprocess_metamathqa`` and the tables of
dtypes ``_COMMON_DTYPES`` and ``_TASK_DTYPES``), as of 2026. It converts whole numbers with ``astype(int)``, which takes no null;
fractions with ``astype(float)`` and texts with ``astype("string")``, which do. ``forgetting`` may be left out.
"""

LOGGED = {
    "run_info": {"created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config", "error_msg"},
    "train_info": {
        *("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th", "train_time"),
        *("file_size", "num_trainable_params", "num_total_params", "status", "metrics"),
    },
    "meta_info": {"model_info", "dataset_info", "package_info", "system_info", "pytorch_info"},
}
"""What its own runs write: ``log_results`` of method_comparison/MetaMathQA/utils.py."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Records of a question at smoke, some of them failed."""
    kept = Store(tmp_path_factory.mktemp("store"))
    return fill(kept, load_question("capacity", "smoke").planned(), failed=0.3)


def look_up(content: Any, path: str) -> Any:
    for part in path.split("."):
        content = content[int(part)] if isinstance(content, list) else content[part]
    return content


def finished(**changes: Any) -> Record:
    """A record as a run leaves it."""
    run = next(run for run in question().planned() if run.spec.method.name == "lora")
    fields = {
        "run_id": run.run_id,
        "status": "ok",
        "spec": run.spec,
        "task_version": run.task_version,
        "fingerprint": run.fingerprint,
        "scores": {"score": 0.625, "unparsed": 0.0},
        "cost": {
            **{"trainable_params": 1400, "total_params": 20_000, "adapter_bytes": 6000, "peak_memory_bytes": 10**9},
            **{"train_seconds": 12.5, "eval_seconds": 2.0, "track_seconds": 0.5},
        },
        "curve": [(step, 2.0 - 0.01 * step) for step in range(100)],
        "environment": {"device": "cpu x86_64", "peft": "0.21.2", "torch": "2.13.0", "transformers": "5.23.0"},
        "started_at": "2026-11-22T10:00:00+00:00",
    }
    return Record(**{**fields, **changes})


def test_every_field_that_their_reader_looks_up_is_there_with_a_type_that_it_takes(store: Store, tmp_path: Path) -> None:
    paths = export.export(tmp_path, store=store.path, scale="smoke")
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert len(contents) == len(store.records())
    for content in contents:
        assert all(keys <= set(content[part]) for part, keys in LOGGED.items())
        if content["train_info"]["status"] != "success":
            assert content["run_info"]["error_msg"].startswith("TrainingDiverged")
            continue
        for path, kinds in READ.items():
            value = look_up(content, path)
            assert isinstance(value, kinds) and not isinstance(value, bool), f"{path}: {value!r}"
        datetime.fromisoformat(content["run_info"]["created_at"])
    statuses = {content["train_info"]["status"] for content in contents}
    assert statuses == {"success", "failed"}


def test_one_folder_a_task_holds_one_file_a_run_named_by_method_and_experiment(store: Store, tmp_path: Path) -> None:
    for path in export.export(tmp_path, store=store.path, scale="smoke"):
        content = json.loads(path.read_text(encoding="utf-8"))
        name = content["run_info"]["experiment_name"]
        assert path == tmp_path / content["run_info"]["spec"]["task"] / "results" / f"{name.replace('/', '--')}.json"
        assert name.split("/")[0] in METHODS and content["run_info"]["run_id"] in name


def test_a_file_says_what_the_record_says() -> None:
    content = export.as_peft(finished())
    run_info, train_info = content["run_info"], content["train_info"]
    assert run_info["peft_config"] == {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
    assert run_info["total_time"] == 15.0 and train_info["train_time"] == 12.5
    assert run_info["train_config"]["max_steps"] == 100
    last = train_info["metrics"][-1]
    assert last["test accuracy"] == 0.625 and last["train samples"] == 1600
    assert last["train loss"] == pytest.approx(np.mean([2.0 - 0.01 * step for step in range(90, 100)]))
    assert train_info["file_size"] == 6000 and train_info["num_trainable_params"] == 1400
    assert content["meta_info"]["package_info"]["torch-version"] == "2.13.0"
    assert run_info["spec"] == finished().spec.model_dump(mode="json")


def test_what_no_run_measures_is_named_and_never_looks_like_a_measurement() -> None:
    on_cpu = export.as_peft(finished())
    assert on_cpu["train_info"]["accelerator_memory_max"] == 0
    assert on_cpu["meta_info"]["not_measured"] == ["train_info.metrics[0].train total tokens"]
    on_gpu = export.as_peft(finished(environment={"device": "NVIDIA H100"}))
    assert on_gpu["train_info"]["accelerator_memory_max"] == 10**9
    assert on_gpu["train_info"]["accelerator_memory_reserved_avg"] == export.NOT_MEASURED < 0
    assert "train_info.accelerator_memory_reserved_99th" in on_gpu["meta_info"]["not_measured"]
    assert on_gpu["meta_info"]["system_info"]["accelerator"] == "NVIDIA H100"


def test_a_run_judged_on_dev_has_no_test_accuracy() -> None:
    record = finished()
    spec = record.spec.model_copy(update={"eval": record.spec.eval.model_copy(update={"split": "dev"})})
    last = export.as_peft(finished(spec=spec))["train_info"]["metrics"][-1]
    assert last["test accuracy"] is None and last["valid accuracy"] == 0.625


def test_captions_score_as_a_share_of_what_their_metric_can_give() -> None:
    run = next(run for run in question().planned() if run.spec.task == "mini-flickr30k" and run.spec.method.name == "lora")
    last = export.as_peft(finished(spec=run.spec, scores={"score": 2.5}))["train_info"]["metrics"][-1]
    assert (last["test accuracy"], last["score"], last["metric"]) == (0.25, 2.5, "CIDEr-D")


def test_what_a_run_said_on_the_way_comes_before_its_end() -> None:
    task = finished().spec.task
    point = {"epoch": 1, "step": 50, "split": "dev", "num_examples": 8, "scores": {"score": 0.5, "loss": 1.0}}
    track = [Checkpoint(task=task, **point), Checkpoint(task="mini-vizwiz", **point)]
    first, last = export.as_peft(finished(track=track))["train_info"]["metrics"]
    assert (first["step"], first["valid accuracy"], first["train samples"]) == (50, 0.5, 800)
    assert last["step"] == 100


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_its_type_in_pefts_files(name: str) -> None:
    import mmpeft.bottleneck  # noqa: F401  registers the Adapter

    method = METHODS[name]()
    config = method.peft_config(ModelEntry(name="toy", **LLAVA_PARTS), "both")
    if config is not None:
        assert config.peft_type.value == method.peft_type
    else:
        # Their reader takes a run without a config for full fine-tuning.
        assert (method.peft_type is None) == (name == "full")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_holds_every_run_with_every_column(form: str, store: Store, tmp_path: Path) -> None:
    (path,) = export.export(tmp_path, form, store=store.path, scale="smoke")
    table = pd.read_csv(path) if form == "csv" else pd.read_parquet(path)
    collected = store.collect()
    assert sorted(table["run_id"]) == sorted(collected["run_id"])
    assert set(table.columns) == {*collected.columns, "questions"}
    assert all("capacity" in named.split(", ") for named in table["questions"])
    ranks = table.loc[table["method"] == "lora", "r"]
    assert sorted(set(ranks)) == [1, 2, 4] and "4.0" not in path.read_bytes().decode(errors="ignore").split("\n")[1]
    assert table.loc[table["status"] == "failed", "error"].str.startswith("TrainingDiverged").all()


def test_only_a_questions_runs_are_written_when_it_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    capacity, method = (load_question(name, "smoke").planned() for name in ("capacity", "method"))
    fill(store, [*capacity, *method])
    paths = export.export(tmp_path / "out", question="capacity", scale="smoke", store=store.path)
    assert len(paths) == len(capacity) < len(store.records())


def test_a_shared_run_names_all_its_questions(tmp_path: Path) -> None:
    store, planned = Store(tmp_path), load_question("method").planned()
    shared = next(run for run in planned if run in load_question("connector").planned())
    table = export.as_table(fill(store, [shared]).records())
    assert {"connector", "method"} <= set(table["questions"][0].split(", "))


def test_an_unknown_format_and_an_empty_store_are_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match=r"unknown format 'parket'\. Did you mean 'parquet'\?"):
        export.export(tmp_path, "parket", store=store.path)
    with pytest.raises(MmpeftError, match="no run has left a record"):
        export.export(tmp_path, store=tmp_path / "empty")
