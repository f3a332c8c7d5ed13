"""iconqa-txt and iconqa-blank: questions about abstract diagrams, answered by one of the choices or freely. Unseen."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mmpeft import scoring
from mmpeft.metrics import iconqa_blank_match
from mmpeft.real.formats import read_json
from mmpeft.real.places import Folder, Hub, Item, Row
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.scoring import LETTERS
from mmpeft.task import Example, Scored

COLUMNS = ("question_id", "question", "choices", "answer", "ques_type")
OWNERS = ("lmms-lab-encoder", "lmms-lab")


def from_files(root: Path, part: str, kind: str) -> Iterator[Item]:
    """The authors' questions of one kind: a folder each, with the text and the picture."""
    folder = root / "iconqa" / part / kind
    for one in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.name):
        data = read_json(one / "data.json")
        yield from asked(one.name, data, tuple(data.get("choices") or ()), one / "image.png")


def from_row(row: Row, kind: str) -> Iterator[Item]:
    """A row's question, if it is of that kind. The copy joins the choices with commas: a comma before a space is inside one."""
    if row["ques_type"] == kind:
        choices = tuple(re.split(r",(?! )", row["choices"])) if kind == "choose_txt" else ()
        yield from asked(str(row["question_id"]), row, choices, None)


def asked(number: str, data: Row, choices: tuple[str, ...], picture: Path | None) -> Iterator[Item]:
    """The question; none where the answer's number is beyond the choices, which were then not told apart."""
    answer = str(data["answer"])
    if choices:
        answer = choices[int(answer)] if int(answer) < len(choices) else ""
    if answer:
        yield Item(number, "", data["question"], (answer,), choices, kind=str(data["ques_type"]), picture=picture)


def places(kind: str) -> Places:
    """Where the questions of one kind come from. No copy on the hub has train: it takes the authors' files."""

    def folder(part: str) -> Folder:
        return Folder((f"iconqa/{part}/{kind}",), partial(from_files, part=part, kind=kind))

    def hub(part: str) -> Iterator[Hub]:
        read = partial(from_row, kind=kind)
        yield from (Hub(f"{owner}/ICON-QA", part, COLUMNS, read, image="query_image") for owner in OWNERS)

    return {"train": (folder("train"),), "dev": (folder("val"), *hub("val")), "test": (folder("test"), *hub("test"))}


LLAVA = "Given a set of images and a question, please provide the answer to the question.\nQuestion: {question}.\n"


class _IconQA(RealTask):
    """What the two kinds share."""

    seen = False
    licence = "CC BY-NC-SA 4.0 (a badge says CC BY-SA; the text counts)"
    homepage = "https://iconqa.github.io"


class IconQATxt(_IconQA):
    """Diagrams and text choices."""

    dataset = "iconqa-txt"
    column = "IconQA-txt"
    metric = "accuracy of the chosen text"
    max_new_tokens = 32
    about = "Questions about diagrams with two to five choices in words."
    official = "iconqa/{train,val,test}/choose_txt/"
    places: ClassVar[Places] = places("choose_txt")
    sizes: ClassVar = {"train": 18_946, "dev": 6_316, "test": 6_316}
    prompts: ClassVar[Prompts] = {
        "paper": "{question} Choices: {choices}. Choose an option from the choices to answer the question.",
        "llava": LLAVA + "Options:\n{lines}\nPlease answer with the option letter from the given choices directly.",
    }

    def answer(self, item: Item) -> str:
        """The choice as the prompt asks for it: its text, or its letter."""
        letter: Any = LETTERS[item.choices.index(item.answers[0])]
        return item.answers[0] if self.wording == "paper" else letter

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Accuracy of the choice named by text, letter or index, whichever the prompt asked for."""
        return scoring.choices(examples, predictions)


class IconQABlank(_IconQA):
    """Diagrams and free answers."""

    dataset = "iconqa-blank"
    column = "IconQA-blank"
    metric = "exact match"
    max_new_tokens = 32
    about = "Questions about diagrams with an answer to fill in, mostly a number."
    official = "iconqa/{train,val,test}/fill_in_blank/"
    places: ClassVar[Places] = places("fill_in_blank")
    sizes: ClassVar = {"train": 10_913, "dev": 3_638, "test": 3_638}
    prompts: ClassVar[Prompts] = {
        "paper": "{question} Fill in the blanks in () or answer this question.",
        "llava": LLAVA + "Please answer the question using a single word or phrase.",
    }

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """Exact match, case included, as in the authors' code."""
        return scoring.matched(examples, predictions, iconqa_blank_match)
