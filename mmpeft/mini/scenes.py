"""Scenes: what is on a picture, where, on which background. A scene is a small value; `draw` turns it into pixels."""

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from mmpeft.mini import world

SIDE = 128  # pixels
Style = Literal["color", "line"]

_PAIRS = ((("left", (32, 64)), ("right", (96, 64))), (("top", (64, 32)), ("bottom", (64, 96))))
_QUADRANTS = {"top-left": (33, 33), "top-right": (95, 33), "bottom-left": (33, 95), "bottom-right": (95, 95)}
_CELLS = tuple((22 + 42 * i, 22 + 42 * j) for i in range(3) for j in range(3))
POSITIONS = ("left", "right", "top", "bottom", *_QUADRANTS)


@dataclass(frozen=True)
class Placed:
    """One drawn thing: center ``x``, ``y`` and ``size`` in pixels, ``angle`` in degrees."""

    name: str
    position: str
    x: int
    y: int
    size: int
    angle: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        kind: ``one`` thing, ``two`` side by side, ``several`` (3–5 different ones), or ``copies`` of one thing.
        background: A color or photograph of `world.BACKGROUNDS`.
        shade: Added to each channel of a plain background; for a photograph, where it is cropped.
        style: ``color`` draws OpenMoji things, ``line`` draws Tabler icons.
        damage: Name and strength (0–1) of a degradation, or None.
    """

    kind: str
    background: str
    shade: tuple[int, int, int]
    things: tuple[Placed, ...]
    style: Style = "color"
    damage: tuple[str, float] | None = None
    noise_seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The different names in the scene, in drawing order."""
        return tuple(dict.fromkeys(p.name for p in self.things))


def place(rng: Random, name: str, position: str, center: tuple[int, int], size: tuple[int, int], jitter: int) -> Placed:
    """A thing near ``center``, its size, angle and mirror drawn from ``rng``."""
    return Placed(
        name=name,
        position=position,
        x=center[0] + rng.randint(-jitter, jitter),
        y=center[1] + rng.randint(-jitter, jitter),
        size=rng.randint(*size),
        angle=round(rng.uniform(-15, 15), 1),
        flip=rng.random() < 0.5,
    )


def background(rng: Random, plain: bool = False) -> tuple[str, tuple[int, int, int]]:
    """A background and its shade; ``plain`` leaves the photographs out."""
    name = rng.choice(tuple(world.COLORS) if plain or rng.random() < 0.85 else world.PHOTOS)
    shade = (rng.randint(-12, 12), rng.randint(-12, 12), rng.randint(-12, 12))
    return name, shade


def random_scene(rng: Random, pool: tuple[str, ...], kind: str | None = None, style: Style = "color") -> Scene:
    """A random scene of things from ``pool``.

    Args:
        rng: The source of all that is random in it.
        pool: Names that may be shown.
        kind: One of the four kinds, or None to draw one.
        style: ``color`` for things, ``line`` for icons (always on a light plain background).
    """
    kind = kind or rng.choices(["one", "two", "several", "copies"], [0.3, 0.3, 0.22, 0.18])[0]
    if style == "line":
        name, shade = rng.choice(["white", "yellow", "gray", "blue", "green"]), (rng.randint(-8, 5),) * 3
    else:
        name, shade = background(rng)
    placed: list[Placed] = []
    if kind == "one":
        size = rng.randint(72, 110)
        slack = SIDE // 2 - size // 2
        placed.append(place(rng, rng.choice(pool), "center", (SIDE // 2, SIDE // 2), (size, size), slack))
    elif kind == "two":
        for thing, (position, center) in zip(rng.sample(pool, 2), rng.choice(_PAIRS), strict=True):
            placed.append(place(rng, thing, position, center, (50, 62), 5))
    elif kind == "several":
        count = rng.choice([3, 4])
        spots = rng.sample(list(_QUADRANTS.items()), count)
        for thing, (position, center) in zip(rng.sample(pool, count), spots, strict=True):
            placed.append(place(rng, thing, position, center, (46, 60), 4))
    else:
        placed += copies(rng, rng.choice(pool), rng.randint(2, 5))
    return Scene(kind, name, shade, tuple(placed), style)


def copies(rng: Random, name: str, count: int) -> list[Placed]:
    """``count`` (1–9) copies of one thing in different cells of a 3 × 3 grid."""
    size = rng.randint(34, 42)
    return [place(rng, name, "copies", cell, (size, size), 3) for cell in rng.sample(_CELLS, count)]


def damaged(scene: Scene, damage: str, strength: float, rng: Random) -> Scene:
    """The same scene, degraded when drawn."""
    return replace(scene, damage=(damage, strength), noise_seed=rng.randrange(2**31))


def caption(scene: Scene) -> str:
    """The base's own short caption of a scene: every thing, where it is, and the background."""
    ground = f"{scene.background} background"
    if scene.kind == "one":
        return f"a {scene.names[0]} , {ground}"
    if scene.kind == "copies":
        return f"{len(scene.things)} {scene.names[0]} , {ground}"
    return " , ".join(f"{p.name} {p.position}" for p in scene.things) + f" , {ground}"
