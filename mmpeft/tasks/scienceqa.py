"""scienceqa: school science by letter, those questions that have a picture. Unseen."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.real.formats import read_json
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.scoring import LETTERS
from mmpeft.task import Example, Scored


def from_row(row: Row) -> Iterator[Item]:
    """A row's question. No copy keeps the authors' numbers, so its id and its picture's are made of the content."""
    letter = (LETTERS[row["answer"]],)
    yield Item("", "", row["question"], letter, tuple(row["choices"]), kind=row["subject"], hint=row["hint"] or "")


def questions(root: Path, part: str) -> Iterator[Item]:
    """The authors' questions that have a picture."""
    problems = read_json(root / "scienceqa" / "problems.json")
    for number in read_json(root / "scienceqa" / "pid_splits.json")[part]:
        one = problems[number]
        if one["image"]:
            picture = root / "scienceqa" / "images" / part / number / one["image"]
            yield from (replace(item, picture=picture) for item in from_row(one))


def places(part: str, hub_split: str, data_files: str | None = None) -> tuple[Folder | Hub, ...]:
    """Where a split comes from: the authors' files, or one of two addresses of the same copy."""
    hub = partial(Hub, split=hub_split, columns=COLUMNS, read=from_row, data_files=data_files)
    copies = (hub(f"{owner}/ScienceQA", config=None if data_files else "ScienceQA-IMG") for owner in OWNERS)
    needs = ("scienceqa/problems.json", "scienceqa/pid_splits.json", f"scienceqa/images/{part}")
    return (Folder(needs, partial(questions, part=part)), *copies)


OWNERS = ("lmms-lab-encoder", "lmms-lab")
COLUMNS = ("question", "choices", "answer", "hint", "subject")
# The copy's card leaves the train split out; its files are there.
TRAIN_FILES = "ScienceQA-IMG/train-*"


class ScienceQA(RealTask):
    """School questions with a picture."""

    dataset = "scienceqa"
    column = "ScienceQA"
    seen = False
    metric = "accuracy of the letter"
    max_new_tokens = 16
    about = "Multiple choice from school books; the questions that have a picture, about half of all."
    licence = "CC BY-NC-SA 4.0 (the hub's card says CC BY-SA; the authors' word counts)"
    homepage = "https://scienceqa.github.io"
    official = "scienceqa/problems.json, scienceqa/pid_splits.json, scienceqa/images/{train,val,test}/"
    places: ClassVar[Places] = {
        "train": (
            *places("train", "train", TRAIN_FILES),
            Hub("derek-thomas/ScienceQA", "train", COLUMNS, from_row),
        ),
        "dev": places("val", "validation"),
        "test": places("test", "test"),
    }
    sizes: ClassVar = {"train": 6_218, "dev": 2_097, "test": 2_017}
    prompts: ClassVar[Prompts] = {
        "paper": "{question} {lettered}",
        "llava": "{context}{question}\n{lines}\nAnswer with the option's letter from the given choices directly.",
    }

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of the letter by LLaVA's rules; a prediction with no readable letter is unparsed and wrong."""
        return scoring.letters(examples, predictions)
