"""Lines of scores: their points, slopes, steps and crossings, against closed forms; what the pages say of them."""

import math

import numpy as np
import pytest
from made_results import NUM_ITEMS, asked, results_of

from mmpeft.entry import Dims
from mmpeft.registry import known_dims
from mmpeft.spec import RunSpec, TrainSpec
from mmpeft.stats import TaskScores, draws_of
from mmpeft.study import comparison, curve_report, curves
from mmpeft.study.comparison import Results
from mmpeft.study.curves import ALL, Line
from mmpeft.tasks import TASKS

CAPACITY = asked("capacity")
DATA = asked("data_size")


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 400)
        yield patch


def grows(spec: RunSpec) -> float:
    """Three points a doubling on unseen tasks, minus one on seen ones; nothing for (IA)³ and the base."""
    size = spec.method.size or 1
    return 0.4 + (-0.01 if TASKS[spec.task].seen else 0.03) * math.log2(size)


def learns(spec: RunSpec) -> float:
    """LoRA gains with data, Prefix is ahead at first, the Adapter gains with steps alone, (IA)³ not at all."""
    found = curves.length(spec.train)
    if found is None or spec.train.num_examples is None:
        return 0.2
    data, steps = math.log10(spec.train.num_examples / 160), math.log10(found[1] / 20)
    return {"lora": 0.4 + 0.3 * data, "prefix": 0.5, "adapter": 0.4 + 0.2 * steps, "ia3": 0.3}[spec.method.name]


@pytest.fixture(scope="module")
def capacity() -> Results:
    return results_of(CAPACITY, grows)


@pytest.fixture(scope="module")
def data() -> Results:
    return results_of(DATA, learns)


def line(results: Results, label: str, arm: str | None = None) -> Line:
    among = curves.arms(results)[arm] if arm else None
    number = curves.training_examples if arm else curves.method_parameters
    return next(one for one in curves.lines(results, number, among) if one.label == label)


def test_sizes_of_a_packaged_model_are_known_without_loading_it() -> None:
    dims = known_dims("tiny-llava")
    assert isinstance(dims, Dims) and dims.hidden_size == 192 and dims.key_value_size == 192
    assert known_dims("toy") is None


def test_a_line_holds_the_sizes_of_a_method_in_order(capacity: Results) -> None:
    found = {one.label: [point.x for point in one.points] for one in curves.lines(capacity, curves.method_parameters)}
    assert list(found) == ["LoRA", "(IA)³", "Adapter", "Prefix"]
    per_rank = 5 * (4 * 384 + 3 * 704)
    assert found["LoRA"] == [r * per_rank for r in (4, 8, 16, 32, 64)]
    assert [len(found[label]) for label in found] == [5, 1, 5, 5]


def test_a_slope_is_what_a_doubling_does(capacity: Results) -> None:
    unseen, seen = (curves.slope(capacity, line(capacity, "LoRA"), group) for group in ("unseen", "seen"))
    assert unseen is not None and unseen.mean == pytest.approx(0.03) and unseen.low == pytest.approx(0.03)
    assert seen is not None and seen.mean == pytest.approx(-0.01)
    assert curves.slope(capacity, line(capacity, "(IA)³"), "unseen") is None
    assert curve_report.trend(capacity, curves.lines(capacity, curves.method_parameters), "unseen").startswith(
        "On the unseen tasks, with each doubling of the parameters, the average rises for LoRA by +3.0 points"
    )
    assert "falls for LoRA" in curve_report.trend(capacity, curves.lines(capacity, curves.method_parameters), "seen")


def test_a_slope_without_an_effect_is_called_none() -> None:
    results = results_of(asked("capacity", columns=["OKVQA"], seeds=[0, 1, 2]), lambda spec: 0.5, noise=0.3)
    said = curve_report.trend(results, curves.lines(results, curves.method_parameters), "seen")
    assert "a slope not told apart from zero" in said and "not known yet" in curve_report.trend(results, [], "seen")


def test_the_smallest_size_that_is_enough_depends_on_what_size_brings(capacity: Results) -> None:
    sizes = curves.lines(capacity, curves.method_parameters)
    lora = [f"{point.x:,.0f}" for point in line(capacity, "LoRA").points]
    assert f"LoRA {lora[-1]} of {lora[-1]}" in curve_report.smaller_is_enough(capacity, sizes, "unseen")
    assert f"LoRA {lora[0]} of {lora[-1]}" in curve_report.smaller_is_enough(capacity, sizes, "seen")


