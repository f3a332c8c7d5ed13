"""okvqa: questions about COCO pictures that need knowledge from outside; ten answers, VQA soft accuracy. Seen."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import coco_id, texts, vqa_questions
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored


def from_row(row: Row) -> Iterator[Item]:
    """A row's question; an OKVQA question is numbered ten times its picture's number and a digit."""
    number = str(row["question_id"])
    yield Item(number, coco_id(number[:-1]), row["question"], texts(row["answers"]))


def files(part: str) -> Folder:
    """The authors' files of train or val."""
    asks, answers = f"okvqa/OpenEnded_mscoco_{part}2014_questions.json", f"okvqa/mscoco_{part}2014_annotations.json"
    year = f"{part}2014"
    return Folder((asks, answers, f"coco/{year}"), partial(vqa_questions, questions=asks, annotations=answers, year=year))


COLUMNS = ("question_id", "question", "answers")


class OKVQA(RealTask):
    """Outside knowledge."""

    dataset = "okvqa"
    column = "OKVQA"
    seen = True
    metric = "VQA soft accuracy"
    max_new_tokens = 16
    about = "Questions about photographs whose answers are not on them."
    licence = "CC BY 4.0 (questions); COCO pictures: Flickr terms"
    homepage = "https://okvqa.allenai.org"
    official = "okvqa/OpenEnded_mscoco_{train,val}2014_questions.json, okvqa/mscoco_{train,val}2014_annotations.json, coco/"
    places: ClassVar[Places] = {
        "train": (files("train"), Hub("Multimodal-Fatima/OK-VQA_train", "train", COLUMNS, from_row)),
        "test": (
            files("val"),
            Hub("lmms-lab-encoder/OK-VQA", "val2014", COLUMNS, from_row),
            Hub("lmms-lab/OK-VQA", "val2014", COLUMNS, from_row),
        ),
    }
    sizes: ClassVar = {"train": 9_009, "test": 5_046}
    prompts: ClassVar[Prompts] = {
        "paper": "{question} Answer the question using a single word or phrase.",
        "llava": "{question}\nAnswer the question using a single word or phrase.",
    }

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers; the official and EvalAI's normalization beside it."""
        return scoring.vqa(examples, predictions, ("official", "evalai"))
