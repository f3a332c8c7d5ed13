"""The command line: what it prints, how it fails, how fast it answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import good, make_plan
from typer.testing import CliRunner, Result

from mmpeft.__main__ import app
from mmpeft.execute import run_missing
from mmpeft.plan import load_question, questions
from mmpeft.records import Record, Store, utc_now

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    *("run", "status", "export", "judge", "audit", "data", "datasets", "claims", "models", "counts", "notebook", "book"),
    *("doctor", "base"),
)

SMALL = """
question: small
scale: smoke
tasks: [mini-vqav2]
variants:
  - {method: {name: zero-shot}}
  - {method: {name: lora}}
"""


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_help_names_every_command() -> None:
    shown = call("--help")
    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_says_what_it_does(command: str) -> None:
    shown = call(command, "--help")
    assert shown.exit_code == 0
    lines = [line.strip("│ ") for line in shown.output.splitlines()]
    bare = [line for line in lines if line.startswith("--") and len(line.split()) < 3]
    assert not bare


def test_without_a_command_help_is_shown() -> None:
    assert "Usage" in call().output


def test_the_version_is_printed() -> None:
    from mmpeft import __version__

    assert call("--version").output.strip() == __version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "metod"), ["unknown question 'metod'", "Did you mean 'method'?", "Valid: "]),
        (("status", "method", "--scale", "tinny"), ["unknown scale 'tinny'", "Did you mean 'tiny'?", "Valid: paper, "]),
        (("run", "metod"), ["unknown question 'metod'"]),
        (("run",), ["name one question, or --all"]),
        (("run", "method", "--all"), ["name one question, or --all"]),
        (("data", "method", "--scale", "smok"), ["unknown scale 'smok'", "Did you mean 'smoke'?"]),
        (("audit", "methd"), ["unknown question 'methd'"]),
        (("base", "tiny-lava"), ["unknown base 'tiny-lava'", "Did you mean 'tiny-llava'?"]),
    ],
)
def test_an_unknown_name_is_said_with_the_nearest_and_the_list(words: tuple[str, ...], said: list[str]) -> None:
    shown = call(*words)
    assert shown.exit_code == 2
    assert all(part in shown.stderr for part in said)
    assert shown.stdout == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model: toi", ["unknown model 'toi'", "Did you mean 'toy'?"]),
        ("tasks: [mini-vqa2]", ["unknown task 'mini-vqa2'", "Did you mean 'mini-vqav2'?"]),
        ("variants: [{method: {name: lorra}}]", ["unknown method 'lorra'", "Did you mean 'lora'?"]),
        ("seedz: [0]", ["unknown parameter 'seedz'", "Did you mean 'seeds'?"]),
        ("learning_rates: {lora: 1e-4}", ["learning_rates.lora", "1.0e-4"]),
    ],
)
def test_a_mistake_in_a_parameter_file_is_said(small: Path, line: str, said: list[str]) -> None:
    name = line.partition(":")[0]
    kept = SMALL[: SMALL.index(name)] + SMALL[SMALL.index("variants") :] if name == "tasks" else SMALL
    kept = SMALL[: SMALL.index(name)] if name == "variants" else kept
    small.write_text(f"{kept}{line}\n")
    shown = call("status", small)
    assert shown.exit_code == 2
    assert all(part in shown.stderr for part in said), shown.stderr


def test_an_unknown_command_suggests_the_nearest() -> None:
    shown = call("statsu")
    assert shown.exit_code == 2
    assert "status" in shown.stderr


def test_status_counts_planned_done_and_failed(small: Path, tmp_path: Path) -> None:
    planned = load_question(str(small)).planned()
    store = Store(tmp_path / "store")
    assert run_missing(planned[:1], store, progress=False, run="mmpeft.run.run").done == 1
    store.save(Record.failure(planned[1], "ValueError: no reason", utc_now()))
    shown = call("status", small, "--store", store.path, "--json")
    found = json.loads(shown.stdout)
    assert found == {"small": {"planned": 2, "done": 1, "failed": 1, "worker_hours": found["small"]["worker_hours"]}}
    people = call("status", small, "--store", store.path)
    assert people.exit_code == 0
    assert people.stdout.splitlines()[0].split() == ["question", "planned", "done", "failed", "worker-hours"]
    assert people.stdout.splitlines()[1].split() == ["small", "2", "1", "1", "0.0"]
    assert f"failed: {planned[1].run_id} (mini-vqav2, LoRA): ValueError: no reason" in people.stdout


def test_status_without_a_name_counts_a_shared_run_once(tmp_path: Path) -> None:
    method, connector = load_question("method").planned(), load_question("connector").planned()
    shared = next(run for run in connector if run in method)
    cost = {"train_seconds": 3600.0, "eval_seconds": 1800.0, "track_seconds": 0.0}
    lost = Record.failure(method[-1], "ValueError: no reason", utc_now())
    good = {"status": "ok", "error": None, "cost": cost, "run_id": shared.run_id, "spec": shared.spec}
    for record in (lost, lost.model_copy(update=good)):
        Store(tmp_path).save(record)
    shown = call("status", "--store", tmp_path, "--json")
    found = json.loads(shown.stdout)
    assert list(found) == [*questions(), "all questions"]
    assert found["method"]["worker_hours"] == found["connector"]["worker_hours"] == 1.5
    total = found.pop("all questions")
    assert (total["done"], total["failed"], total["worker_hours"]) == (1, 1, 1.5)
    assert max(each["planned"] for each in found.values()) < total["planned"] < sum(each["planned"] for each in found.values())
    last = call("status", "--store", tmp_path).stdout.splitlines()
    assert f"all questions: {total['planned']} runs, 1 done, 1 failed, 1.5 worker-hours" in last


def test_export_writes_a_file_for_each_recorded_run(small: Path, tmp_path: Path) -> None:
    store, out = Store(tmp_path / "store"), tmp_path / "out"
    run_missing(load_question(str(small)).planned(), store, progress=False)
    assert call("export", out, "--store", store.path).stdout.startswith("2 files below ")
    assert len(list(out.glob("mini-vqav2/results/*.json"))) == 2
    assert call("export", out, "--store", store.path, "--format", "csv").stdout.strip() == str(out / "runs.csv")
    wrong = call("export", out, "--store", store.path, "--format", "cvs")
    assert wrong.exit_code == 2 and "unknown format 'cvs'. Did you mean 'csv'?" in wrong.stderr
    nothing = call("export", out, "--store", tmp_path / "empty")
    assert nothing.exit_code == 2 and "no run has left a record" in nothing.stderr


def test_run_makes_what_is_missing_and_no_more(small: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = call("run", small, "--store", store, "--limit", "1")
    assert first.exit_code == 0, first.output
    assert len(list((store / "records").iterdir())) == 1
    assert call("run", small, "--store", store).exit_code == 0
    records = {path: path.stat().st_mtime_ns for path in (store / "records").iterdir()}
    assert len(records) == 2
    assert call("run", small, "--store", store).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (store / "records").iterdir()} == records


def test_a_scale_without_a_store_shows_its_scores(small: Path) -> None:
    shown = call("run", small)
    assert shown.exit_code == 0
    assert "Zero-shot" in shown.stdout and "keeps no records" in shown.stdout


def test_failed_runs_end_with_code_one_and_are_made_again_when_asked(small: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for one in load_question(str(small)).planned():
        store.save(Record.failure(one, "ValueError: once", utc_now()))
    shown = call("run", small, "--store", store.path)
    assert shown.exit_code == 1
    assert "ValueError: once" in shown.stdout
    assert call("run", small, "--store", store.path, "--retry-failed").exit_code == 0


def test_audit_says_how_many_were_reproduced(small: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert call("run", small, "--store", store.path).exit_code == 0
    shown = call("audit", small, "--store", store.path, "--sample", "2", "--seed", "3", "--workers", "1")
    assert shown.exit_code == 0, shown.output
    assert "2 of 2 reproduced (2 bit for bit)" in shown.stdout
    run_id = next((store.path / "records").iterdir()).stem
    record = store.load(run_id)
    assert record
    scores = {**record.scores, "score": record.scores["score"] + 0.3}
    store.save(record.model_copy(update={"scores": scores}), store.predictions(run_id).to_dict("records"))
    tampered = call("audit", "--store", store.path, "--sample", "2", "--workers", "1", "--json")
    assert tampered.exit_code == 1
    content = json.loads(tampered.stdout)
    assert (content["reproduced"], content["sample"]) == (1, 2)
    bad = [one for one in content["comparisons"] if not one["reproduced"]]
    assert bad[0]["run_id"] == run_id


def test_an_audit_of_nothing_is_said(tmp_path: Path) -> None:
    shown = call("audit", "--store", tmp_path)
    assert shown.exit_code == 2
    assert "no finished run" in shown.stderr


def test_doctor_speaks_json() -> None:
    shown = call("doctor", "--json")
    content = json.loads(shown.stdout)
    assert content["ok"] == (shown.exit_code == 0)
    assert content["ok"] == all(check["level"] != "failed" for check in content["checks"])


def test_a_base_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    shown = call("base", "tiny-llava", "--out", tmp_path)
    assert shown.exit_code == 2
    assert "--replace" in shown.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def elsewhere(*words: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "mmpeft", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_mistake_prints_one_message_and_no_traceback() -> None:
    done = elsewhere("status", "metod")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown question 'metod'.")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_corrupted_record_is_named_and_the_rest_counted(small: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    planned = load_question(str(small)).planned()
    run_missing(planned, store, progress=False)
    store.record_path(planned[0].run_id).write_text('{"schema": 1')
    done = elsewhere("status", small, "--store", store.path, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)["small"]
    assert (found["planned"], found["done"], found["failed"]) == (2, 1, 0)
    assert f"{planned[0].run_id}.json is corrupted" in done.stderr and "Traceback" not in done.stderr


def test_status_needs_no_torch(tmp_path: Path) -> None:
    run_missing(make_plan(2), Store(tmp_path), progress=False, run=good)
    program = (
        "import sys; from mmpeft.__main__ import app\n"
        f"app(['status', 'method', '--scale', 'smoke', '--store', {str(tmp_path)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


def test_the_command_works_from_any_folder_of_the_project(tmp_path: Path) -> None:
    assert elsewhere("status", "method", "--scale", "smoke", "--json", cwd=ROOT / "tests").returncode == 0
    assert elsewhere("status", "method", "--scale", "smoke", "--json", cwd=tmp_path).returncode == 0


def test_models_says_where_each_comes_from_and_what_it_refuses() -> None:
    from mmpeft.models import MODELS

    shown = call("models")
    assert shown.exit_code == 0
    assert all(name in shown.output for name in MODELS)
    assert "refused: prefix on gemma3-4b: peft drops token_type_ids" in shown.output
    rows = json.loads(call("models", "--json").output)
    assert {row["model"]: row["image_tokens"] for row in rows}["llava-1.5-7b"] == 576


def test_datasets_says_sizes_wordings_and_licences() -> None:
    from mmpeft.tasks import REAL

    shown = call("datasets")
    assert shown.exit_code == 0
    sizes = {words[0]: words[1:4] for line in shown.output.splitlines() if (words := line.split())}
    assert sizes["vqav2"] == ["20,000", "1,000", "5,000"]
    assert all(name in shown.output for name in REAL)
    assert all(f"licence of {task.dataset}: {task.licence}" in shown.output for task in REAL.values())


def test_counts_puts_the_papers_numbers_beside_its_own() -> None:
    shown = call("counts", "--model", "llava-1.5-7b")
    assert shown.exit_code == 0
    for name, percents in (("lora 128", "4.332"), ("adapter 256 paper_code", "2.771"), ("ia3", "0.306"), ("prefix 20", "0.074")):
        assert re.search(rf"{name} .* {percents}[*]", shown.output)
    found = json.loads(call("counts", "--model", "llava-1.5-7b", "--json").output)
    assert found["sizes"]["total"] == 7_063_427_072
    assert {row["size"] for row in found["counts"]} == {128, None, 256, 20}


def test_counts_of_a_model_that_does_not_exist_suggests_the_nearest() -> None:
    shown = call("counts", "--model", "llava-1.5-8b")
    assert shown.exit_code == 2
    assert "Did you mean 'llava-1.5-" in shown.output + shown.stderr


def test_a_model_that_cannot_be_reached_is_said_once_before_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = CliRunner().invoke(app, ["run", "method", "--scale", "small-hub", "--store", str(tmp_path)])
    assert said.exit_code == 2
    assert "cannot be reached and is not in the cache: connect, or download it" in " ".join(str(said.output).split())
    assert not list(tmp_path.rglob("*.json"))
