"""Figures of sweeps come with no, some and all records, with labeled axes and one color a method."""

from pathlib import Path

import pytest
from fixture_records import fill, question
from matplotlib.colors import to_hex

from mmpeft.records import Store
from mmpeft.study import comparison, curve_report, curves, figures, sweep_figures
from mmpeft.study.comparison import Results

NAMES = ("location", "capacity", "data_size", "stability", "connector", "learning_rate")


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 50)
        yield patch


def drawn(name: str, results: Results, store: Store) -> list[figures.Picture]:
    sizes = curves.lines(results, curves.method_parameters)
    return {
        "location": lambda: [sweep_figures.plot_locations(results)],
        "capacity": lambda: [sweep_figures.plot_lines(results, {"size": sizes}, "parameters of the method")],
        "data_size": lambda: [sweep_figures.plot_lines(results, curve_report.data_arms(results), "training examples")],
        "stability": lambda: [sweep_figures.plot_seeds(results), sweep_figures.plot_losses(results, store)],
        "connector": lambda: [sweep_figures.plot_effects(results)],
        "learning_rate": lambda: [sweep_figures.plot_trials(results), figures.plot_learning_rates(results)],
    }[name]()


@pytest.mark.parametrize("missing", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_whatever_is_missing(name: str, missing: float, tmp_path: Path) -> None:
    asked = question(name, model="tiny-llava", columns=["ScienceQA", "OKVQA"], seeds=[0, 1])
    store = fill(Store(tmp_path), asked.planned() if missing < 1 else [], missing=missing)
    results = comparison.read(asked, store)
    for figure in drawn(name, results, store):
        assert figure._repr_png_().startswith(b"\x89PNG")
        if name == "learning_rate" and missing == 1.0:
            continue  # no method, no panel of it
        assert all(axes.get_xlabel() for axes in figure.axes if axes.get_visible())
        colors = {to_hex(line.get_color()).lower() for axes in figure.axes for line in axes.lines}
        grays = {"#bfbfbf", "#767676"}
        assert colors <= {color.lower() for color in figures.COLORS.values()} | grays
        if missing == 0.0 and name not in ("stability",):
            assert figures.COLORS["lora"].lower() in colors
