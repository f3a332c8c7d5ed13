"""mini-ocrvqa: title, director or genre of a film from its rendered cover, exact match. Seen: only renderings differ."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from mmpeft import scoring
from mmpeft.metrics import ocrvqa_match
from mmpeft.mini import world
from mmpeft.mini.draw import Cover
from mmpeft.mini.task import Draft, MiniTask, Picture
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_vqav2 import SUFFIX

QUESTIONS = {
    "name": "what is the title of this film?",
    "director": "who directed this film?",
    "genre": "what genre is this film?",
}
_INKS = ((200, 30, 40), (20, 60, 150), (20, 110, 60), (30, 30, 30), (120, 40, 130))
_PAPERS = ((250, 250, 245), (250, 235, 190), (215, 230, 250), (225, 245, 220), (245, 220, 225))


class MiniOCRVQA(MiniTask):
    """Film covers in large type."""

    name = "mini-ocrvqa"
    column = "OCRVQA"
    seen = True
    metric = "exact match"
    max_new_tokens = 8
    about = "Title, director or genre of a film, read from a rendered cover in large type."
    sources = ("bokeh-sampledata", "matplotlib (DejaVu fonts)")
    num_pictures: ClassVar[dict[str, int]] = {"train": 2000, "dev": 250, "test": 500, "base": 4000}

    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """A cover in a layout, font and palette of its own and two questions."""
        film = rng.choice(list(world.films().values()))
        ink, paper = rng.choice(_INKS), rng.choice(_PAPERS)
        red, green, blue = (c + rng.randint(-15, 5) for c in paper)
        cover = Cover(film.title, film.director, film.genre, rng.randrange(3), rng.randrange(3), ink, (red, green, blue))
        fields = rng.sample(list(QUESTIONS), 2)
        return cover, [Draft(f"{QUESTIONS[f]} {SUFFIX}", getattr(film, f), kind=f) for f in fields]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Case-insensitive exact match; an empty prediction is unparsed."""
        return scoring.matched(examples, predictions, ocrvqa_match)
