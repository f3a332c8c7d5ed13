"""Costs on a GPU: the harness on a tiny model of the same architecture, and the page with and without what it leaves."""

import importlib.util
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch

from mmpeft.calc import sizes_in, sizes_of, step_flops, step_memory
from mmpeft.errors import MmpeftError
from mmpeft.gpus import HEADROOM_RATIO, USED_SHARE, gpu_of
from mmpeft.loading import on_meta
from mmpeft.methods import METHODS
from mmpeft.models import known
from mmpeft.plan import load_question
from mmpeft.planner import shape_of
from mmpeft.study import gpu_costs
from mmpeft.study.gpu_costs import Cost, GpuCosts

torch.set_num_threads(1)
CPU = torch.device("cpu")
ROWS = ["zero-shot/*", "lora/mlp/tuned", "prefix/both/frozen"]
TINY = ["--tiny", "--scale", "smoke", "--steps", "2", "--most", "4", "--answers", "2", "--new-tokens", "3", "--repetitions", "1"]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    found = importlib.util.spec_from_file_location("gpu_cost", Path("benchmarks/gpu_cost.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the file that the harness leaves."""
    path = tmp_path_factory.mktemp("costs")
    bench.measure(bench.parsed([*TINY, "--rows", *ROWS, "--store", str(path)]))
    return path


@pytest.fixture
def measured(folder: Path) -> GpuCosts:
    (found,) = gpu_costs.load_all(str(folder))
    return found


def again(bench: ModuleType, path: Path, *words: str) -> GpuCosts:
    found: GpuCosts = bench.measure(bench.parsed([*TINY, *words, "--store", str(path)]))
    return found


def test_each_row_is_trained_and_answers_at_the_planners_shape(bench: ModuleType, measured: GpuCosts) -> None:
    words = shape_of("llava-1.5-7b", "mini-scienceqa")
    assert measured.shape == replace(words, num_tokens=words.num_tokens - 576 + 4)
    assert measured.model == "llava-1.5-7b-tiny" and measured.matrix_flops > 0
    zero_shot, lora, prefix = measured.rows
    assert zero_shot.largest_batch is None and not zero_shot.step_seconds
    for row in (lora, prefix):
        assert (row.batch_size, row.largest_batch, len(row.step_seconds)) == (4, 4, 2)
        assert min(row.step_seconds) > 0 and row.peak_memory_bytes > 0
        assert row.trainable_params == measured.setup(row).trained > 0
    for row in measured.rows:
        assert [each.batch_size for each in row.answering] == [1, 2] and not row.error
        assert all(each.first_token_seconds[0] > 0 and each.token_seconds[0] > 0 for each in row.answering)


def test_what_is_measured_is_not_measured_again_and_other_rows_join_it(bench: ModuleType, folder: Path, tmp_path: Path) -> None:
    (path,) = folder.glob("*.json")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    before = gpu_costs.load(copy)
    assert before is not None
    assert again(bench, tmp_path, "--rows", *ROWS) == before and copy.read_bytes() == path.read_bytes()
    more = again(bench, tmp_path, "--rows", "ia3/mlp/*")
    assert [row.method.name for row in more.rows] == ["zero-shot", "lora", "ia3", "ia3", "prefix"]  # in the order of METHODS
    assert [row for row in more.rows if row.method.name != "ia3"] == before.rows
    assert gpu_costs.load(copy) == more
    assert again(bench, tmp_path, "--minutes", "0") == more
    with pytest.raises(MmpeftError, match=r"was measured with num_steps 2 \(now 3\): remove it, or name another --store"):
        again(bench, tmp_path, "--steps", "3")
    with pytest.raises(MmpeftError, match=r"--rows: none is lora; there are zero-shot/both/frozen, connector/both/tuned, "):
        again(bench, tmp_path, "--rows", "lora")


def test_a_failed_row_says_why_and_is_tried_again(bench: ModuleType, folder: Path, measured: GpuCosts, tmp_path: Path) -> None:
    model = bench.shrunk(known("llava-1.5-7b"))
    stubborn = replace(model, entry=replace(model.entry, refused={"ia3": "it will not"}))
    (spec,) = [spec for spec in bench.asked("llava-1.5-7b", "smoke") if bench.name_of(spec) == "ia3/mlp/frozen"]
    row = bench.measured(spec, stubborn, measured.shape, CPU, measured.settings)
    assert row.error == "MmpeftError: method 'ia3' is refused on model 'llava-1.5-7b-tiny': it will not."
    failed = measured.model_copy(update={"rows": [*measured.rows, row]})
    failed.save(tmp_path / next(folder.glob("*.json")).name)
    assert "Failed: (IA)³: MmpeftError: method 'ia3' is refused" in str(gpu_costs.finding([failed]))
    mended = again(bench, tmp_path, "--rows", "ia3/mlp/frozen")
    assert len(mended.rows) == 4 and not any(row.error for row in mended.rows)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """This process may take 100 MiB more than it has."""
    held = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * held + 100 * 2**20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux says how much a process has")
def test_too_little_memory_is_a_result(bench: ModuleType, measured: GpuCosts, request: pytest.FixtureRequest) -> None:
    (spec,) = [spec for spec in bench.asked("llava-1.5-7b", "smoke") if bench.name_of(spec) == "lora/mlp/frozen"]
    row = bench.Bench(spec, bench.shrunk(known("llava-1.5-7b")), measured.shape, CPU)
    assert row.fits(1)  # whatever a first step needs once is there now
    request.getfixturevalue("little_memory")
    assert not row.fits(500)
    assert row.fits(2)
    assert row.answering(2000, 2, 1).token_seconds == []


def test_a_measurement_that_runs_out_of_memory_late_is_made_again_with_fewer(bench: ModuleType, measured: GpuCosts) -> None:
    (spec,) = [spec for spec in bench.asked("llava-1.5-7b", "smoke") if bench.name_of(spec) == "lora/mlp/frozen"]

    class Tight(bench.Bench):  # type: ignore[name-defined, misc]
        def steps(self, size: int, number: int) -> list[float]:
            if number > bench.TRIAL_STEPS and size > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return list(super().steps(size, number))

    settings = {"batch_size": 4, "most": 4, "num_steps": 1, "answers": 1, "num_new_tokens": 2, "repetitions": 1}
    found = bench._found(Tight(spec, bench.shrunk(known("llava-1.5-7b")), measured.shape, CPU), settings)
    assert (found["largest_batch"], found["batch_size"], len(found["step_seconds"])) == (4, 1, 1)


@pytest.mark.parametrize("start", [1, 3, 8])
def test_the_largest_batch_is_found_by_doubling_and_halving(bench: ModuleType, start: int) -> None:
    for most in (1, 8, 50):
        for limit in range(60):
            tried: list[int] = []

            def fits(size: int, limit: int = limit, tried: list[int] = tried) -> bool:
                tried.append(size)
                return size <= limit

            assert bench.largest(fits, start, most) == min(limit, most)
            assert len(set(tried)) == len(tried) <= 12 and max(tried) <= most


def test_every_method_is_measured_at_each_place_at_the_papers_sizes(bench: ModuleType) -> None:
    rows = bench.asked("llava-1.5-13b", "paper")
    assert len({bench.name_of(spec) for spec in rows}) == len(rows) == 2 + 2 + 3 * 3 * 2 + 2
    assert {spec.method.name for spec in rows} == set(METHODS)
    (task,) = {spec.task for spec in rows}
    asked = load_question("method", "paper")
    papers, ours = ({(spec.method, spec.location, spec.connector.tuned) for spec in specs} for specs in (asked.specs(), rows))
    assert papers < ours
    assert all(spec.train.precision == "bf16" and spec.model == "llava-1.5-13b" for spec in rows)
    assert shape_of("llava-1.5-7b", task).num_tokens == max(shape_of("llava-1.5-7b", each).num_tokens for each in asked.tasks)


def test_the_full_size_is_the_calculators(bench: ModuleType) -> None:
    model = known("llava-1.5-7b")
    encoder = on_meta(model).get_submodule(model.entry.vision_encoder)
    assert sizes_in(model, sum(p.numel() for p in encoder.parameters())) == sizes_of("llava-1.5-7b")


def at_full_size(device: str, rows: list[Cost]) -> GpuCosts:
    sizes = sizes_of("llava-1.5-7b")
    settings = {"scale": "paper", "task": "scienceqa", "precision": "bf16", "most": 128, "num_new_tokens": 16, "num_rows": 24}
    return GpuCosts(
        model="llava-1.5-7b",
        settings=settings,
        environment={"torch": "2"},
        measured_at="2026-11-23T00:00:00+00:00",
        device=device,
        memory_bytes=81_559 * 2**20,
        matrix_flops=800e12,
        sizes=sizes,
        shape=shape_of("llava-1.5-7b", "scienceqa"),
        rows=rows,
    )


def test_the_page_compares_with_the_calculator() -> None:
    (spec,) = [each for each in load_question("efficiency", "paper").specs() if each.method.name == "ia3"]
    row = Cost(method=spec.method, location="both", connector_tuned=True, batch_size=8, largest_batch=30)
    costs = at_full_size("NVIDIA H100 80GB HBM3", [row])
    setup = costs.setup(row)
    flops, memory = step_flops(setup, 8, costs.shape), step_memory(setup, 8, costs.shape).total
    seconds = flops / 989e12 / 0.7  # twice as fast as assumed
    row = row.model_copy(update={"step_seconds": [9.0, seconds, seconds / 2], "peak_memory_bytes": round(memory / 1.25)})
    costs = at_full_size(costs.device, [row])
    (found,) = gpu_costs.compared(costs).to_dict("records")
    assert found["used_share"] == pytest.approx(0.7) and found["share_of_peak"] == pytest.approx(0.7 * 989 / 800)
    assert found["computed_seconds"] == pytest.approx(seconds * 0.7 / USED_SHARE)
    assert found["tokens_per_second"] == pytest.approx(8 * costs.shape.num_tokens / seconds)
    largest = found["computed_largest"]
    limit = gpu_of("h100").memory_bytes * HEADROOM_RATIO
    assert step_memory(setup, largest, costs.shape).total <= limit < step_memory(setup, largest + 1, costs.shape).total
    said = str(gpu_costs.finding([costs])).replace("\u202f", " ")
    assert "off by 25 % in the median row and 25 % at worst ((IA)³, both, tuned) in peak memory, and by 100 %" in said
    assert "35 % of the h100's 989 TFLOP/s; measured were 70 %: `--used-share 0.7`" in said and "weights were random" in said
    table = gpu_costs.table([costs])
    assert table is not None and f"30<small>computed {largest}</small>" in table.html


def test_what_does_not_fit_is_said_and_breaks_no_page() -> None:
    (full,) = {spec.method for spec in load_question("method", "paper").specs() if spec.method.name == "full"}
    alone = at_full_size("some card", [Cost(method=full, location="both", connector_tuned=False, largest_batch=0)])
    assert "Not even one example fits with Full fine-tuning, frozen." in str(gpu_costs.finding([alone]))
    table = gpu_costs.table([alone])
    assert table is not None and "0<small>computed 0</small>" in table.html


@pytest.mark.parametrize(
    ("device", "sheet"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("cpu x86_64", None),
    ],
)
def test_a_device_is_known_by_its_drivers_name(device: str, sheet: str | None) -> None:
    assert at_full_size(device, []).sheet == sheet


def shown(folder: str) -> list[object]:
    """What the cells of the book's section show."""
    cells = [cell for cell in nbformat.read("notebooks/reproduce.ipynb", as_version=4).cells if cell.id.startswith("on-gpus")]
    names = {"gpu_costs": gpu_costs, "costs": folder}
    found = []
    for *before, last in (cell.source.splitlines() for cell in cells if cell.cell_type == "code"):
        exec("\n".join(before), names)
        found.append(eval(last, names))
    return found


def test_without_measurements_the_section_is_one_sentence(tmp_path: Path) -> None:
    said, *rest = shown(str(tmp_path))
    assert "Nothing has been measured on a GPU yet" in str(said) and gpu_costs.COMMAND in str(said)
    assert rest == [None, None]


def test_with_measurements_the_section_shows_them(folder: Path, measured: GpuCosts) -> None:
    said, table, finding = shown(str(folder))
    assert "llava-1.5-7b-tiny, random weights" in str(said) and "3 of 24 rows" in str(said) and measured.device in str(said)
    assert isinstance(table, gpu_costs.Table) and list(table.frame["method"]) == [row.name for row in measured.rows]
    assert "2 answers: first token (ms)" in table.html and "nan" not in table.html.lower()
    assert "the measured peak" in str(finding)


def test_a_damaged_file_is_named_with_the_command_that_makes_it_anew(folder: Path, tmp_path: Path) -> None:
    (path,) = folder.glob("*.json")
    (tmp_path / path.name).write_text(path.read_text().replace('"largest_batch": 4', '"largest_batch": "many"'))
    with pytest.raises(MmpeftError, match=r"\.json: rows\.1\.largest_batch: .*measure again: python benchmarks/gpu_cost\.py"):
        gpu_costs.load_all(str(tmp_path))
