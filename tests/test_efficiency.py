"""Costs: the paper's formulas against numbers made by hand, ratios within rounds, pages with and without a measurement."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixture_records import fill, question

from mmpeft.calc import sizes_of
from mmpeft.errors import MmpeftError
from mmpeft.plan import load_question
from mmpeft.records import Store
from mmpeft.study import comparison, cost_figures, efficiency, flops
from mmpeft.study.efficiency import Measurement


def row(method: dict[str, Any], trained: int, step: list[float], generation: list[float], memory: list[int]) -> dict[str, Any]:
    return {
        "method": method,
        "location": "both",
        "connector_tuned": False,
        "trainable_params": trained,
        "stored_params": trained,
        "adapter_bytes": 4 * trained + 100 if trained else 0,
        "step_seconds": step,
        "generate_seconds": generation,
        "peak_memory_bytes": memory,
    }


ROWS = [
    row({"name": "zero-shot"}, 0, [], [0.5, 1.0, 0.5], []),
    row({"name": "lora", "r": 4}, 250, [0.9, 1.9, 1.0], [1.0, 2.0, 1.0], [100]),
    row({"name": "lora", "r": 16}, 1000, [1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [100]),
    row({"name": "prefix"}, 500, [1.5, 2.5, 2.0], [1.0, 2.2, 0.9], [50]),
    row({"name": "full"}, 9000, [0.5, 1.5, 0.9], [0.5, 1.0, 0.5], [300]),
]
CONTENT = {
    "schema": 1,
    "model": "toy",
    "fingerprint": "toy-1",
    "total_params": 10_000,
    "settings": {"batch_size": 16, "num_tokens": 400, "num_new_tokens": 16, "num_rounds": 3, "steps_a_round": 2, "task": "x"},
    "environment": {"processor": "an abacus", "threads": 1, "torch": "2", "git_commit": "abc"},
    "measured_at": "2026-11-22T00:00:00+00:00",
    "rows": ROWS,
}


@pytest.fixture
def measured(tmp_path: Path) -> Measurement:
    store = Store(tmp_path)
    path = efficiency.path_of(store, "toy")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONTENT))
    found = efficiency.load(store, "toy")
    assert found is not None
    return found


def test_ratios_are_taken_within_a_round(measured: Measurement) -> None:
    assert measured.reference.name == "LoRA (r 16)"
    prefix = measured.rows[3]
    assert efficiency.ratios(measured, prefix, "step_seconds") == [1.5, 1.25, 2.0]
    frame = efficiency.costs_table(measured).frame.set_index(["method", "size"])
    assert frame.loc[("Prefix", "num_virtual_tokens 20"), "step_seconds"] == 1.5
    assert frame.loc[("LoRA", "r 16"), "step_seconds"] == 1.0
    assert frame.loc[("Prefix", "num_virtual_tokens 20"), "peak_memory_bytes"] == 0.5
    assert list(frame["mergeable"]) == [False, True, True, False, False]


def test_a_cost_differs_only_if_it_does_so_in_every_round(measured: Measurement) -> None:
    said = efficiency.finding(measured, "step_seconds")
    assert "more than LoRA (r 16) in every round: Prefix (num_virtual_tokens 20) (1.50)" in said
    assert "Full fine-tuning (0.75)" in said and "LoRA (r 4) (" not in said.split("less")[0]
    assert "not the same in every round: the other 2" in efficiency.finding(measured, "generate_seconds")


def test_the_formula_is_told_as_a_multiple_too(measured: Measurement) -> None:
    frame = efficiency.formula_table(measured).frame.set_index("method")
    assert frame.loc["LoRA (r 16)", "operations of a step"] == (2 * 10_000 + 4 * 1000) * 400
    assert frame.loc["Full fine-tuning", "operations of a step"] == (2 * 1000 + 4 * 9000) * 400
    assert frame.loc["LoRA (r 16)", "by the formula, of LoRA's"] == 1


def test_the_formula_is_held_to_the_clock_pair_by_pair(measured: Measurement) -> None:
    said = efficiency.formula_finding(measured)  # LoRA's two sizes take the same in one round, so their pair says nothing
    assert "does not put the methods in the order of the clock: of 5 pairs" in said and said.endswith("1 stand in its order.")
    slow, fast = measured.rows[3], measured.rows[1]  # Prefix trains more than the smaller LoRA, and takes longer
    larger = measured.rows[2].model_copy(update={"step_seconds": [0.95, 1.95, 1.5]})
    agreeing = measured.model_copy(update={"rows": [fast, larger]})
    assert "puts the methods in the order of the clock: of 1 pairs" in efficiency.formula_finding(agreeing)
    alike = measured.model_copy(update={"rows": [measured.rows[2], slow.model_copy(update={"step_seconds": [2.0, 1.0, 2.0]})]})
    assert "cannot be judged" in efficiency.formula_finding(alike)


def test_the_formula_leaves_out_a_vision_encoder_whose_features_are_kept(measured: Measurement) -> None:
    sizes = sizes_of("tiny-llava")
    real = measured.model_copy(update={"model": "tiny-llava", "total_params": sizes.total})
    frame = efficiency.formula_table(real).frame.set_index("method")
    used = sizes.dims.num_parameters + sizes.connector
    assert frame.loc["LoRA (r 16)", "operations of a step"] == (2 * used + 4 * 1000) * 400
    assert frame.loc["Full fine-tuning", "operations of a step"] == (2 * (used - 9000) + 4 * 9000) * 400


def test_without_a_measurement_the_page_says_so(tmp_path: Path) -> None:
    assert efficiency.load(Store(tmp_path), "toy") is None
    assert "Nothing was measured" in efficiency.provenance(None)
    assert efficiency.costs_table(None).frame.empty and efficiency.formula_table(None).frame.empty
    assert "Not measured yet" in efficiency.finding(None, "step_seconds")
    assert "Nothing was measured" in efficiency.formula_finding(None)
    assert cost_figures.plot_costs(None)._repr_png_().startswith(b"\x89PNG")


def test_a_measurement_is_shown_with_its_machine(measured: Measurement) -> None:
    said = efficiency.provenance(measured)
    assert "an abacus" in said and "3 rounds of 2 steps of 16 examples" in said
    assert cost_figures.plot_costs(measured)._repr_png_().startswith(b"\x89PNG")


def test_a_damaged_measurement_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = efficiency.path_of(store, "toy")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**CONTENT, "rows": [{**ROWS[0], "trainable_params": "many"}]}))
    with pytest.raises(MmpeftError, match=r"toy\.json: rows\.0\.trainable_params"):
        efficiency.load(store, "toy")


@pytest.mark.parametrize("missing", [0.0, 0.5, 1.0])
def test_counts_come_from_records_where_there_are_any(tmp_path: Path, missing: float) -> None:
    asked = question("efficiency")
    store = fill(Store(tmp_path), asked.planned(), missing=missing)
    table = efficiency.counts_table(comparison.read(asked, store))
    assert len(table.frame) == len(asked.variants)
    assert table.frame["trained"].notna().all() == (missing == 0.0)
    assert table._repr_html_().startswith("<div")


def test_every_run_of_the_page_belongs_to_other_questions() -> None:
    mine = {run.run_id for run in load_question("efficiency").planned()}
    others = {run.run_id for name in ("method", "capacity", "stability") for run in load_question(name).planned()}
    assert mine <= others


def test_the_sizes_are_those_of_the_published_models() -> None:
    seven, thirteen = flops.PAPER_SIZES.values()
    assert seven.dims.num_parameters == 6_738_415_616  # Vicuna-7B
    assert thirteen.dims.num_parameters == 13_015_864_320  # Vicuna-13B
    shares = {
        name: flops.added(method, seven) / (seven.total + flops.added(method, seven))
        for name, method in flops.PAPER_METHODS.items()
    }
    printed = {"lora": 4.332, "adapter": 2.771, "prefix": 0.074}  # the paper's Table 15, percent
    assert {name: round(100 * shares[name], 3) for name in printed} == printed


def test_the_formulas_are_the_papers() -> None:
    assert flops.training(100, 10, 3) == (200 + 40) * 3
    assert flops.inference(100, 2, 5, 3) == 2 * (100 + 30)
    assert flops.trained_through(100, 10, 3) == (400 + 60) * 3
    assert flops.share_left_out(100, 0) == 0.5


def test_each_printed_number_implies_its_tokens() -> None:
    found = flops.implied_tokens()
    assert len(found) == 13
    for _, each in found.iterrows():
        dims = flops.PAPER_SIZES[each["model"]].dims
        assert flops.training(each["frozen"], each["trained"], each["train_tokens"]) == pytest.approx(each["train_flops"])
        made = flops.inference(each["total"], dims.num_layers, dims.hidden_size, each["inference_tokens"])
        assert made == pytest.approx(each["inference_flops"])
        assert each["inference_tokens"] == pytest.approx(each["train_tokens"], rel=0.02)
    assert "No single number of tokens makes them all" in flops.reading()
    assert len(flops.formulas_table().frame) == 13


def test_the_benchmark_measures_and_its_file_reads_back(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/efficiency.py", "--model", "toy", "--scale", "smoke", "--rounds", "2", "--steps", "1"]
    subprocess.run([*command, "--processes", "0", "--store", str(tmp_path)], check=True, capture_output=True)
    found = efficiency.load(Store(tmp_path), "toy")
    assert found is not None
    assert [each.method.name for each in found.rows] == ["zero-shot", "lora", "ia3", "adapter", "prefix"]
    assert all(len(each.generate_seconds) == 2 for each in found.rows)
    assert [len(each.step_seconds) for each in found.rows] == [0, 2, 2, 2, 2]
    lora = found.rows[1]
    assert lora.trainable_params == lora.stored_params > 0 and lora.adapter_bytes > 4 * lora.stored_params
