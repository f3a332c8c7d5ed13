"""How many parameters each method trains on a model at its full size, without its weights.

The sizes of a model's parts are counted on the meta device, from its published configuration; what a method adds follows from its
formula, which tests hold against attached models. Percentages are the paper's: what is kept of the method, and of a tuned
connector, over the base and what is kept. Of a prefix with a projection the projection trains too, but only its output is kept.
"""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from mmpeft.entry import Dims, Location
from mmpeft.errors import MmpeftError
from mmpeft.methods import Adapter, Ia3, Lora, Method, Prefix
from mmpeft.methods.adapter import Placement
from mmpeft.models import known


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model's parts.

    Attributes:
        dims: Of its decoder.
        language_model: The decoder with its output head.
        connector: What lies between.
        vision_encoder: The rest of what sees.
        total: All of them, each tensor once.
    """

    dims: Dims
    language_model: int
    connector: int
    vision_encoder: int
    total: int


@dataclass(frozen=True)
class Count:
    """What one method trains at one place.

    Attributes:
        method: Its name.
        layout: What distinguishes it from others of its name, beside its size.
        size: The value of its size field, if it has one.
        location: attention, mlp or both.
        trained: Parameters that train, without the connector's.
        kept: Parameters needed afterwards, without the connector's.
        percent: Kept over base and kept, 0–100, with a frozen connector.
        percent_tuned: The same with a tuned connector, its parameters on top.
    """

    method: str
    layout: str
    size: int | None
    location: Location
    trained: int
    kept: int
    percent: float
    percent_tuned: float


PLACES: tuple[Location, ...] = ("attention", "mlp", "both")
_PLACEMENTS: tuple[tuple[Placement, str], ...] = (
    ("paper_code", "one at every linear map"),
    ("houlsby", "one after each block"),
    ("parallel", "one beside each block"),
)

LAYOUTS: dict[str, list[tuple[str, list[Method]]]] = {
    "lora": [("", [Lora(r=r) for r in (16, 32, 64, 128)])],
    "ia3": [("", [Ia3()])],
    "adapter": [
        (f"{placement}: {words}", [Adapter(bottleneck_size=b, placement=placement) for b in (32, 64, 128, 256)])
        for placement, words in _PLACEMENTS
    ],
    "prefix": [
        ("", [Prefix(num_virtual_tokens=m) for m in (10, 20, 30, 40)]),
        (
            "projection: out of a two-layer network while training",
            [Prefix(num_virtual_tokens=m, prefix_projection=True, encoder_hidden_size=4096) for m in (10, 20, 30, 40)],
        ),
    ],
}
"""The methods in every layout and at every size that the paper tries."""

CHOSEN = {"lora": 128, "adapter": 256, "prefix": 20}
"""The sizes the paper goes on with."""


@cache
def sizes(name: str) -> Sizes:
    """The sizes of a model's parts, counted on the meta device.

    Raises:
        MmpeftError: There is no such model, or it comes without a published configuration of its full size.
    """
    from mmpeft.attach import part_of
    from mmpeft.loading import on_meta

    model = known(name)
    if not model.square or (dims := model.dims) is None:
        raise MmpeftError(f"model '{name}' has no other size than its own; counts are there for the models of the hub.")
    parts = {"language_model": 0, "connector": 0, "vision_encoder": 0, "other": 0}
    for tensor, parameter in on_meta(model).named_parameters():
        parts[part_of(tensor, model.entry)] += parameter.numel()
    total = sum(parts.values())
    return Sizes(dims, parts["language_model"], parts["connector"], total - parts["language_model"] - parts["connector"], total)


def counts(name: str, every_size: bool = False) -> list[Count]:
    """What each method trains on a model, at each place; with every size the paper tries, or with the one it goes on with.

    Raises:
        MmpeftError: There is no such model.
    """
    found, refused = sizes(name), known(name).entry.refused
    return [
        _count(method, layout, location, found)
        for kind, layouts in LAYOUTS.items()
        if kind not in refused
        for layout, methods in layouts
        for method in methods
        if every_size or method.size in (None, CHOSEN.get(kind))
        for location in (PLACES if method.has_location else PLACES[-1:])
    ]


def _count(method: Method, layout: str, location: Location, base: Sizes) -> Count:
    kept = method.num_stored(base.dims, location)
    total = base.total + kept
    return Count(
        method=method.name,
        layout=layout,
        size=method.size,
        location=location,
        trained=method.num_trainable(base.dims, location),
        kept=kept,
        percent=100 * kept / total,
        percent_tuned=100 * (kept + base.connector) / total,
    )


@cache
def published() -> pd.DataFrame:
    """What can be read of the percentages in the paper's Table 15: model, method, connector, percent as printed (a string)."""
    with (files("mmpeft") / "data" / "paper" / "trainable.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str)


def rows(name: str, every_size: bool = False) -> list[dict[str, Any]]:
    """The counts as rows, with the numbers of the paper's Table 15 that they give to the last digit.

    Fields beside those of `Count`: printed, printed_tuned; as printed for this model and method, else empty.
    """
    found = [asdict(one) for one in counts(name, every_size)]
    mine = published()[published()["model"] == name]
    for row in found:
        for column, connector in (("percent", "frozen"), ("percent_tuned", "tuned")):
            there = mine[(mine["method"] == row["method"]) & (mine["connector"] == connector)]["percent"]
            row[column.replace("percent", "printed")] = next((p for p in there if p == f"{row[column]:.3f}"), "")
    return found


def unmet(name: str) -> list[tuple[str, str, str, float]]:
    """The printed percentages that no layout gives to the last digit: method, connector, as printed, the nearest count."""
    found = []
    for _, row in published()[published()["model"] == name].iterrows():
        there = [one for one in rows(name) if one["method"] == row["method"]]
        suffix = "" if row["connector"] == "frozen" else "_tuned"
        if all(one[f"printed{suffix}"] != row["percent"] for one in there):
            nearest = min((one[f"percent{suffix}"] for one in there), key=lambda value: abs(value - float(row["percent"])))
            found.append((row["method"], row["connector"], row["percent"], nearest))
    return found
