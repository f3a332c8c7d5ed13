"""One run made by two processes is the run that one process makes; a group that fails says why."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from sharded_worker import SHARDED, Sharded
from typer.testing import CliRunner

from mmpeft.__main__ import app
from mmpeft.checkpoints import read
from mmpeft.errors import MmpeftError
from mmpeft.execute import run_missing
from mmpeft.files import shards_of
from mmpeft.launch import GPUS, Launch, _cause, configuration, shards
from mmpeft.leases import PLACE
from mmpeft.plan import Planned, params_folder
from mmpeft.records import Store
from mmpeft.run import run
from mmpeft.spec import RunSpec

CONFIGURATIONS = sorted((params_folder() / "accelerate").glob("*.yaml"))


def spec_of(**train: Any) -> RunSpec:
    fields = {"num_examples": 16, "num_steps": 8, "batch_size": 8, "learning_rate": 0.01, "gradient_accumulation_steps": 4}
    return RunSpec.from_dict(
        {
            "model": "toy",
            "task": "mini-vqav2",
            "method": {"name": "lora", "r": 2},
            "connector": {"tuned": True, "learning_rate": 0.001},
            "train": {**fields, **train},
            "eval": {"num_examples": 7, "batch_size": 2},
        }
    )


@pytest.fixture(autouse=True)
def from_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(__file__).resolve().parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


def test_two_processes_give_the_curve_the_weights_and_the_answers_of_one(tmp_path: Path) -> None:
    launched, said = Launch(tmp_path / "two", processes=2, checkpoint_every=7)(spec_of()), {}
    alone = Launch(tmp_path / "one", checkpoint_every=7)(spec_of())
    assert [each.record.environment["processes"] for each in (launched, alone)] == [2, 1]
    assert launched.record.contract["without_gradient"] == []
    assert launched.record.contract["frozen_sha256"] == alone.record.contract["frozen_sha256"]
    assert launched.predictions == alone.predictions
    for store in ("two", "one"):  # unrounded, as no record has them
        said[store] = read(Store(tmp_path / store).checkpoint_path(alone.record.run_id))
    curves = [[loss for _, loss in said[store][0]["curve"]] for store in said]
    assert len(curves[0]) == 7
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    for name, weight in said["one"][1].items():
        if not name.startswith("generator"):
            torch.testing.assert_close(said["two"][1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize(
    "method", [{"name": "lora", "r": 2}, {"name": "full"}, {"name": "prefix", "num_virtual_tokens": 3}], ids=lambda m: m["name"]
)
def test_two_processes_that_hold_half_of_every_weight_give_the_curve_of_one(
    tmp_path: Path, method: dict[str, Any], name: str
) -> None:
    spec = RunSpec.from_dict({**spec_of().model_dump(), "method": method})
    run_missing([Planned.of(spec)], store := Store(tmp_path), progress=False, run=Sharded(tmp_path, 2, configuration(name)))
    record = store.load(Planned.of(spec).run_id)
    assert record and record.status == "ok", record and record.error
    alone = run(spec).record
    assert [loss for _, loss in record.curve] == pytest.approx([loss for _, loss in alone.curve], abs=1e-4)
    assert record.contract["gradients_judged"] is False  # they were never whole, so the shards were real
    assert record.contract["frozen_unchanged"] is None
    assert record.contract["reload_delta_logits"] <= 1e-4
    assert record.contract["trainable"] == alone.contract["trainable"]


def test_a_sharded_run_goes_on_from_its_pieces_bit_by_bit(tmp_path: Path) -> None:
    spec = RunSpec.from_dict({**spec_of().model_dump(), "method": {"name": "lora", "r": 2, "lora_dropout": 0.3}})
    whole = Sharded(tmp_path, 2, configuration("fsdp"), checkpoint_every=5)(spec)
    path = Store(tmp_path).checkpoint_path(whole.record.run_id)
    assert sorted(piece.name for piece in shards_of(path).iterdir()) == ["5.0.safetensors", "5.1.safetensors"]
    said, tensors = read(path)
    assert not [name for name in tensors if not name.startswith("generator")]
    said["curve"][0][1] = 99.0  # nobody makes this step again
    save_file(tensors, path, metadata={"run": json.dumps(said)})
    again = Sharded(tmp_path, 2, configuration("fsdp"))(spec)
    assert again.record.curve == [(0, 99.0), *whole.record.curve[1:]]
    assert again.predictions == whole.predictions
    Store(tmp_path).save(*again)
    assert not path.exists() and not shards_of(path).exists()


def test_who_cannot_go_on_from_a_checkpoint_is_told_before_anything_starts(tmp_path: Path) -> None:
    alone = Launch(tmp_path, checkpoint_every=4)
    alone(spec_of())
    with pytest.raises(MmpeftError, match="kept by 1 processes, this run has 2; launch as many, or remove the file"):
        Launch(tmp_path, processes=2)(spec_of())
    with pytest.raises(MmpeftError, match="held the weights whole, these hold them in pieces; take ddp, or remove the file"):
        Launch(tmp_path, 1, configuration("fsdp"))(spec_of())
    with pytest.raises(MmpeftError, match="checkpoints: neither kept nor taken up under zero3; take fsdp"):
        Launch(tmp_path, 1, configuration("zero3"))(spec_of())


def test_a_checkpoint_that_one_run_cannot_take_up_does_not_stop_the_others(tmp_path: Path) -> None:
    stale, other = Planned.of(spec_of()), Planned.of(spec_of(learning_rate=0.02))
    store = Store(tmp_path)
    Launch(tmp_path, processes=2, checkpoint_every=4)(stale.spec)
    Launch(tmp_path).check(stale.spec)
    summary = run_missing([stale, other], store, progress=False, run=Launch(tmp_path))
    assert (summary.done, summary.failed) == (1, 1)
    record = store.load(stale.run_id)
    assert record and record.error and "kept by 2 processes, this run has 1" in record.error


def test_the_error_of_another_process_than_the_first_is_the_one_that_is_told(tmp_path: Path) -> None:
    spec = spec_of()
    launch = Sharded(tmp_path, 2, configuration("fsdp"), checkpoint_every=5)
    launch(spec)
    (shards_of(Store(tmp_path).checkpoint_path(Planned.of(spec).run_id)) / "5.1.safetensors").write_bytes(b"cut off")
    with pytest.raises(MmpeftError, match=r"5\.1\.safetensors: no checkpoint of this kind .*; remove \w+\.safetensors"):
        launch(spec)


def test_a_checkpoint_left_beside_a_record_goes(tmp_path: Path) -> None:
    planned, store = Planned.of(spec_of()), Store(tmp_path)
    store.save(*Launch(tmp_path, checkpoint_every=4)(planned.spec))
    path = store.checkpoint_path(planned.run_id)
    shards_of(path).mkdir(parents=True)
    path.write_bytes(b"")
    run_missing([planned], store, progress=False)
    assert not path.exists() and not shards_of(path).exists()


def test_shards_without_a_gpu_are_refused_and_not_left_out(tmp_path: Path) -> None:
    planned, store = Planned.of(spec_of()), Store(tmp_path)
    run_missing([planned], store, progress=False, run=Launch(tmp_path, 2, configuration("fsdp")))
    record = store.load(planned.run_id)
    assert record and record.status == "failed"
    assert record.error and "weights are cut into shards on GPUs alone, and none was found; take ddp" in record.error


def test_a_diverged_run_of_several_processes_keeps_its_losses(tmp_path: Path) -> None:
    spec = spec_of(learning_rate=1e30, max_grad_norm=1e30)
    store = Store(tmp_path)
    run_missing([Planned.of(spec)], store, progress=False, run=Launch(tmp_path, processes=2))
    record = store.load(Planned.of(spec).run_id)
    assert record and record.status == "failed"
    assert record.error and "training diverged" in record.error
    assert len(record.curve) >= 2
    assert record.curve[-1][1] is None


def test_what_a_crashed_group_says_is_its_error_and_not_the_launchers_frame() -> None:
    said = [
        "Traceback (most recent call last):",
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "====================",
    ]
    assert _cause(said).startswith("[rank1]: torch.OutOfMemoryError: CUDA out of memory")
    assert _cause(["it went", "-----"]) == "it went"
    assert _cause([]) == "nothing was said"


def test_a_run_that_left_a_checkpoint_goes_on_from_it_though_nothing_is_said(tmp_path: Path) -> None:
    whole, _, _ = Launch(tmp_path, checkpoint_every=6)(spec_of())
    path = Store(tmp_path).checkpoint_path(whole.run_id)
    told = path.stat().st_mtime_ns
    again, _, _ = Launch(tmp_path)(spec_of())
    assert again.curve == whole.curve
    assert path.stat().st_mtime_ns == told  # from step 6 of 8 there is none to keep
    assert again.cost["train_seconds"] > 0


def test_processes_that_diverge_or_cannot_start_leave_a_failed_row(tmp_path: Path) -> None:
    odd = Planned.of(spec_of(batch_size=9, gradient_accumulation_steps=3))
    store = Store(tmp_path)
    run_missing([odd], store, progress=False, run=Launch(tmp_path, processes=2))
    record = store.load(odd.run_id)
    assert record and record.status == "failed"
    assert record.error and "9 examples cannot be dealt out to 2 processes" in record.error


def test_a_batch_that_cannot_be_dealt_out_is_refused_by_the_command_before_any_run(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["run", "method", "--scale", "smoke", "--store", str(tmp_path), "--processes", "3"])
    assert said.exit_code == 2
    assert "train.batch_size: 4 examples cannot be dealt out to 3 processes; take a multiple of 3" in str(said.output)
    assert not list(tmp_path.rglob("*.json"))
    assert Launch(tmp_path, accelerate=configuration("ddp")).num_processes == 2
    assert Launch(tmp_path, 5, configuration("ddp")).num_processes == 5


@pytest.mark.parametrize(
    ("place", "named", "share"),
    [("0", None, "0,1"), ("1", None, "2,3"), ("2", None, "0,1"), ("1", "4,5,6,7", "6,7")],
)
def test_several_workers_of_several_processes_each_have_their_own_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, named: str | None, share: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv(PLACE, place)
    monkeypatch.delenv(GPUS, raising=False)
    if named:
        monkeypatch.setenv(GPUS, named)
    assert Launch(tmp_path, 2)._environment()[GPUS] == share
    assert Launch(tmp_path, 3)._environment().get(GPUS) == named, "four are no two times three"
    monkeypatch.delenv(PLACE)
    assert Launch(tmp_path, 2)._environment().get(GPUS) == named


def test_the_processes_of_a_run_end_with_whoever_launched_them() -> None:
    rank = "import os, time; from mmpeft import launch; launch._end_with(int(os.environ['PARENT'])); print('up'); time.sleep(600)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', {rank!r}], start_new_session=True)"
    environment = {**os.environ, "PARENT": str(os.getpid())}
    with subprocess.Popen([sys.executable, "-c", launcher], env=environment, stdout=subprocess.PIPE, text=True) as launched:
        assert launched.stdout and launched.stdout.readline() == "up\n"
        launched.kill()  # as subprocess does to what it started, when Ctrl-C comes
        assert launched.stdout.read() == ""  # which ends with the last process that could write to it


def test_one_process_is_no_launch(tmp_path: Path) -> None:
    record, predictions, _ = Launch(tmp_path, processes=1, checkpoint_every=4)(spec_of())
    assert record.curve == run(spec_of()).record.curve
    assert len(predictions) == 7
    assert Store(tmp_path).checkpoint_path(record.run_id).exists()


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_one_of_accelerates_own(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.utils import DistributedType

    loaded = ClusterConfig.from_yaml_file(str(path))
    assert loaded.distributed_type in (DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED)
    assert shards(path) == (loaded.distributed_type != DistributedType.MULTI_GPU)
    assert configuration(path.stem) == configuration(str(path)) == path


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_every_option_of_a_shipped_configuration_is_one_that_the_launcher_knows(path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = {**content.get("fsdp_config", {}), **content.get("deepspeed_config", {})}
    assert not set(options) - known


def test_what_shards_cannot_give_is_refused_before_anything_starts(tmp_path: Path) -> None:
    zero3 = configuration("zero3")
    first = tmp_path / "fsdp1.yaml"
    first.write_text("distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 1}\n", encoding="utf-8")
    for path in (zero3, first):
        refused = f"checkpoints: neither kept nor taken up under {path.stem}; take fsdp"
        with pytest.raises(MmpeftError, match=refused):
            Launch(tmp_path, 2, path, checkpoint_every=10)(spec_of())
        with pytest.raises(MmpeftError, match=refused):
            Launch(tmp_path, 2, path, checkpoint_every=10).pre_step(spec_of())
    asked = RunSpec.from_dict({**spec_of().model_dump(), "track": {"every_epochs": 1}})
    with pytest.raises(MmpeftError, match="nothing can be asked on the way where zero3 cuts weights; take ddp"):
        Launch(tmp_path, 2, zero3)(asked)


def test_a_configuration_that_does_not_exist_is_named() -> None:
    with pytest.raises(MmpeftError, match=r"'zero4'\. Did you mean 'zero[23]'"):
        configuration("zero4")
    with pytest.raises(MmpeftError, match=r"none\.yaml: no such file"):
        configuration("none.yaml")
