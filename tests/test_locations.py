"""The two comparisons of locations: at one size, and at parameter counts that the methods' own formulas match."""

import pytest
from made_results import asked, results_of

from mmpeft.entry import Dims
from mmpeft.plan import load_question
from mmpeft.registry import known_dims
from mmpeft.spec import RunSpec
from mmpeft.study import comparison, locations, paper, paper_sweeps
from mmpeft.study.comparison import Results
from mmpeft.tasks import TASKS

ASKED = asked("location")
VICUNA_7B = Dims(4096, 11008, 32, 32, 32, 128, 32000)


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 400)
        yield patch


def by_count(spec: RunSpec) -> float:
    """What counts is how many parameters are trained, not where; nothing on seen tasks."""
    dims = known_dims("tiny-llava")
    assert dims is not None
    return 0.3 if TASKS[spec.task].seen or not spec.method.trains else 0.3 + spec.method.num_trainable(dims, spec.location) / 1e6


def by_place(spec: RunSpec) -> float:
    """The MLP is the place for every method; on the seen tasks attention is."""
    best = "attention" if TASKS[spec.task].seen else "mlp"
    return 0.6 if spec.location == best else 0.5


@pytest.fixture(scope="module")
def counted() -> Results:
    return results_of(ASKED, by_count)


SIZES = [
    ("tiny", known_dims("tiny-llava")),
    ("small", known_dims("smollm2-llava")),
    ("small-hub", known_dims("smolvlm-256m")),
    ("paper", VICUNA_7B),
]


@pytest.mark.parametrize(("scale", "dims"), SIZES)
def test_six_rows_of_lora_and_adapter_train_equally_many_parameters(scale: str, dims: Dims) -> None:
    trained = {(v.method, v.location) for v in load_question("location", scale).variants if v.method.name in ("lora", "adapter")}
    counts = {(method.name, place, method.size): method.num_trainable(dims, place) for method, place in trained}
    target = max(count for (name, place, _), count in counts.items() if (name, place) == ("lora", "both"))
    near = {(name, place) for (name, place, _), count in counts.items() if abs(count / target - 1) <= 0.03}
    assert near == {(name, place) for name in ("lora", "adapter") for place in ("attention", "mlp", "both")}
    matched = [count for count in counts.values() if abs(count / target - 1) <= 0.03]
    assert max(matched) / min(matched) <= 1.03


def test_the_families_hold_what_they_promise(counted: Results) -> None:
    found = locations.families(counted)
    assert list(found["same size"]) == ["LoRA, tuned", "(IA)³, tuned", "Adapter, tuned"]
    assert list(found["same count"]) == ["LoRA, tuned", "Adapter, tuned"]  # (IA)³ has no size to choose
    sizes = locations.locations_table(counted, "same size").frame["parameters"].astype(float)
    counts = locations.locations_table(counted, "same count").frame["parameters"].astype(float)
    assert (sizes.xs("both", level=1) > 1.3 * sizes.xs("mlp", level=1)).all()
    assert counts.max() / counts.min() <= 1 + locations.TOLERANCE


def test_an_effect_of_size_is_gone_at_matched_counts(counted: Results) -> None:
    large = locations.differences_table(counted, "same size").frame.loc["LoRA, tuned"]
    small = locations.differences_table(counted, "same count").frame.loc["LoRA, tuned"]
    head = ("unseen average, points", "both over attention", "mean")
    assert large[head] == pytest.approx(0.168960) and abs(small[head]) < 0.005
    assert "LoRA, tuned: both with" in locations.best_location(counted, "same size", "unseen")


def test_an_effect_of_place_stays_at_matched_counts() -> None:
    results = results_of(ASKED, by_place, noise=0.05)
    for family in ("same size", "same count"):
        unseen, seen = (locations.best_location(results, family, group) for group in ("unseen", "seen"))
        assert "LoRA, tuned: mlp with" in unseen and "clearly above the others" in unseen
        assert "Adapter, tuned: attention with" in seen


def test_the_papers_best_locations_are_held_against_ours() -> None:
    checks = {check.statement: check for check in paper_sweeps.location_checks(results_of(ASKED, by_place, noise=0.02))}
    assert checks["best location of LoRA, unseen columns"].verdict == "disagrees"  # both, in the paper
    assert checks["best location of Adapter, unseen columns"].verdict in ("agrees", "undecided")
    assert checks["best location of LoRA, seen columns"].verdict == "agrees"  # attention, by more than a point
    assert checks["best location of (IA)³, seen columns"].verdict == "undecided"  # the paper's lead is too small
    table = paper_sweeps.published_locations(results_of(ASKED, by_place)).frame
    assert table.loc[("LoRA", "both"), ("average (%)", "unseen, these columns")] == pytest.approx((0.862 + 0.888) / 2)
    assert "What does not hold" in paper.checks_told(list(checks.values()))


def test_a_lead_that_is_surely_smaller_than_the_margin_bears_no_place_out() -> None:
    def hardly(spec: RunSpec) -> float:
        return 0.5 + 0.005 * (spec.location == "attention")

    checks = {check.statement: check for check in paper_sweeps.location_checks(results_of(ASKED, hardly))}
    lora = checks["best location of LoRA, seen columns"]
    assert lora.here.startswith("attention, +0.5 points") and lora.verdict == "disagrees"


def test_without_runs_nothing_is_claimed() -> None:
    nothing = results_of(ASKED, by_place, keep=lambda spec: False)
    assert "not known yet" in locations.best_location(nothing, "same size", "unseen")
    assert locations.locations_table(nothing, "same count").frame["unseen"].isna().all()
    assert paper_sweeps.location_checks(nothing) == []
    assert "Nothing in the paper's table" in paper.checks_told([])
