"""mini-iconqa-txt: choose the right text about line icons. Unseen: other icons in each split."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.scenes import Scene, background, place, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture, options
from mmpeft.task import Example, Scored

PROMPT = "{} Choices: {}. Choose an option from the choices to answer the question."
KINDS = ("name", "where", "larger", "more")


class MiniIconQATxt(MiniTask):
    """Icons and questions with text choices."""

    name = "mini-iconqa-txt"
    column = "IconQA-txt"
    seen = False
    metric = "accuracy of the chosen text"
    max_new_tokens = 6
    about = "Line icons: which one it is, where it is, which side has the larger one or more of them."
    sources = ("pytablericons",)
    num_pictures: ClassVar[dict[str, int]] = {"train": 4000, "dev": 500, "test": 1000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A picture of icons of this split and one question with its choices."""
        pool = world.icon_split()[split]
        kind = rng.choice(KINDS)
        scene, asked, answer, choices = getattr(self, f"_{kind}")(rng, pool)
        prompt = PROMPT.format(asked, ", ".join(choices))
        return scene, [Draft(prompt, answer, choices=choices, kind=kind)]

    def _name(self, rng: Random, pool: tuple[str, ...]) -> tuple[Scene, str, str, tuple[str, ...]]:
        scene = random_scene(rng, pool, "one", "line")
        answer = scene.names[0]
        return scene, "which icon is this?", answer, options(rng, answer, pool, rng.choice([2, 3, 4]))

    def _where(self, rng: Random, pool: tuple[str, ...]) -> tuple[Scene, str, str, tuple[str, ...]]:
        scene = random_scene(rng, pool, "two", "line")
        placed = rng.choice(scene.things)
        choices = [p.position for p in scene.things]
        rng.shuffle(choices)
        return scene, f"where is the {placed.name}?", placed.position, tuple(choices)

    def _sides(self, rng: Random, pool: tuple[str, ...], left: int, right: int, sizes: tuple[int, int]) -> Scene:
        name = rng.choice(pool)
        placed = []
        for side, count, size in (("left", left, sizes[0]), ("right", right, sizes[1])):
            x = 32 if side == "left" else 96
            rows = {1: (64,), 2: (36, 92), 3: (24, 64, 104)}[count]
            placed += [place(rng, name, side, (x, y), (size, size), 3) for y in rows]
        ground, shade = background(rng, plain=True)
        return Scene("sides", "white" if ground == "black" else ground, shade, tuple(placed), "line")

    def _larger(self, rng: Random, pool: tuple[str, ...]) -> tuple[Scene, str, str, tuple[str, ...]]:
        answer = rng.choice(("left", "right"))
        sizes = (58, 30) if answer == "left" else (30, 58)
        return self._sides(rng, pool, 1, 1, sizes), "on which side is the larger icon?", answer, ("left", "right")

    def _more(self, rng: Random, pool: tuple[str, ...]) -> tuple[Scene, str, str, tuple[str, ...]]:
        few, many = rng.choice(((1, 2), (1, 3), (2, 3)))
        answer = rng.choice(("left", "right"))
        left, right = (many, few) if answer == "left" else (few, many)
        return self._sides(rng, pool, left, right, (32, 32)), "on which side are more icons?", answer, ("left", "right")

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of the chosen text; a prediction that names no choice is unparsed and wrong."""
        return scoring.choices(examples, predictions)
