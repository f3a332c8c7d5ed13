"""Layouts that more than one dataset shares: COCO's pictures and names, and the two files of a VQA dataset."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpeft.real.places import Item


def coco_id(number: int | str) -> str:
    """The id that a COCO picture has in every dataset here, from its number or from a name like ``COCO_val2014_000000310196``."""
    return f"coco/{int(str(number).removesuffix('.jpg').rpartition('_')[2])}"


def coco_file(root: Path, year: str, number: int) -> Path:
    """COCO's own file of a picture: ``coco/val2014/COCO_val2014_000000310196.jpg``."""
    return root / "coco" / year / f"COCO_{year}_{number:012d}.jpg"


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def texts(answers: Sequence[Any]) -> tuple[str, ...]:
    """The annotators' answers in their order: copies hold them as texts, or as records with an ``answer_id``."""
    if answers and isinstance(answers[0], Mapping):
        ordered = sorted(answers, key=lambda one: int(one.get("answer_id") or 0))
        return tuple(str(one["answer"]) for one in ordered)
    return tuple(map(str, answers))


def vqa_questions(root: Path, questions: str, annotations: str, year: str) -> Iterator[Item]:
    """The questions of VQAv2 and OKVQA as their authors hand them out: one file asks, one answers, pictures are COCO's."""
    answered = {one["question_id"]: one for one in read_json(root / annotations)["annotations"]}
    for one in read_json(root / questions)["questions"]:
        number, answers = one["image_id"], answered[one["question_id"]]
        yield Item(
            item_id=str(one["question_id"]),
            picture_id=coco_id(number),
            question=one["question"],
            answers=texts(answers["answers"]),
            kind=str(answers.get("answer_type", "")),
            picture=coco_file(root, year, number),
        )
