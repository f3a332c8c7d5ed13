"""ocrvqa: title, author, genre of a book read from its cover; exact match; 20,000 and 5,000 drawn as in the paper. Seen."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.metrics import ocrvqa_match
from mmpeft.real.formats import read_json
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored
from mmpeft.tasks.okvqa import OKVQA

COLUMNS = ("image_id", "questions", "answers")
SPLITS = {1: "train", 2: "dev", 3: "test"}
"""How the authors' file numbers them."""


def from_row(row: Row) -> Iterator[Item]:
    """The questions about a cover, about five of them."""
    yield from about(row["image_id"], row["questions"], row["answers"])


def about(cover: str, questions: Sequence[str], answers: Sequence[str], picture: Path | None = None) -> Iterator[Item]:
    """Each question of a cover with its one answer."""
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        yield Item(f"{cover}/{number}", f"ocrvqa/{cover}", question, (answer,), picture=picture)


def from_files(root: Path, part: str) -> Iterator[Item]:
    """The authors' file beside the folder of the covers."""
    for cover, one in read_json(root / "ocrvqa" / "dataset.json").items():
        if SPLITS.get(one["split"]) == part:
            picture = root / "ocrvqa" / "images" / f"{cover}{Path(one['imageURL']).suffix}"
            yield from about(cover, one["questions"], one["answers"], picture)


def places(part: str, hub_split: str) -> tuple[Folder | Hub, ...]:
    """Where a split comes from."""
    folder = Folder(("ocrvqa/dataset.json", "ocrvqa/images"), partial(from_files, part=part))
    return folder, Hub("howard-hou/OCR-VQA", hub_split, COLUMNS, from_row)


class OCRVQA(RealTask):
    """Book covers."""

    dataset = "ocrvqa"
    column = "OCRVQA"
    seen = True
    metric = "exact match"
    max_new_tokens = 32
    about = "Title, author, genre and the like of a book, read from its cover."
    licence = "not stated by its authors; covers belong to their publishers"
    homepage = "https://ocr-vqa.github.io"
    official = "ocrvqa/dataset.json, ocrvqa/images/"
    places: ClassVar[Places] = {
        "train": places("train", "train"),
        "dev": places("dev", "validation"),
        "test": places("test", "test"),
    }
    prompts: ClassVar[Prompts] = OKVQA.prompts
    draw: ClassVar = {"train": 20_000, "dev": 1_000, "test": 5_000}

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Case-insensitive exact match; an empty prediction is unparsed."""
        return scoring.matched(examples, predictions, ocrvqa_match)
