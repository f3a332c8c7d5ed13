"""Counts at full size: the paper's printed percentages, and formulas against models on the meta device."""

from typing import Any

import pytest
import torch

from mmpeft.attach import attach, trainable_parts
from mmpeft.counts import counts, published, rows, sizes, unmet
from mmpeft.errors import MmpeftError
from mmpeft.loading import on_meta
from mmpeft.methods import Adapter, Full, Ia3, Lora, Prefix
from mmpeft.models import MODELS, Hub
from mmpeft.study.layouts import layouts_table, reading

PAPER = ("llava-1.5-7b", "llava-1.5-13b")
BIG = [name for name, model in MODELS.items() if isinstance(model.source, Hub)]


@pytest.mark.parametrize(
    ("name", "total", "connector"),
    [("llava-1.5-7b", 7_063_427_072, 20_979_712), ("llava-1.5-13b", 13_351_494_656, 31_467_520)],
)
def test_the_papers_models_have_their_published_sizes(name: str, total: int, connector: int) -> None:
    assert (sizes(name).total, sizes(name).connector) == (total, connector)


@pytest.mark.parametrize("name", BIG)
def test_the_formula_of_the_decoder_counts_every_architecture(name: str) -> None:
    assert sizes(name).language_model == sizes(name).dims.num_parameters


def row(name: str, method: str, layout: str, location: str) -> dict[str, Any]:
    wanted = (method, location)
    return next(r for r in rows(name) if (r["method"], r["location"]) == wanted and r["layout"].startswith(layout))


@pytest.mark.parametrize(
    ("name", "method", "layout", "location", "frozen", "tuned"),
    [
        ("llava-1.5-7b", "lora", "", "both", "4.332", None),
        ("llava-1.5-7b", "adapter", "paper_code", "mlp", "2.771", "3.060"),
        ("llava-1.5-7b", "ia3", "", "both", None, "0.306"),
        ("llava-1.5-7b", "prefix", "projection", "both", "0.074", "0.371"),
        ("llava-1.5-13b", "lora", "", "both", "3.615", "3.842"),
        ("llava-1.5-13b", "adapter", "paper_code", "mlp", None, "2.532"),
        ("llava-1.5-13b", "ia3", "", "both", None, "0.243"),
        ("llava-1.5-13b", "prefix", "projection", "both", "0.061", "0.297"),
    ],
)
def test_the_papers_percentages_come_out_to_the_printed_digit(
    name: str, method: str, layout: str, location: str, frozen: str | None, tuned: str | None
) -> None:
    found = row(name, method, layout, location)
    assert frozen in (None, f"{found['percent']:.3f}")
    assert tuned in (None, f"{found['percent_tuned']:.3f}")
    assert (found["printed"], found["printed_tuned"]) == (frozen or "", tuned or "")


def test_one_printed_percentage_is_cut_where_the_others_are_rounded() -> None:
    """Adapter on 13B: 2.30185, printed as 2.301. No layout rounds to that."""
    assert unmet("llava-1.5-7b") == []
    ((method, connector, printed, nearest),) = unmet("llava-1.5-13b")
    assert (method, connector, printed) == ("adapter", "frozen", "2.301")
    assert f"{nearest:.5f}" == "2.30185"
    assert len(published()) == 13


@pytest.mark.parametrize(
    ("method", "location"),
    [
        (Lora(r=128), "both"),
        (Ia3(), "both"),
        (Adapter(bottleneck_size=256), "mlp"),
        (Prefix(num_virtual_tokens=20), "both"),
        (Prefix(num_virtual_tokens=20, prefix_projection=True, encoder_hidden_size=4096), "both"),
        (Full(), "both"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_formula_counts_what_is_attached_at_full_size(method, location) -> None:
    model = MODELS["llava-1.5-7b"]
    with torch.device("meta"):
        attached = attach(on_meta(model), model.entry, method, location, True, seed=0)
    parts = trainable_parts(attached, model.entry)
    assert parts["language_model"] + parts["prompt"] == method.num_trainable(model.dims, location)
    assert parts["connector"] == sizes("llava-1.5-7b").connector


def test_counts_leave_out_what_a_model_refuses() -> None:
    assert {one.method for one in counts("gemma3-4b")} == {"lora", "ia3", "adapter"}
    assert {one.method for one in counts("llava-1.5-7b")} == {"lora", "ia3", "adapter", "prefix"}


def test_every_size_of_the_papers_sweeps_is_counted_when_asked() -> None:
    found = counts("llava-1.5-7b", every_size=True)
    assert {one.size for one in found if one.method == "adapter"} == {32, 64, 128, 256}
    assert len(found) > len(counts("llava-1.5-7b"))


@pytest.mark.parametrize("name", ["toy", "tiny-llava", "llava"])
def test_a_model_without_a_full_size_is_refused(name: str) -> None:
    with pytest.raises(MmpeftError, match=r"no other size|unknown model"):
        counts(name)


def test_the_page_says_which_layout_gives_the_printed_numbers() -> None:
    shown = layouts_table("llava-1.5-7b")
    assert len(shown.frame) == len(counts("llava-1.5-7b"))
    assert "2.771" in shown.html
    said = str(reading(*PAPER))
    assert "Of 13 percentages" in said and "12 are met" in said
    assert "paper code: one at every linear map, at mlp" in said