@pytest.mark.parametrize("train", [{"num_epochs": 2}, {"num_epochs": 0.3}, {"num_steps": 100}])
def test_a_length_has_the_steps_that_training_makes(train: dict[str, float]) -> None:
    from mmpeft.train import num_steps

    spec = TrainSpec.model_validate({"num_examples": 90, "batch_size": 16, **train})
    found = curves.length(spec)
    assert found is not None and found[1] == num_steps(spec, 90)
    assert curves.length(TrainSpec(num_steps=3)) is None


def test_the_arms_meet_at_the_middle_size(data: Results) -> None:
    arms = curves.arms(data)
    assert list(arms) == ["2 epochs", "100 steps"]
    sizes = {arm: {curves.spec_of(data, row).train.num_examples for row in rows} for arm, rows in arms.items()}
    assert sizes == {"2 epochs": {160, 800, 1600}, "100 steps": {160, 800, 1600}}
    both = set(arms["2 epochs"]) & set(arms["100 steps"])
    assert {curves.spec_of(data, row).train.num_examples for row in both} == {800} and len(both) == 8


def test_draws_are_pooled_into_one_point_with_a_run_of_each_seed(data: Results) -> None:
    point = line(data, "LoRA", "100 steps").points[0]
    assert len(point.rows) == 2
    (scores,) = curves.pooled(data, point.rows, "seen").values()
    assert scores.scores.shape == (6, NUM_ITEMS) and set(scores.seeds) == {f"{d}/{s}" for d in (0, 1) for s in (0, 1, 2)}
    assert set(curves.pooled(data, point.rows, ALL)) == set(data.tasks())


def test_only_common_runs_are_combined() -> None:
    def scores(seeds: list[str]) -> dict[str, TaskScores]:
        items = np.array(["a", "b"])
        rows = np.array([[float(seed), float(seed)] for seed in seeds])
        return {"t": TaskScores(rows, np.array(seeds), items, items)}

    found = curves.combined([(2.0, scores(["1", "3", "2"])), (-1.0, scores(["3", "1"]))])
    assert found["t"].seeds.tolist() == ["1", "3"] and found["t"].scores.tolist() == [[1.0, 1.0], [3.0, 3.0]]
    assert curves.combined([(1.0, scores(["1"])), (1.0, scores(["2"]))]) == {}
    assert curves.combined([(1.0, scores(["1"])), (1.0, {})]) == {}
    base = {"t": curves.untrained(scores(["0"])["t"])}
    over = curves.combined([(1.0, scores(["1", "3"])), (-1.0, base)])["t"]
    assert over.seeds.tolist() == ["1", "3"] and over.scores.tolist() == [[1.0, 1.0], [3.0, 3.0]]


def test_what_data_bring_is_told_apart_from_what_steps_bring(data: Results) -> None:
    lora, adapter = ([line(data, label, arm) for arm in ("2 epochs", "100 steps")] for label in ("LoRA", "Adapter"))
    gains = [curves.step(data, one.points[0], one.points[-1], "unseen") for one in (*lora, *adapter)]
    assert [round(e.mean, 6) if e else None for e in gains] == [0.3, 0.3, 0.2, 0.0]
    said = curve_report.confound(data, curve_report.data_arms(data), "unseen")
    assert "from 160 to 1,600 examples" in said and "Adapter +20.0 points" in said


def test_a_crossing_lies_where_the_straight_lines_meet(data: Results) -> None:
    lora, prefix = (line(data, label, "100 steps") for label in ("LoRA", "Prefix"))
    found = curves.crossing(data, lora, prefix, "unseen")
    assert found is not None and found.first == "Prefix"
    assert found.x == pytest.approx(160 * 10 ** (1 / 3)) and found.low <= found.x * 1.0001 and found.high >= found.x * 0.9999
    turned = curves.crossing(data, prefix, lora, "unseen")
    assert turned is not None and turned.first == "Prefix" and turned.x == pytest.approx(found.x)
    never = curves.crossing(data, prefix, line(data, "(IA)³", "100 steps"), "unseen")
    assert never is not None and math.isnan(never.x) and never.first == "Prefix"


