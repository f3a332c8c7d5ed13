"""The tables of the packaged world: things, icons, countries, films, and who may be seen in which split.

Pictures come from pinned packages (OpenMoji, Tabler, the film table of bokeh-sampledata); the facts in ``things.csv`` and
``countries.csv`` are our own. A name of two words is written with a hyphen, so that the tokenizer holds each name as one token.
"""

import csv
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random

COLORS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (24, 24, 24),
    "red": (225, 90, 90),
    "green": (110, 190, 110),
    "blue": (110, 150, 235),
    "yellow": (245, 225, 110),
    "purple": (170, 110, 200),
    "gray": (140, 140, 140),
}
PHOTOS = ("grass", "gravel", "brick")  # photographs of scikit-image used as backgrounds
BACKGROUNDS = (*COLORS, *PHOTOS)
SPLITS = ("train", "dev", "test")
_GENRES = ("animation", "sci-fi", "horror", "western", "war", "musical", "comedy", "romance", "crime", "action", "drama")


@dataclass(frozen=True)
class Thing:
    """One thing with an OpenMoji picture and the facts that hold for it (an empty fact does not apply)."""

    name: str
    code: str
    group: str
    place: str
    material: str
    use: str
    eats: str


@dataclass(frozen=True)
class Icon:
    """One line icon of the Tabler set."""

    name: str
    file: str
    group: str


@dataclass(frozen=True)
class Country:
    """One country; its picture is its flag."""

    name: str
    code: str
    capital: str
    continent: str
    language: str


@dataclass(frozen=True)
class Film:
    """One film; its picture is a rendered cover."""

    name: str
    title: str
    director: str
    genre: str


def _rows(file: str) -> list[dict[str, str]]:
    with (files("mmpeft.mini") / file).open(encoding="utf-8") as f:
        return [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(f)]


def _hyphen(row: dict[str, str], *keep: str) -> dict[str, str]:
    return {k: v if k in keep else v.replace(" ", "-") for k, v in row.items()}


@cache
def things() -> dict[str, Thing]:
    """All things by name, in the order of the table."""
    return {t.name: t for t in (Thing(**_hyphen(r, "code")) for r in _rows("things.csv"))}


@cache
def icons() -> dict[str, Icon]:
    """All icons by name, in the order of the table."""
    return {i.name: i for i in (Icon(**_hyphen(r, "file")) for r in _rows("icons.csv"))}


@cache
def countries() -> dict[str, Country]:
    """All countries by name, in the order of the table."""
    return {c.name: c for c in (Country(**_hyphen(r, "code")) for r in _rows("countries.csv"))}


def named(style: str) -> Mapping[str, Thing | Icon]:
    """What a scene of that style shows, by name: ``color`` things or ``line`` icons."""
    return icons() if style == "line" else things()


def package_folder(name: str) -> Path:
    """The folder of an installed data package, without importing it (some import heavy things)."""
    from importlib.util import find_spec

    from mmpeft.errors import MmpeftError

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MmpeftError(f"the data package '{name}' is not installed; run: pip install -r requirements.txt")
    return Path(spec.origin).parent


@cache
def films() -> dict[str, Film]:
    """160 films with one-word titles, the most reviewed ones, by title in lower case."""
    database = package_folder("bokeh_sampledata") / "_data" / "movies.db"
    query = """
        SELECT o.Title, o.Director, o.Genre FROM omdb o JOIN tomatoes t ON o.ID = t.ID
        WHERE o.Title NOT GLOB '*[^A-Za-z]*' AND length(o.Title) BETWEEN 3 AND 10
          AND o.Director NOT GLOB '*[^A-Za-z ]*' AND o.Director GLOB '* *'
        ORDER BY t.Reviews DESC, o.ID LIMIT 240"""
    with sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True) as connection:
        rows = connection.execute(query).fetchall()
    chosen: dict[str, Film] = {}
    for title, director, genre in rows:
        kinds = {g.strip().lower() for g in genre.split(",")}
        best = next((g for g in _GENRES if g in kinds), None)
        if best and title.lower() not in chosen:
            chosen[title.lower()] = Film(title.lower(), title, director.split()[-1].lower(), best)
    return dict(list(chosen.items())[:160])


def _split(names: list[str], groups: list[str], salt: str) -> dict[str, tuple[str, ...]]:
    """Names dealt to train, dev and test (60, 20 and 20 %) group by group, so that each split has every group."""
    parts: dict[str, list[str]] = {s: [] for s in SPLITS}
    for group in sorted(set(groups)):
        members = [n for n, g in zip(names, groups, strict=True) if g == group]
        Random(f"{salt}:{group}").shuffle(members)
        share = max(1, round(len(members) * 0.2))
        parts["test"] += members[:share]
        parts["dev"] += members[share : 2 * share]
        parts["train"] += members[2 * share :]
    return {s: tuple(sorted(v)) for s, v in parts.items()}


@cache
def thing_split() -> dict[str, tuple[str, ...]]:
    """Which things an unseen task may show in each split: disjoint."""
    table = things()
    return _split(list(table), [t.group for t in table.values()], "things")


@cache
def icon_split() -> dict[str, tuple[str, ...]]:
    """Which icons an unseen task may show in each split: disjoint."""
    table = icons()
    return _split(list(table), [i.group for i in table.values()], "icons")


def values(field: str) -> tuple[str, ...]:
    """The values a fact takes over all things, sorted (``field`` is group, place, material, use or eats)."""
    return tuple(sorted({getattr(t, field) for t in things().values()} - {""}))
