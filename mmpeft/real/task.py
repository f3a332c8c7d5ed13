"""The shared half of the real datasets: a split is read from its place once, kept on the shelf, and asked in one of two wordings.

    okvqa          with the prompt of the paper (its Table 10)
    okvqa-llava    with that of LLaVA-1.5 and lmms-eval

A prompt is part of a task, so another wording is another task: the runs of the two never mix, and what is compared is a name in
a list. A task whose wording changes gets a new version, like any other.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import ClassVar

from PIL import Image

from mmpeft.errors import unknown
from mmpeft.real import shelf
from mmpeft.real.places import Item, Place, first_readable
from mmpeft.scoring import LETTERS
from mmpeft.task import Example, Task

Places = Mapping[str, tuple[Place, ...]]
"""Where each split is read from, best first."""

Prompts = Mapping[str, str]
"""The wordings by name; ``{question}``, ``{choices}``, ``{lettered}``, ``{lines}`` and ``{context}`` stand for the item's."""

DEV_RATIO = 0.05
"""The share of the training pictures that dev is made of, where the authors have no split for it."""


class RealTask(Task):
    """A dataset that is downloaded. A subclass says where from, what it asks and how answers are scored.

    A dataset whose ``places`` have no ``dev`` has it from train: the pictures whose id hashes low, the same in every dataset
    that has the picture, so that no dev picture of one is a training picture of another.

    Args:
        wording: Which of ``prompts``; the first goes by the dataset's own name.
    """

    dataset: ClassVar[str]
    data_version: ClassVar[int] = 1
    """Of what lies on the shelf: raised when places are read or split in another way, together with ``version``."""
    places: ClassVar[Places]
    prompts: ClassVar[Prompts]
    sizes: ClassVar[Mapping[str, int]] = {}  # questions of the authors' splits that have a picture, where known
    draw: ClassVar[Mapping[str, int]] = {}  # how many of a split, where the paper takes a random part
    draw_seed: ClassVar[int] = 0
    licence: ClassVar[str]
    homepage: ClassVar[str]
    official: ClassVar[str]  # the files of the official layout below $MMPEFT_DATA

    def __init__(self, wording: str = "") -> None:
        self.wording = wording or next(iter(self.prompts))
        first = next(iter(self.prompts))
        self.name = self.dataset if self.wording == first else f"{self.dataset}-{self.wording}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has."""
        made = ("dev",) if "train" in self.places and "dev" not in self.places else ()
        return tuple(name for name in ("train", "dev", "test") if name in (*self.places, *made))

    @property
    def dev_from_train(self) -> bool:
        """Whether dev is a part of the authors' training split."""
        return "dev" in self.splits and "dev" not in self.places

    @property
    def blind_split(self) -> str:
        """Train; for evaluation only there is nothing but test."""
        return "train" if "train" in self.splits else "test"

    def split(self, name: str) -> shelf.Split:
        """A split on the shelf, put there first if need be.

        Raises:
            MmpeftError: There is no such split, or no place can be read.
        """
        if name not in self.splits:
            raise unknown("split", name, self.splits)
        return _on_shelf(self, name, shelf.folder_of(self.dataset, self.data_version) / name)

    def at_hand(self, split: str) -> bool:
        """Whether the split is on the shelf."""
        return (shelf.folder_of(self.dataset, self.data_version) / split / "split.json").exists()

    def belongs(self, item: Item, split: str) -> bool:
        """Whether a question of the split's place is one of the split."""
        if not self.dev_from_train or split == "test":
            return True
        return in_dev(item.picture_id) == (split == "dev")

    def size(self, split: str) -> int | None:
        """How many questions a split holds by its authors' numbers, less what dev takes of train, and no more than are drawn.

        Where the numbers are not known: as many as lie on the shelf, once it is there.
        """
        cut = self.dev_from_train and split != "test"
        held = self.sizes.get("train" if cut else split)
        if held is not None and cut:
            held = round(held * (DEV_RATIO if split == "dev" else 1 - DEV_RATIO))
        if held is None and self.at_hand(split):
            return self.split(split).manifest.num_examples
        return min((number for number in (held, self.draw.get(split)) if number is not None), default=None)

    def all_examples(self, split: str) -> list[Example]:
        """All examples of a split, by id."""
        return [self.example(item) for item in self.split(split).items]

    def example(self, item: Item) -> Example:
        """The question with its prompt and what to answer."""
        return Example(
            item.item_id, item.picture_id, self.prompt(item), self.answer(item), item.answers, item.choices, item.kind
        )

    def prompt(self, item: Item) -> str:
        """The question in this task's wording."""
        return self.prompts[self.wording].format(
            question=item.question,
            choices=", ".join(item.choices),
            lettered=", ".join(lettered(item.choices)),
            lines="\n".join(lettered(item.choices)),
            context=f"Context: {item.hint}\n" if item.hint else "",
        )

    def answer(self, item: Item) -> str:
        """What the model is trained to say: the answer that most annotators give, the first of equals."""
        return Counter(item.answers).most_common(1)[0][0]

    def picture(self, picture_id: str) -> Image.Image:
        """The picture, RGB, decoded now; looked for in the splits that are on the shelf."""
        return self.holder(picture_id).picture(picture_id)

    def holder(self, picture_id: str) -> shelf.Split:
        """The split that has a picture: of those on the shelf, else of all."""
        ready = [name for name in self.splits if self.at_hand(name)]
        for name in ready:
            if picture_id in self.split(name).picture_ids:
                return self.split(name)
        return self.split((ready or list(self.splits))[-1])

    def provenance(self) -> dict[str, str]:
        """Where each split on the shelf came from, and the digest of its ids."""
        found = {name: self.split(name).manifest for name in self.splits if self.at_hand(name)}
        return {f"data_{name}": f"{one.place} sha256:{one.ids_sha256[:16]}" for name, one in found.items()}

    @property
    def sources(self) -> tuple[str, ...]:  # type: ignore[override]
        """The places of all its splits, each once."""
        return tuple(dict.fromkeys(place.name for places in self.places.values() for place in places))


@cache
def _on_shelf(task: RealTask, name: str, folder: shelf.Path) -> shelf.Split:
    if (folder / "split.json").exists():
        return shelf.Split(folder)
    places = task.places["train" if name == "dev" and task.dev_from_train else name]

    def read(place: Place) -> shelf.Split:
        return shelf.write(folder, place, lambda item: task.belongs(item, name), task.draw.get(name), task.draw_seed)

    found: shelf.Split = first_readable(f"dataset {task.dataset}, {name}", places, read)
    return found


def in_dev(picture_id: str) -> bool:
    """Whether a training picture is one of dev's, by its id alone."""
    return int(hashlib.sha256(f"dev:{picture_id}".encode()).hexdigest(), 16) < DEV_RATIO * 2**256


def lettered(choices: tuple[str, ...]) -> list[str]:
    """The options with their letters: ``A. cat``."""
    return [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