def test_a_crossing_that_noise_hides_has_an_open_interval() -> None:
    def nearly(spec: RunSpec) -> float:
        data = math.log10((spec.train.num_examples or 160) / 160)
        return 0.5 + (0.02 * (data - 0.5) if spec.method.name == "lora" else 0.0)

    results = results_of(DATA, nearly, noise=0.6)
    arms = curve_report.data_arms(results)
    table = curve_report.crossings_table(results, arms)
    assert len(table.frame) and ("below 160" in table.html or "above 1,600" in table.html)
    assert "in another order at the largest size" in curve_report.crossings(results, arms)


def test_crossings_of_single_draws_by_hand() -> None:
    draws = np.array([[1.0, 1.0, -1.0], [1.0, -3.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    found = curves._crossings(draws, np.array([0.0, 1.0, 2.0]))
    assert found[:4].tolist() == [1.5, 0.25, math.inf, -math.inf] and math.isnan(found[4])


@pytest.mark.parametrize("draw_sd", [0.0, 0.3, 1.0])
def test_the_interval_of_a_crossing_holds_its_place_about_as_often_as_it_says(draw_sd: float) -> None:
    rng, items = np.random.default_rng(1), np.arange(40).astype(str)
    names = np.array([f"{draw}/{seed}" for draw in (0, 1) for seed in (0, 1, 2)])
    held = []
    for _ in range(200):
        parts = []
        for truth in (2.0, 0.0, -2.0):  # the lines cross at the middle one of three sizes
            runs = rng.normal(0, draw_sd, (2, 1)) + rng.normal(0, 0.3, 3) + rng.normal(0, 0.1, (2, 3))
            scores = truth + runs.reshape(-1, 1) + rng.normal(0, 1, 40) + rng.normal(0, 1, (6, 40))
            parts.append({"t": TaskScores(scores, names, items, items, draws_of(names.tolist()))})
        found = curves.crossing_of([160, 800, 4000], parts, ("a", "b"))
        if found.first == "a" and not math.isnan(found.x):
            held.append(found.low <= 800 <= found.high)
    assert len(held) > 180 and np.mean(held) > 0.86


def test_tables_hold_what_is_known_and_dashes_for_the_rest() -> None:
    some = results_of(DATA, learns, keep=lambda spec: spec.method.name != "prefix" and spec.train.num_examples != 1600)
    arms = curve_report.data_arms(some)
    table = curve_report.points_table(some, arms, "examples")
    assert table.frame.loc[("LoRA, frozen", "160 examples")].notna().all()
    assert table.frame.loc["Prefix, frozen"].isna().all().all()
    assert curve_report.steps_table(some, arms).frame.loc[("LoRA, frozen", "2 epochs"), ("unseen", "800 to 1,600")] is None
    assert "four times in five" not in curve_report.steps_table(results_of(DATA, learns), arms).html  # no noise, no limit
    nothing = results_of(DATA, learns, keep=lambda spec: False)
    assert "not known yet" in curve_report.confound(nothing, curve_report.data_arms(nothing), "seen")
    assert "not known yet" in curve_report.crossings(nothing, curve_report.data_arms(nothing))
    assert curve_report.crossings_table(nothing, curve_report.data_arms(nothing)).frame.empty


def test_the_table_of_sizes_is_in_the_order_of_sizes(capacity: Results) -> None:
    frame = curve_report.sizes_table(capacity).frame
    assert [size for name, size in frame.index if name == "LoRA, frozen"] == [f"r {r}" for r in (4, 8, 16, 32, 64)]
    assert frame.loc[("LoRA, frozen", "r 64"), "unseen"] == pytest.approx(0.4 + 0.03 * 6)
    noisy = results_of(CAPACITY, grows, noise=0.3)
    slopes = curve_report.slopes_table(noisy, curves.lines(noisy, curves.method_parameters))
    assert "four times in five" in slopes.html
    assert slopes.frame.loc["LoRA, frozen", ("unseen", "mean")] == pytest.approx(0.03, abs=0.02)


def test_the_plan_of_trainings_counts_draws_and_runs() -> None:
    frame = curve_report.trainings_table(DATA).frame
    assert frame[["training examples", "epochs", "steps"]].to_numpy().tolist() == [
        [160, "10", "100"],
        [160, "2", "20"],
        [800, "2", "100"],
        [1600, "1", "100"],
        [1600, "2", "200"],
    ]
    assert set(frame["draws"]) == {2} and frame["runs"].sum() == len(DATA.specs()) - len(DATA.columns)
