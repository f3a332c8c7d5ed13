"""Imagined pictures: image tokens made of word embeddings, so that a decoder can learn to match before it sees anything."""

from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor, nn

from mmpeft.mini import scenes, world
from mmpeft.mini.packing import NUM_IMAGE_TOKENS, Packer
from mmpeft.mini.scenes import Placed, Scene

FACTS = ("group", "place", "material", "use")  # what the look of a thing also says
_SHARES = (1.0, 0.5, 0.35, 0.35, 0.35)  # of the name and of each fact in an image token
_GRID = 4


@dataclass
class Imagined:
    """A picture imagined in words: for each thing its name and facts, and the cells it covers."""

    parts: list[tuple[list[str], list[int]]] = field(default_factory=list)
    background: str | None = None


def cells_of(p: Placed) -> list[int]:
    """The cells of the 4 × 4 grid that a placed thing covers by at least a quarter."""
    side = scenes.SIDE / _GRID
    inside = []
    for row in range(_GRID):
        for column in range(_GRID):
            width = min(p.x + p.size / 2, (column + 1) * side) - max(p.x - p.size / 2, column * side)
            height = min(p.y + p.size / 2, (row + 1) * side) - max(p.y - p.size / 2, row * side)
            if width > 0 and height > 0 and width * height > 0.25 * side * side:
                inside.append(row * _GRID + column)
    return inside or [min(3, int(p.y // side)) * _GRID + min(3, int(p.x // side))]


def imagine(scene: Scene) -> Imagined:
    """The words that stand in for a scene's patches."""
    table = world.things()
    parts = [([p.name, *(getattr(table[p.name], f) for f in FACTS if p.name in table)], cells_of(p)) for p in scene.things]
    return Imagined(parts, scene.background)


class Dreamer:
    """Image tokens of imagined pictures: sums of (centered) word embeddings, a place vector and noise."""

    def __init__(self, packer: Packer, places: nn.Parameter, noise: float, seed: int) -> None:
        self.packer, self.places, self.noise = packer, places, noise
        self.rng = Random(f"dream:{seed}")
        self.generator = torch.Generator().manual_seed(seed)

    def tokens(self, pictures: list[Imagined], table: Tensor) -> Tensor:
        """(B, 16, D) image tokens; ``table`` is the embedding matrix (V, D)."""
        centered = table - table.mean(0)
        width = len(self.packer.tokenizer)
        weight = torch.zeros(len(pictures), NUM_IMAGE_TOKENS, width)
        for b, picture in enumerate(pictures):
            if picture.background:
                weight[b, :, self.packer.ids(picture.background)[0]] += 0.5
            for words, cells in picture.parts:
                kept = [c for c in cells if self.rng.random() < 0.85] or cells[:1]
                for cell in kept:
                    strength = self.rng.uniform(0.6, 1.2)
                    for word, share in zip(words, _SHARES, strict=False):
                        if word:
                            weight[b, cell, self.packer.ids(word)[0]] += share * strength
        tokens = weight @ centered
        noise = torch.randn(tokens.shape, generator=self.generator)
        return tokens + self.noise * centered.detach().std() * noise + self.places
