"""Floating-point operations by the formulas of the paper's Table 15, and what the printed numbers say about them.

    training    (2 P_f + 4 P_t) N_t         P_f frozen and P_t trained parameters, N_t tokens
    inference   2 (P_g + L d N_t)           P_g all parameters at generation, L layers of width d

A forward pass costs 2 operations a parameter and token, and a backward pass 4: two for the gradient that goes on to the
layer below and two for that of the weight itself. So the first formula leaves out the gradient that goes *through* frozen
weights, 2 P_f N_t, and 2 P_t N_t of the trained ones. Where something trains in the lowest layer, as in every method here,
(4 P_f + 6 P_t) N_t is what is computed. `trained_through` is that count.

The paper does not print its N_t. Each printed number implies one, and if one N_t had made them all, these would agree.
"""

from dataclasses import replace
from functools import cache
from importlib.resources import files

import pandas as pd

from mmpeft.calc import Sizes, sizes_of
from mmpeft.methods import METHODS, Method
from mmpeft.spec import parse
from mmpeft.study.paper import METHOD_OF
from mmpeft.study.report import Prose, Table, listed, percent, to_html


def _without_added_rows(sizes: Sizes) -> Sizes:
    return replace(sizes, dims=replace(sizes.dims, vocab_size=32_000))


PAPER_SIZES = {name: _without_added_rows(sizes_of(name.lower())) for name in ("LLaVA-1.5-7B", "LLaVA-1.5-13B")}
"""The sizes of the paper's models, with the vocabulary of the original and not that of transformers' copy."""

PAPER_METHODS: dict[str, Method] = {
    "lora": parse(METHODS["lora"], {"r": 128, "lora_alpha": 256}),
    "ia3": parse(METHODS["ia3"], {}),
    "adapter": parse(METHODS["adapter"], {"bottleneck_size": 256, "placement": "paper_code"}),
    "prefix": parse(METHODS["prefix"], {"num_virtual_tokens": 20}),
}
"""The methods at the paper's sizes; of Prefix it counts what is stored, not the projection that trains."""


def training(frozen: float, trained: float, num_tokens: float) -> float:
    """The paper's count for training on so many tokens: (2 P_f + 4 P_t) N_t."""
    return (2 * frozen + 4 * trained) * num_tokens


def trained_through(frozen: float, trained: float, num_tokens: float) -> float:
    """The count with all of the backward pass: (4 P_f + 6 P_t) N_t."""
    return (4 * frozen + 6 * trained) * num_tokens


def inference(total: float, num_layers: int, width: int, num_tokens: float) -> float:
    """The paper's count for generation: 2 (P_g + L d N_t)."""
    return 2 * (total + num_layers * width * num_tokens)


def added(method: Method, sizes: Sizes) -> int:
    """Parameters that a method adds at the paper's places: the Adapter beside the MLP, the others wherever they go."""
    return method.num_stored(sizes.dims, "mlp" if method.name == "adapter" else "both")


@cache
def published() -> pd.DataFrame:
    """What can be read of Table 15: model, method, connector, train_flops, inference_flops, note."""
    with (files("mmpeft") / "data" / "paper" / "flops.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


@cache
def implied_tokens() -> pd.DataFrame:
    """The published rows with the parameter counts behind them and the N_t that each printed number implies.

    Columns beside the published ones: label, trained, frozen, total, train_tokens, inference_tokens.
    """
    rows = []
    for _, row in published().iterrows():
        sizes, method = PAPER_SIZES[row["model"]], PAPER_METHODS[METHOD_OF[row["method"]]]
        extra, tuned = added(method, sizes), sizes.connector * (row["connector"] == "tuned")
        trained, frozen, total = extra + tuned, sizes.total - tuned, sizes.total + extra
        rows.append(
            {
                **row,
                "label": METHODS[METHOD_OF[row["method"]]].label,
                "trained": trained,
                "frozen": frozen,
                "total": total,
                "train_tokens": row["train_flops"] / training(frozen, trained, 1),
                "inference_tokens": (row["inference_flops"] / 2 - total) / (sizes.dims.num_layers * sizes.dims.hidden_size),
            }
        )
    return pd.DataFrame(rows)


def formulas_table() -> Table:
    """The paper's Table 15 beside its own formulas: what is printed, the N_t it implies, and what one N_t gives for all.

    That one N_t is the median of all that the training column implies; the last columns say how far the printed numbers are
    from what it gives.
    """
    found = implied_tokens()
    tokens = float(found["train_tokens"].median())
    rows, shown = [], []
    for _, row in found.iterrows():
        dims = PAPER_SIZES[row["model"]].dims
        expected = training(row["frozen"], row["trained"], tokens)
        generated = inference(row["total"], dims.num_layers, dims.hidden_size, tokens)
        off = row["train_flops"] / expected - 1, row["inference_flops"] / generated - 1
        rows.append(
            {**row, "train_formula": expected, "inference_formula": generated, "train_off": off[0], "inference_off": off[1]}
        )
        shown.append(
            {
                "model": row["model"],
                "method": f"{row['label']}, {row['connector']}",
                "trained parameters": f"{row['trained']:,}",
                "training printed": f"{row['train_flops']:.3e}",
                "implies N_t": f"{row['train_tokens']:,.0f}",
                "off by (%)": percent(off[0], sign=True),
                "inference printed": f"{row['inference_flops']:.3e}",
                "implies N_t ": f"{row['inference_tokens']:,.0f}",
                "off by (%) ": percent(off[1], sign=True),
            }
        )
    return Table(pd.DataFrame(rows), to_html(pd.DataFrame(shown), index=False, fitted=True))


def reading() -> Prose:
    """Whether one number of tokens explains what is printed."""
    found = implied_tokens()
    said = []
    for column, name in (("train_tokens", "training"), ("inference_tokens", "inference")):
        low, high = found[column].min(), found[column].max()
        said.append(f"from {low:,.0f} to {high:,.0f} in the column of {name}")
    spread = found["train_tokens"].max() / found["train_tokens"].min() - 1
    outer = found.loc[[found["train_tokens"].idxmin(), found["train_tokens"].idxmax()]]
    names = [f"{row['label']}, {row['connector']}, of {row['model']}" for _, row in outer.iterrows()]
    verdict = "No single number of tokens makes them all" if spread > 0.01 else "One number of tokens makes them all"
    return Prose(
        f"The printed numbers imply an N_t that goes {listed(said)}. {verdict}: the ends are {listed(names)}, "
        f"{percent(spread)} percent apart. Differences between methods in the printed table are therefore in part differences "
        "in tokens, not in methods."
    )


def share_left_out(frozen: float, trained: float) -> float:
    """The share of the operations of a training step that the paper's formula leaves out."""
    return 1 - training(frozen, trained, 1) / trained_through(frozen, trained, 1)


def left_out() -> Prose:
    """What the training formula leaves out, for the paper's own rows."""
    shares = [share_left_out(row["frozen"], row["trained"]) for _, row in implied_tokens().iterrows()]
    low, high = (percent(value, 0) for value in (min(shares), max(shares)))
    much = f"{low} percent" if low == high else f"{low} to {high} percent"
    return Prose(f"The training formula leaves out the gradient that goes through frozen weights: {much} of a step.")
