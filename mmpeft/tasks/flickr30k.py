"""flickr30k: one-sentence captions with five references, CIDEr-D, Karpathy's splits. Unseen."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import read_json
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_flickr30k import PROMPTS


def from_row(row: Row, part: str) -> Iterator[Item]:
    """A row's picture, if it is of that split: a copy's own «test» may hold all pictures, its column says which is which."""
    if row["split"] == part:
        name = Path(row["filename"]).stem
        yield Item(name, f"flickr30k/{name}", "", tuple(row["caption"]))


def from_files(root: Path, part: str) -> Iterator[Item]:
    """Karpathy's file beside the folder of the pictures."""
    for one in read_json(root / "flickr30k" / "dataset_flickr30k.json")["images"]:
        if one["split"] == part:
            name = Path(one["filename"]).stem
            references = tuple(each["raw"] for each in one["sentences"])
            picture = root / "flickr30k" / "flickr30k-images" / one["filename"]
            yield Item(name, f"flickr30k/{name}", "", references, picture=picture)


COLUMNS = ("caption", "split", "filename")


def places(part: str, *hub_splits: str) -> tuple[Folder | Hub, ...]:
    """Where a split comes from. lmms-lab's copy is left out: its «test» is every picture, and it does not say of which split."""
    read = partial(from_row, part=part)
    needs = ("flickr30k/dataset_flickr30k.json", "flickr30k/flickr30k-images")
    return (
        Folder(needs, partial(from_files, part=part)),
        *(Hub("umaru97/flickr30k_train_val_test", name, COLUMNS, read) for name in hub_splits),
        Hub("nlphuji/flickr30k", "test", COLUMNS, read, revision="refs/convert/parquet"),
    )


class Flickr30k(RealTask):
    """Photographs and sentences."""

    dataset = "flickr30k"
    column = "Flickr30k"
    seen = False
    metric = "CIDEr-D"
    max_new_tokens = 64
    about = "A sentence for a photograph of people or animals; five references, one of them drawn for training."
    licence = "research and education only; pictures: Flickr terms"
    homepage = "https://shannon.cs.illinois.edu/DenotationGraph"
    official = "flickr30k/dataset_flickr30k.json (Karpathy's), flickr30k/flickr30k-images/"
    places: ClassVar[Places] = {
        "train": places("train", "train"),
        "dev": places("val", "val", "validation"),
        "test": places("test", "test"),
    }
    sizes: ClassVar = {"train": 29_000, "dev": 1_014, "test": 1_000}
    prompts: ClassVar[Prompts] = {
        "paper": "(one of ten instructions, by the picture's name)",
        "llava": "Provide a one-sentence caption for the provided image.",
    }

    def prompt(self, item: Item) -> str:
        """The paper's wording is one of its ten instructions, drawn by the picture's name."""
        return PROMPTS[_drawn(item, "prompt", len(PROMPTS))] if self.wording == "paper" else super().prompt(item)

    def answer(self, item: Item) -> str:
        """One of the references, drawn by the picture's name."""
        return item.answers[_drawn(item, "answer", len(item.answers))]

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """CIDEr-D with this project's tokenizer; with Java and its jar, ``cider_d_ptb`` with Stanford's beside it."""
        return scoring.captions(examples, predictions, java=True)


def _drawn(item: Item, what: str, number: int) -> int:
    return int(hashlib.sha256(f"{what}:{item.item_id}".encode()).hexdigest(), 16) % number
