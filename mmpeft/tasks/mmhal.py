"""mmhal: open questions that invite a model to invent something (MMHal-Bench). For evaluation only, and for a judge.

Nothing here says whether an answer is right: the score is whether there is one. `mmpeft.study.judge` has the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import read_json
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored

COLUMNS = ("question", "question_type", "gt_answer", "image_content", "image_id")
TEMPLATE, IMAGES = "mmhal/response_template.json", "mmhal/images"


def from_row(row: Row) -> Iterator[Item]:
    """A row's question; it has no number, so its picture and its words name it."""
    picture, things = f"openimages/{row['image_id']}", tuple(row["image_content"])
    yield Item("", picture, row["question"].strip(), (row["gt_answer"].strip(),), kind=row["question_type"], things=things)


def from_files(root: Path) -> Iterator[Item]:
    """The authors' template of answers; a picture's file has the last name of its address."""
    for row in read_json(root / TEMPLATE):
        for item in from_row(row):
            yield replace(item, picture=root / IMAGES / PurePosixPath(row["image_src"]).name)


class MMHal(RealTask):
    """Questions of eight kinds, answered in sentences."""

    dataset = "mmhal"
    column = "MMHal"
    evaluation_only = True
    seen = False
    metric = "share answered; a judge scores"
    max_new_tokens = 512
    about = "Open questions of eight kinds that invite inventing something; only a judge can score the answers."
    licence = "Apache-2.0 (questions); Open Images pictures: CC BY 2.0"
    homepage = "https://huggingface.co/datasets/Shengcao1006/MMHal-Bench"
    official = f"{TEMPLATE}, {IMAGES}/"
    places: ClassVar[Places] = {
        "test": (Folder((TEMPLATE, IMAGES), from_files), Hub("DogNeverSleep/MMHal-Bench", "train", COLUMNS, from_row))
    }
    sizes: ClassVar = {"test": 96}
    prompts: ClassVar[Prompts] = {"plain": "{question}"}

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """The share of questions with an answer, whatever it says, and the length of the answers in words."""
        return scoring.answered(predictions)
