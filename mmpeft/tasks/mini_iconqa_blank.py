"""mini-iconqa-blank: fill in the blank about line icons: counting, rows, the name. Unseen: other icons in each split."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.metrics import iconqa_blank_match
from mmpeft.mini import world
from mmpeft.mini.scenes import Scene, copies, place, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture
from mmpeft.task import Example, Scored

SUFFIX = "Fill in the blanks in () or answer this question."
LARGEST = 8


class MiniIconQABlank(MiniTask):
    """Icons and blanks."""

    name = "mini-iconqa-blank"
    column = "IconQA-blank"
    seen = False
    metric = "exact match"
    max_new_tokens = 4
    about = "Blanks about line icons: how many there are, how many in a row or column, and what they show."
    sources = ("pytablericons",)
    num_pictures: ClassVar[dict[str, int]] = {"train": 4000, "dev": 500, "test": 1000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A picture of icons of this split and one blank."""
        pool = world.icon_split()[split]
        kind = rng.choices(["count", "grid", "name"], [0.5, 0.3, 0.2])[0]
        ground = random_scene(rng, pool, "copies", "line")
        name = ground.names[0]
        if kind == "name":
            return ground, [Draft(f"this is a picture of ( ). {SUFFIX}", name, kind=kind)]
        if kind == "count":
            number = rng.randint(1, LARGEST)
            scene = Scene("copies", ground.background, ground.shade, tuple(copies(rng, name, number)), "line")
            asked = rng.choice(["there are ( ) icons.", "how many icons are there? ( )"])
            return scene, [Draft(f"{asked} {SUFFIX}", str(number), kind=kind)]
        rows, columns = rng.randint(1, 3), rng.randint(1, 3)
        spots = [(22 + 42 * c, 22 + 42 * r) for r in range(rows) for c in range(columns)]
        placed = tuple(place(rng, name, "copies", s, (34, 42), 2) for s in spots)
        scene = Scene("copies", ground.background, ground.shade, placed, "line")
        line, answer = rng.choice([("rows", rows), ("columns", columns)])
        return scene, [Draft(f"there are ( ) {line} of icons. {SUFFIX}", str(answer), kind=kind)]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Exact match; an empty prediction is unparsed."""
        return scoring.matched(examples, predictions, iconqa_blank_match)
