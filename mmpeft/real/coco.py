"""Words for the eighty things that COCO marks, for CHAIR: captions are read with them.

The list ``coco.csv`` is this project's own. Where the authors' list lies at ``$MMPEFT_DATA/coco/synonyms.txt`` it is taken
instead, and what was taken is said beside the scores' data: the two give different rates, so never mix them in one table.

Source: Rohrbach et al. 2018, arXiv:1809.02156; their list is data/synonyms.txt of github.com/LisaAnne/Hallucination.
"""

import csv
from functools import cache
from importlib.resources import files

from mmpeft.real.places import data_folder

IRREGULAR = {"wolf": "wolves", "calf": "calves", "knife": "knives", "sheep": "sheep", "skis": "skis", "scissors": "scissors"}
SIBILANTS = ("s", "x", "z", "ch", "sh")


def names() -> dict[str, str]:
    """Every word that names a thing, singular and plural, and the thing's name with COCO."""
    return _official(str(root)) if (root := data_folder()) and (root / "coco" / "synonyms.txt").is_file() else _own()


def words_used() -> str:
    """Which of the two lists :func:`names` reads."""
    return "authors' synonyms.txt" if names() is not _own() else "mmpeft's coco.csv"


@cache
def _own() -> dict[str, str]:
    with (files("mmpeft.real") / "coco.csv").open(encoding="utf-8") as file:
        rows = [(row["thing"], row["words"].split("|")) for row in csv.DictReader(file)]
    return _with_plurals({word: thing for thing, words in rows for word in (thing, *filter(None, words))})


@cache
def _official(root: str) -> dict[str, str]:
    from pathlib import Path

    lines = (Path(root) / "coco" / "synonyms.txt").read_text(encoding="utf-8").splitlines()
    rows = [[word.strip().lower() for word in line.split(",")] for line in lines if line.strip()]
    return _with_plurals({word: row[0] for row in rows for word in row if word})


def _with_plurals(found: dict[str, str]) -> dict[str, str]:
    return {plural(word): thing for word, thing in found.items()} | found


def plural(word: str) -> str:
    """The plural of a noun, or of the last word of several: knives, buses, puppies, traffic lights."""
    *before, last = word.split(" ")
    if last in IRREGULAR:
        end = IRREGULAR[last]
    elif last.endswith("man"):
        end = f"{last[:-3]}men"
    elif last.endswith(SIBILANTS):
        end = f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        end = f"{last[:-1]}ies"
    else:
        end = f"{last}s"
    return " ".join([*before, end])
