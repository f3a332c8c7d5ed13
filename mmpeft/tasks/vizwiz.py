"""vizwiz: what blind people asked about their own photographs; ten answers, often `unanswerable`. Unseen."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import read_json, texts
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored


def from_row(row: Row) -> Iterator[Item]:
    """A row's question: each picture has one, and its name is the picture's file."""
    name = Path(row["question_id"]).stem
    yield Item(name, f"vizwiz/{name}", row["question"], texts(row["answers"]), kind=row["category"])


def from_fatima(row: Row) -> Iterator[Item]:
    """A row of the training copy, whose pictures go by their file's name."""
    name = Path(row["filename"]).stem
    yield Item(name, f"vizwiz/{name}", row["question"], texts(row["answers"]))


def questions(root: Path, part: str) -> Iterator[Item]:
    """The authors' questions: ``Annotations/train.json`` beside the folder of the pictures."""
    for one in read_json(root / "vizwiz" / "Annotations" / f"{part}.json"):
        name, answers = Path(one["image"]).stem, texts(one["answers"])
        picture = root / "vizwiz" / part / one["image"]
        yield Item(name, f"vizwiz/{name}", one["question"], answers, kind=one.get("answer_type", ""), picture=picture)


def files(part: str) -> Folder:
    """The authors' files of train or val."""
    return Folder((f"vizwiz/Annotations/{part}.json", f"vizwiz/{part}"), partial(questions, part=part))


COLUMNS = ("question_id", "question", "answers", "category")


class VizWiz(RealTask):
    """Photographs taken without seeing them."""

    dataset = "vizwiz"
    column = "VizWiz"
    seen = False
    metric = "VQA soft accuracy"
    max_new_tokens = 16
    about = "Questions of blind people about photographs they took; many cannot be answered. Test is the authors' val."
    licence = "CC BY 4.0"
    homepage = "https://vizwiz.org/tasks-and-datasets/vqa"
    official = "vizwiz/Annotations/{train,val}.json, vizwiz/{train,val}/"
    places: ClassVar[Places] = {
        "train": (
            files("train"),
            Hub(
                "Multimodal-Fatima/VizWiz_train",
                "train",
                ("filename", "question", "answers"),
                from_fatima,
                revision="0398414ffdf6ca445b9e90204ce5d0def5d73da2",
            ),
        ),
        "test": (
            files("val"),
            Hub("lmms-lab-encoder/VizWiz-VQA", "val", COLUMNS, from_row),
            Hub("lmms-lab/VizWiz-VQA", "val", COLUMNS, from_row),
        ),
    }
    sizes: ClassVar = {"train": 20_523, "test": 4_319}
    prompts: ClassVar[Prompts] = {
        "paper": 'Question: {question} When the information is insufficient, respond with "Unanswerable". '
        "Answer the question using a single word or phrase.",
        "llava": "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase.",
    }

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """VQA soft accuracy against ten answers; the official and EvalAI's normalization beside it."""
        return scoring.vqa(examples, predictions, ("official", "evalai"))
