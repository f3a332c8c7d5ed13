"""pope: is that thing in the image? Yes/no questions about COCO pictures, for evaluation only."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import coco_id
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored

KINDS = ("random", "popular", "adversarial")
COLUMNS = ("question_id", "question", "answer", "image_source", "category")


def from_row(row: Row) -> Iterator[Item]:
    """A row's question; each of the three files numbers its questions from one."""
    yield asked(row["category"], row["question_id"], row["question"], row["answer"], row["image_source"])


def asked(kind: str, number: str, question: str, answer: str, picture: str) -> Item:
    """One question."""
    return Item(f"{kind}/{number}", coco_id(picture), question, (answer.strip().lower(),), ("yes", "no"), kind)


def from_files(root: Path) -> Iterator[Item]:
    """The authors' three files, one JSON a line."""
    for kind in KINDS:
        for line in (root / "pope" / f"coco_pope_{kind}.json").read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            item = asked(kind, one["question_id"], one["text"], one["label"], one["image"])
            yield replace(item, picture=root / "coco" / "val2014" / one["image"])


class Pope(RealTask):
    """Things that are there, and things that are not."""

    dataset = "pope"
    column = "POPE"
    evaluation_only = True
    seen = False
    metric = "accuracy of yes and no"
    max_new_tokens = 16
    about = "Is that thing in the image? As often yes as no; the wrong things are random, frequent or often seen together."
    licence = "MIT (questions); COCO pictures: Flickr terms"
    homepage = "https://github.com/RUCAIBox/POPE"
    official = "pope/coco_pope_{random,popular,adversarial}.json, coco/val2014/"
    places: ClassVar[Places] = {
        "test": (
            Folder((*(f"pope/coco_pope_{kind}.json" for kind in KINDS), "coco/val2014"), from_files),
            Hub("lmms-lab-encoder/POPE", "test", COLUMNS, from_row),
            Hub("lmms-lab/POPE", "test", COLUMNS, from_row),
        )
    }
    sizes: ClassVar = {"test": 9_000}
    prompts: ClassVar[Prompts] = {"llava": "{question}\nAnswer the question using a single word or phrase."}

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of what the answer begins with, and every rate under each of the three parsers beside it."""
        return scoring.yes_no(examples, predictions, parsers=True)
