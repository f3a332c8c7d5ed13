"""Attention, mlp or both: the rows of a method that differ in where it sits, compared in two ways.

- ``same size``: the method's settings are the same everywhere, as in the paper, so that «both» trains most.
- ``same count``: its size is chosen so that every location trains as many parameters, within TOLERANCE.
"""

from collections.abc import Mapping
from itertools import product
from typing import get_args

from mmpeft.decide import verdicts
from mmpeft.entry import Location
from mmpeft.stats import Estimate
from mmpeft.study.comparison import Results, Variant
from mmpeft.study.curve_report import groups_of, name_of
from mmpeft.study.curves import Line, Point, level, method_parameters, spec_of, step
from mmpeft.study.differences import Cells, compared, framed
from mmpeft.study.report import DASH, Prose, Table, cell, listed, with_interval

Family = dict[str, dict[str, Variant]]
"""For each method's name the row at each location."""

PLACES: tuple[str, ...] = get_args(Location)
TOLERANCE = 0.03
"""So much more than the smallest count of a family may the largest be."""


def families(results: Results) -> dict[str, Family]:
    """The two comparisons, as far as the plan holds them."""
    rows: dict[str, dict[str, list[Variant]]] = {}
    for variant in results.variants:
        spec = spec_of(results, variant)
        if spec.method.has_location and spec.method.trains:
            name = name_of(Line(variant.label, variant.connector, ()))
            rows.setdefault(name, {}).setdefault(spec.location, []).append(variant)
    complete = {name: by_place for name, by_place in rows.items() if set(by_place) == set(PLACES)}
    found = {"same size": _same_size(results, complete), "same count": _same_count(results, complete)}
    return {name: family for name, family in found.items() if family}


def _same_size(results: Results, rows: Mapping[str, Mapping[str, list[Variant]]]) -> Family:
    family = {}
    for name, by_place in rows.items():
        for candidates in product(*(by_place[place] for place in PLACES)):
            if len({spec_of(results, row).method for row in candidates}) == 1:
                family[name] = dict(zip(PLACES, candidates, strict=True))
    return family


def _same_count(results: Results, rows: Mapping[str, Mapping[str, list[Variant]]]) -> Family:
    family = {}
    for name, by_place in rows.items():
        spreads = {rows: _spread(results, rows) for rows in product(*(by_place[place] for place in PLACES))}
        best = min(spreads, key=lambda rows: spreads[rows])
        if spreads[best] <= TOLERANCE:
            family[name] = dict(zip(PLACES, best, strict=True))
    return family


def _spread(results: Results, rows: tuple[Variant, ...]) -> float:
    """How much more the largest row trains than the smallest, as a share; infinite if a count is not known."""
    counts = [method_parameters(results, row) for row in rows]
    known = [count for count in counts if count]
    return max(known) / min(known) - 1 if len(known) == len(counts) else float("inf")


def locations_table(results: Results, family: str) -> Table:
    """A row for each method and location of a family: size, parameters of the method itself, the two averages."""
    rows: Cells = {}
    shown: Cells = {}
    for name, by_place in families(results).get(family, {}).items():
        for place, variant in by_place.items():
            method, count = spec_of(results, variant).method, method_parameters(results, variant)
            found = {group: level(results, Point(0.0, (variant,)), group) for group in groups_of(results)}
            rows[name, place] = {"parameters": count} | {group: e.mean if e else None for group, e in found.items()}
            size = f"{method.size_field} {method.size}" if method.size_field else DASH
            shown[name, place] = {"size": size, "parameters": f"{count:,.0f}" if count else DASH}
            shown[name, place] |= {f"{group} average (%)": cell(e) for group, e in found.items()}
    return framed(rows, shown, "No method of the plan has all three locations in this comparison.", results)


def differences_table(results: Results, family: str) -> Table:
    """For each method the paired differences between locations, in points."""
    rows: Cells = {}
    shown: Cells = {}
    for (name, group, a, b), e in _differences(results, family).items():
        head = (f"{group} average, points", f"{a} over {b}")
        rows.setdefault(name, {}).update({(*head, part): getattr(e, part, None) for part in ("mean", "low", "high")})
        shown.setdefault(name, {})[head[0], f"{a} over<br>{b}"] = e
    return compared(rows, shown, "No method of the plan has all three locations in this comparison.", results)


def _differences(results: Results, family: str) -> dict[tuple[str, str, str, str], Estimate | None]:
    """By method, group and two locations, how much higher the first scores than the second."""
    points = {
        name: {place: Point(0.0, (row,)) for place, row in by_place.items()}
        for name, by_place in families(results).get(family, {}).items()
    }
    pairs = (("mlp", "attention"), ("both", "attention"), ("both", "mlp"))
    return {
        (name, group, a, b): step(results, at[b], at[a], group)
        for name, at in points.items()
        for group, (a, b) in product(groups_of(results), pairs)
    }


def best_location(results: Results, family: str, group: str) -> Prose:
    """For each method the location with the highest average, and those that cannot be told apart from it."""
    told = []
    differences = _differences(results, family)
    sure = verdicts(differences, 0.0)
    turned = verdicts({(n, g, b, a): e.reversed if e else None for (n, g, a, b), e in differences.items()}, 0.0)
    for name, by_place in families(results).get(family, {}).items():
        found = {place: e for place, row in by_place.items() if (e := level(results, Point(0.0, (row,)), group))}
        if len(found) < len(PLACES):
            continue
        best = max(found, key=lambda place: found[place].mean)
        others = [place for place in PLACES if place != best]
        equal = [p for p in others if "higher" not in (sure.get((name, group, best, p)), turned.get((name, group, best, p)))]
        apart = f"not told apart from {listed(equal)}" if equal else "clearly above the others"
        told.append(f"{name}: {best} with {with_interval(found[best])}, {apart}")
    if not told:
        return Prose(f"Which location is best on the {group} tasks, {_words(family)}, is not known yet.")
    return Prose(f"On the {group} tasks, {_words(family)}, the highest average is, for {'; for '.join(told)}.")


def _words(family: str) -> str:
    return "each method of one size" if family == "same size" else "at matched parameter counts"
