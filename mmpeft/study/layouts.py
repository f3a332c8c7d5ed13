"""Which layout of a method gives which percentage of the paper's Table 15: tables and sentences from counts at full size."""

import pandas as pd

from mmpeft.counts import CHOSEN, counts, published, rows, unmet
from mmpeft.methods import METHODS
from mmpeft.study.report import Prose, Table, listed, to_html


def layouts_table(name: str) -> Table:
    """What each method trains on a model at its full size, at the paper's sizes; a printed number stands where it is met.

    Args:
        name: A model of MODELS.
    """
    frame = pd.DataFrame(rows(name))
    shown = pd.DataFrame(
        {
            "method": [METHODS[row["method"]].label for _, row in frame.iterrows()],
            "layout": frame["layout"].str.replace("_", " "),
            "location": frame["location"],
            "trained": [f"{value:,}" for value in frame["trained"]],
            "kept": [f"{value:,}" for value in frame["kept"]],
            "frozen (%)": [f"{value:.3f}" for value in frame["percent"]],
            "printed": frame["printed"],
            "tuned (%)": [f"{value:.3f}" for value in frame["percent_tuned"]],
            "printed ": frame["printed_tuned"],
        }
    )
    return Table(frame, to_html(shown, index=False, fitted=True))


def reading(*names: str) -> Prose:
    """How many of the printed percentages the counts give, which they do not, and which layout of the Adapter it is."""
    printed = published()[published()["model"].isin(names)]
    missed = [(name, *each) for name in names for each in unmet(name)]
    met = len(printed) - len(missed)
    said = f"Of {len(printed)} percentages that can be read for {listed(names)}, {met} are met to the last digit."
    for name, method, connector, value, nearest in missed:
        what = f"{METHODS[method].label} with a {connector} connector on {name}"
        said += f" {what} is printed as {value}; the count is {nearest:.5f}."
    layouts = {
        f"{one.layout.replace('_', ' ')}, at {one.location}"
        for name in names
        for one in counts(name)
        if one.method == "adapter" and f"{one.percent_tuned:.3f}" in set(_adapters(name))
    }
    return Prose(
        f"{said} For the Adapter, of width {CHOSEN['adapter']}, they belong to {listed(sorted(layouts))}: the layout of the "
        "published code. The two adapters a layer that the paper's text describes, after attention and after the feed-forward "
        "network, would be another number."
    )


def _adapters(name: str) -> pd.Series:
    rows = published()[published()["model"] == name]
    return rows[(rows["method"] == "adapter") & (rows["connector"] == "tuned")]["percent"]
