"""vqav2: short questions about COCO pictures; ten answers, VQA soft accuracy; 20,000 and 5,000 drawn as in the paper. Seen."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import coco_id, texts, vqa_questions
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored
from mmpeft.tasks.okvqa import OKVQA


def from_row(row: Row, picture: str = "image_id") -> Iterator[Item]:
    """A row's question; ``picture`` is the column with COCO's number of the picture."""
    number = coco_id(row[picture])
    yield Item(str(row["question_id"]), number, row["question"], texts(row["answers"]), kind=row["answer_type"])


def files(part: str) -> Folder:
    """The authors' files of train or val."""
    asks, answers = f"vqav2/v2_OpenEnded_mscoco_{part}2014_questions.json", f"vqav2/v2_mscoco_{part}2014_annotations.json"
    year = f"{part}2014"
    return Folder((asks, answers, f"coco/{year}"), partial(vqa_questions, questions=asks, annotations=answers, year=year))


COLUMNS = ("question_id", "question", "answers", "image_id", "answer_type")
FATIMA = ("question_id", "question", "answers", "id_image", "answer_type")


class VQAv2(RealTask):
    """What is to be seen on photographs."""

    dataset = "vqav2"
    column = "VQAv2"
    seen = True
    metric = "VQA soft accuracy"
    max_new_tokens = 16
    about = "Short questions about photographs, asked in pairs so that the picture decides."
    licence = "CC BY 4.0 (questions); COCO pictures: Flickr terms"
    homepage = "https://visualqa.org"
    official = (
        "vqav2/v2_OpenEnded_mscoco_{train,val}2014_questions.json, vqav2/v2_mscoco_{train,val}2014_annotations.json, coco/"
    )
    places: ClassVar[Places] = {
        "train": (
            files("train"),
            Hub("Multimodal-Fatima/VQAv2_train", "train", FATIMA, partial(from_row, picture="id_image")),
            Hub("lmms-lab-encoder/VQAv2-FewShot", "train", COLUMNS, from_row, config="full"),
            Hub("lmms-lab/VQAv2-FewShot", "train", COLUMNS, from_row, config="full"),
        ),
        "test": (
            files("val"),
            Hub(
                "lmms-lab-encoder/VQAv2",
                "validation",
                COLUMNS,
                from_row,
                revision="32665d35052eb4a6d4414851c3c829a72754915a",
            ),
            Hub("lmms-lab/VQAv2", "validation", COLUMNS, from_row),
        ),
    }
    sizes: ClassVar = {"train": 443_757, "test": 214_354}
    prompts: ClassVar[Prompts] = OKVQA.prompts
    draw: ClassVar = {"train": 20_000, "dev": 1_000, "test": 5_000}

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers; the official and EvalAI's normalization beside it."""
        return scoring.vqa(examples, predictions, ("official", "evalai"))
