"""The shared half of the eight miniature tasks: pictures and examples that are pure functions of an index."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import ClassVar

from PIL import Image

from mmpeft.errors import MmpeftError, unknown
from mmpeft.mini import draw, synonyms
from mmpeft.mini.scenes import Scene
from mmpeft.task import Example, Task

Picture = Scene | draw.Flag | draw.Cover


@dataclass(frozen=True)
class Draft:
    """An example before it has ids. ``answers`` left empty means (answer,)."""

    prompt: str
    answer: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    kind: str = ""


class MiniTask(Task):
    """A task on drawn pictures. A subclass says, for one random generator, one picture and its questions.

    ``base`` is a fourth split: the pictures a base model is trained on where the task is a seen one. It shares no picture with
    the other three.
    """

    num_pictures: ClassVar[dict[str, int]]
    num_examples: ClassVar[dict[str, int]] = {"train": 4000, "dev": 500, "test": 1000}

    @abstractmethod
    def compose(self, rng: Random, split: str) -> tuple[Picture, list[Draft]]:
        """One picture and the questions about it, drawn from ``rng``."""

    def _rng(self, split: str, index: int) -> Random:
        return Random(f"{self.name}:{self.version}:{split}:{index}")

    def composed(self, split: str, index: int) -> tuple[Picture, list[Draft]]:
        """Picture number ``index`` of a split and its questions; the same at each call."""
        if split not in self.num_pictures:
            raise unknown("split", split, self.num_pictures)
        return self.compose(self._rng(split, index), split)

    def size(self, split: str) -> int | None:
        """How many examples a split holds."""
        return self.num_examples.get(split)

    def all_examples(self, split: str) -> list[Example]:
        """All examples of a split, in the order of the pictures."""
        return _examples(self, split)

    def locate(self, picture_id: str) -> tuple[str, int]:
        """Split and index of a picture id ``task/split/index``.

        Raises:
            MmpeftError: If the id is not one of this task.
        """
        parts = picture_id.split("/")
        if len(parts) != 3 or parts[0] != self.name or parts[1] not in self.num_pictures or not parts[2].isdigit():
            raise MmpeftError(f"picture_id: '{picture_id}' is not a picture of {self.name}; ids read {self.name}/train/0.")
        return parts[1], int(parts[2])

    def things(self, picture_id: str) -> tuple[str, ...]:
        """The names in the scene; none on a flag or a cover."""
        what, _ = self.composed(*self.locate(picture_id))
        return what.names if isinstance(what, Scene) else ()

    def names(self) -> Mapping[str, str]:
        """The names of all things and icons, and the words that mean the same."""
        return synonyms.names()

    def picture(self, picture_id: str) -> Image.Image:
        """The drawn picture, RGB 128 × 128."""
        what, _ = self.composed(*self.locate(picture_id))
        if isinstance(what, Scene):
            return draw.scene(what)
        return draw.flag(what) if isinstance(what, draw.Flag) else draw.cover(what)


@cache
def _examples(task: MiniTask, split: str) -> list[Example]:
    if split not in task.num_pictures:
        raise unknown("split", split, task.num_pictures)
    rows: list[Example] = []
    limit = task.num_examples.get(split)
    for index in range(task.num_pictures[split]):
        picture_id = f"{task.name}/{split}/{index}"
        for number, d in enumerate(task.composed(split, index)[1]):
            rows.append(
                Example(f"{picture_id}/{number}", picture_id, d.prompt, d.answer, d.answers or (d.answer,), d.choices, d.kind)
            )
    return rows[:limit]


def ten_answers(rng: Random, answer: str, alternatives: tuple[str, ...], agree: float = 0.9) -> tuple[str, ...]:
    """Ten annotators' answers, as VQAv2 and VizWiz have them: each says ``answer`` with probability ``agree``.

    At least four agree, so that the right answer always scores 1 under VQA soft accuracy.
    """
    said = [answer if rng.random() < agree or not alternatives else rng.choice(alternatives) for _ in range(10)]
    for i in range(10):
        if said.count(answer) >= 4:
            break
        said[i] = answer
    return tuple(said)


def options(rng: Random, answer: str, pool: tuple[str, ...], count: int) -> tuple[str, ...]:
    """``count`` different options with the answer among them, in random order."""
    others = rng.sample([v for v in pool if v != answer], count - 1)
    mixed = [answer, *others]
    rng.shuffle(mixed)
    return tuple(mixed)
