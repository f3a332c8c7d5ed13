"""Four rows of every real dataset, written by us: as copies of hub repositories with their columns, and as the authors' files.

``python tests/hub_fixture.py FOLDER`` writes both; ``MMPEFT_DATA=FOLDER/hub`` or ``FOLDER/official`` then stands for the network.
The questions are in words that the tokenizer of tiny-llava knows.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mmpeft.real.formats import coco_id
from mmpeft.real.task import in_dev

THINGS = ("dog", "cat", "apple", "banana", "clock", "bus", "bench", "kite")
KINDS = ("random", "popular", "adversarial", "random")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")


def picture(number: int) -> bytes:
    """A PNG of one colored shape on another color; each number has its own."""
    image = Image.new("RGB", (32, 32), COLORS[number % 8])
    x = 2 + number % 13
    ImageDraw.Draw(image).rectangle((x, x, x + 3 + number % 7, 28), fill=COLORS[(number // 8 + 3) % 8])
    ImageDraw.Draw(image).point((number % 32, number // 32 % 32), fill=(number % 251, 9, 99))
    stored = BytesIO()
    image.save(stored, "PNG")
    return stored.getvalue()


def four(names: Callable[[int], str], start: int) -> list[int]:
    """Four numbers from ``start`` on of which the pictures of the last alone go to dev."""
    numbers = range(start, start + 2000)
    train = [n for n in numbers if not in_dev(names(n))][:3]
    return [*train, next(n for n in numbers if in_dev(names(n)))]


COCO_TRAIN = {"okvqa": four(coco_id, 100), "vqav2": four(coco_id, 9000)}
COCO_VAL = [50_001, 50_002, 50_003, 50_004]
VIZWIZ_TRAIN = four(lambda n: f"vizwiz/VizWiz_train_{n:08d}", 0)


def ten(answer: str) -> list[str]:
    """Ten annotators, two of whom say something else."""
    return [answer] * 8 + ["tree", "red"]


def of_coco(number: int) -> tuple[str, str]:
    """The question about a COCO picture and its answer."""
    return "what is on the picture?", THINGS[number % 8]


# --------------------------------------------------------------------------------------------------
# Copies of the hub's repositories
# --------------------------------------------------------------------------------------------------


def repositories() -> dict[str, tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]]:
    """Of each repository the features, and the rows of each of its files without their picture's encoding."""
    from datasets import Image as Picture
    from datasets import List, Value

    text, long = Value("string"), Value("int64")
    texts, image = List(text), Picture()
    science = dict.fromkeys(
        ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"), text
    )
    icons = {"question_id": text, "question": text, "choices": text, "answer": text, "query_image": image}
    icons |= {"choice_image_0": image, "choice_image_1": image, "ques_type": text, "label": text, "grade": text, "skills": text}
    vqa = {"question_type": text, "multiple_choice_answer": text}
    vqa |= {"answers": List({"answer": text, "answer_confidence": text, "answer_id": long}), "image_id": long}
    vqa |= {"answer_type": text, "question_id": long, "question": text, "image": image}
    ocr = {"image": image, "image_id": text, "questions": texts, "answers": texts, "ocr_tokens": texts}
    ocr |= {"ocr_info": List({"word": text}), "title": text, "authorName": text, "genre": text, "image_width": long}
    ocr |= {"image_height": long, "image_url": text, "set_name": text}
    flickr = {"image": image, "caption": texts, "sentids": texts, "split": text, "img_id": text, "filename": text}
    return {
        "lmms-lab-encoder/ScienceQA": (
            {"image": image, "question": text, "choices": texts, "answer": Value("int8"), **science},
            {f"ScienceQA-IMG/{part}": science_rows(part) for part in ("train", "validation", "test")},
        ),
        "Multimodal-Fatima/VizWiz_train": (
            {"id": long, "image": image, "filename": text, "question": text, "answers": texts},
            {"data/train": [{"id": n, **vizwiz(n, "train")} for n in VIZWIZ_TRAIN]},
        ),
        "lmms-lab-encoder/VizWiz-VQA": (
            {"question_id": text, "image": image, "question": text, "answers": texts, "category": text},
            {"data/val": [{"question_id": r.pop("filename"), "category": "other", **r} for r in map(vizwiz_val, range(4))]},
        ),
        "lmms-lab-encoder/ICON-QA": (icons, {f"data/{part}": icon_rows(part) for part in ("val", "test")}),
        "umaru97/flickr30k_train_val_test": (
            flickr,
            {f"data/{part}": [flickr_row(part, n) for n in range(4)] for part in ("train", "val", "test")},
        ),
        "Multimodal-Fatima/OK-VQA_train": (
            {"id": long, "id_image": long, "image": image, "question_id": long, "question": text, "answers": texts},
            {"data/train": [{"id": n, "id_image": n, **ok_row(n)} for n in COCO_TRAIN["okvqa"]]},
        ),
        "lmms-lab-encoder/OK-VQA": (
            {"question_id": long, "image": image, "question": text, "answers": texts, "question_type": text, "answer_type": text},
            {"data/val2014": [{"question_type": "one", "answer_type": "other", **ok_row(n)} for n in COCO_VAL]},
        ),
        "howard-hou/OCR-VQA": (ocr, {f"data/{part}": ocr_rows(part) for part in ("train", "validation", "test")}),
        "Multimodal-Fatima/VQAv2_train": (
            {"id_image": long, "image": image, "question_id": long, "question": text, "answers": texts, "answer_type": text},
            {
                "data/train": [
                    {
                        "id_image": n,
                        "image": picture(n),
                        "question_id": n * 1000,
                        "question": of_coco(n)[0],
                        "answers": ten(of_coco(n)[1]),
                        "answer_type": "other",
                    }
                    for n in COCO_TRAIN["vqav2"]
                ]
            },
        ),
        "lmms-lab-encoder/VQAv2": (vqa, {"data/validation": [vqa_row(n) for n in COCO_VAL]}),
        "lmms-lab-encoder/POPE": (
            {
                **dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), text),
                "image": image,
                "category": text,
            },
            {"data/test": [pope_row(i, n) for i, n in enumerate(COCO_VAL)]},
        ),
        "DogNeverSleep/MMHal-Bench": (
            {
                **dict.fromkeys(("question", "question_type", "image_src", "question_topic", "gt_answer", "model_answer"), text),
                "image_content": texts,
                "image_id": text,
                "image": image,
            },
            {"data/train": [mmhal_row(n) | {"image": picture(6000 + n)} for n in range(4)]},
        ),
    }


def science_question(part: str, number: int) -> dict[str, Any]:
    """A question by letter."""
    choices = [THINGS[number], THINGS[(number + 1) % 8], THINGS[(number + 2) % 8]]
    return {"question": "which thing is this?", "choices": choices, "answer": number % 3, "hint": "", "subject": part}


def science_rows(part: str) -> list[dict[str, Any]]:
    """Three questions with a picture and, in train, one without: it is no question for these models."""
    names = ("task", "grade", "topic", "category", "skill", "lecture", "solution")
    start = {"train": 1000, "validation": 1100, "test": 1200}[part]
    rows = [
        {"image": picture(start + n), **science_question("biology", n), **dict.fromkeys(names, "")}
        for n in range(4)
    ]
    if part == "train":
        rows[3]["image"] = None
    return rows


def vizwiz(number: int, part: str) -> dict[str, Any]:
    """A photograph's question."""
    answer = "unanswerable" if number % 2 else THINGS[number % 8]
    start = {"train": 2000, "val": 2500}[part]
    row = {"filename": f"VizWiz_{part}_{number:08d}.jpg", "image": picture(start + number % 400)}
    return {**row, "question": "what is this?", "answers": ten(answer)}


def vizwiz_val(number: int) -> dict[str, Any]:
    """A photograph's question of val."""
    return vizwiz(number, "val")


def icon_rows(part: str) -> list[dict[str, Any]]:
    """Four questions of each of the three kinds; one choice has a comma of its own."""
    rows = []
    for place, kind in enumerate(("choose_txt", "fill_in_blank", "choose_img")):
        for n in range(4):
            choices = {"choose_txt": "dog,cat, apple,bus", "fill_in_blank": "", "choose_img": "a.png,b.png"}[kind]
            answer = str(n % 3) if kind == "choose_txt" else str(n)
            number = {"val": 3000, "test": 3100}[part] + 10 * place + n
            row = {"question_id": str(number), "question": "what is on the left?", "choices": choices, "answer": answer}
            row |= {"query_image": picture(number), "choice_image_0": None, "choice_image_1": None, "ques_type": kind}
            rows.append({**row, "label": "", "grade": "", "skills": ""})
    return rows


def flickr_row(part: str, number: int) -> dict[str, Any]:
    """A picture and five sentences of its own."""
    name = {"train": 4000, "val": 4100, "test": 4200}[part] + number
    first, second = THINGS[number], THINGS[number + 4]
    captions = [
        f"a {first} and a {second} in front of a wall",
        f"there is a {first} with a {second}",
        f"one {first} stands next to a {second}",
        f"the picture of a {first} and a {second}",
        f"a {second} next to a {first} in front of a wall",
    ]
    row = {"image": picture(name), "caption": captions, "sentids": [str(i) for i in range(5)], "split": part}
    return {**row, "img_id": str(name), "filename": f"{name}.jpg"}


def ok_row(number: int) -> dict[str, Any]:
    """A question about a COCO picture."""
    question, answer = of_coco(number)
    return {"image": picture(number), "question_id": number * 10 + 5, "question": question, "answers": ten(answer)}


def vqa_row(number: int) -> dict[str, Any]:
    """A question about a COCO picture, with the annotators' records in another order than they are numbered."""
    question, answer = of_coco(number)
    records = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(ten(answer), 1)][::-1]
    row = {"question_type": "what is", "multiple_choice_answer": answer, "answers": records, "image_id": number}
    return {**row, "answer_type": "other", "question_id": number * 1000, "question": question, "image": picture(number)}


def ocr_rows(part: str) -> list[dict[str, Any]]:
    """Four covers, two questions each."""
    rows = []
    for n in range(4):
        number = {"train": 5000, "validation": 5100, "test": 5200}[part] + n
        asked = ["what is the title of this film?", "what genre is this film?"]
        row = {"image": picture(number), "image_id": f"b{number}", "questions": asked}
        row |= {"answers": [THINGS[n], "Comics"], "ocr_tokens": [], "ocr_info": [], "title": THINGS[n], "authorName": ""}
        rows.append({**row, "genre": "Comics", "image_width": 32, "image_height": 32, "image_url": "", "set_name": part})
    return rows


def pope_row(place: int, number: int) -> dict[str, Any]:
    """Is it there?"""
    question = f"is there a {THINGS[number % 8]} in the image?"
    row: dict[str, Any] = {"id": str(place), "question_id": str(place + 1), "question": question}
    source = f"COCO_val2014_{number:012d}"
    row |= {"answer": "no" if place % 2 else "yes", "image_source": source, "image": picture(number)}
    return {**row, "category": KINDS[place]}


def mmhal_row(number: int) -> dict[str, Any]:
    """An open question, with what is marked on its picture and what a person answered; its picture apart."""
    kind, thing = ("attribute", "adversarial")[number % 2], THINGS[number]
    row = {"question": f"what is next to the {thing}?", "question_type": kind, "question_topic": "animal"}
    row |= {"image_src": f"https://example.org/there/{number}_o.jpg", "gt_answer": f"there is a wall next to the {thing}."}
    return {**row, "model_answer": "", "image_content": ["wall", thing], "image_id": f"{number:016x}"}


def write_hub(folder: Path) -> Path:
    """Copies of the repositories below ``folder``; returns it."""
    from datasets import Dataset, Features

    for repo, (features, files) in repositories().items():
        for name, rows in files.items():
            path = folder / repo / f"{name}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            encoded = [{k: {"bytes": v, "path": None} if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]
            Dataset.from_list(encoded, features=Features(features)).to_parquet(path)
    # The real card lists these splits and leaves train out.
    listed = "\n".join(f"  - split: {s}\n    path: ScienceQA-IMG/{s}-*" for s in ("validation", "test"))
    card = f"---\nconfigs:\n- config_name: ScienceQA-IMG\n  data_files:\n{listed}\n---\n"
    (folder / "lmms-lab-encoder/ScienceQA/README.md").write_text(card, encoding="utf-8")
    return folder


# --------------------------------------------------------------------------------------------------
# The authors' files
# --------------------------------------------------------------------------------------------------


def write_official(folder: Path) -> Path:
    """The same rows as the authors' files below ``folder``; returns it."""

    def put(name: str, content: Any) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def coco(year: str, numbers: Sequence[int]) -> None:
        for n in numbers:
            put(f"coco/{year}/COCO_{year}_{n:012d}.jpg", picture(n))

    def vqa(prefix: str, part: str, numbers: Sequence[int], question_id: Callable[[int], int]) -> None:
        asked = [{"image_id": n, "question_id": question_id(n), "question": of_coco(n)[0]} for n in numbers]
        records = {n: [{"answer": a, "answer_id": i} for i, a in enumerate(ten(of_coco(n)[1]), 1)] for n in numbers}
        answered = [{"question_id": question_id(n), "answers": records[n], "answer_type": "other"} for n in numbers]
        extra = "v2_" if "v2" in prefix else ""
        put(f"{prefix}/{extra}OpenEnded_mscoco_{part}2014_questions.json", {"questions": asked})
        put(f"{prefix}/{extra}mscoco_{part}2014_annotations.json", {"annotations": answered})

    for name, factor, digit in (("okvqa", 10, 5), ("vqav2", 1000, 0)):
        for part, numbers in (("train", COCO_TRAIN[name]), ("val", COCO_VAL)):
            vqa(name, part, numbers, lambda n, factor=factor, digit=digit: n * factor + digit)  # type: ignore[misc]
            coco(f"{part}2014", numbers)
    for part, numbers in (("train", VIZWIZ_TRAIN), ("val", list(range(4)))):
        rows = [vizwiz(n, part) for n in numbers]
        said = [[{"answer": a} for a in r["answers"]] for r in rows]
        records = [{"image": r["filename"], "question": r["question"], "answers": s} for r, s in zip(rows, said, strict=True)]
        put(f"vizwiz/Annotations/{part}.json", records)
        for row in rows:
            put(f"vizwiz/{part}/{row['filename']}", row["image"])
    problems: dict[str, Mapping[str, Any]] = {}
    listed: dict[str, list[str]] = {}
    for part, named in (("train", "train"), ("val", "validation"), ("test", "test")):
        listed[part] = []
        for n, row in enumerate(science_rows(named)):
            number = f"{part}{n}"
            listed[part].append(number)
            stored = row.pop("image")
            problems[number] = {**row, "image": "image.png" if stored else None}
            if stored:
                put(f"scienceqa/images/{part}/{number}/image.png", stored)
    put("scienceqa/problems.json", problems)
    put("scienceqa/pid_splits.json", listed)
    for part in ("train", "val", "test"):
        for row in icon_rows("val" if part == "train" else part):
            number = ("9" if part == "train" else "") + row["question_id"]
            home = f"iconqa/{part}/{row['ques_type']}/{number}"
            data = {name: row[name] for name in ("question", "ques_type", "answer", "label", "grade")}
            if row["ques_type"] == "choose_txt":
                data |= {"choices": ["dog", "cat, apple", "bus"], "answer": int(row["answer"])}
            put(f"{home}/data.json", data)
            put(f"{home}/image.png", picture(int(row["question_id"]) + (50 if part == "train" else 0)))
    images = []
    for part in ("train", "val", "test"):
        for n in range(4):
            row = flickr_row(part, n)
            put(f"flickr30k/flickr30k-images/{row['filename']}", row["image"])
            sentences = [{"raw": caption} for caption in row["caption"]]
            images.append({"filename": row["filename"], "split": part, "sentences": sentences})
    put("flickr30k/dataset_flickr30k.json", {"images": images})
    covers = {}
    for split, part in enumerate(("train", "validation", "test"), 1):
        for row in ocr_rows(part):
            one = {"imageURL": "there/cover.png", "questions": row["questions"], "answers": row["answers"], "split": split}
            covers[row["image_id"]] = one
            put(f"ocrvqa/images/{row['image_id']}.png", row["image"])
    put("ocrvqa/dataset.json", covers)
    for kind in sorted(set(KINDS)):
        rows = [pope_row(i, n) for i, n in enumerate(COCO_VAL)]
        lines = [
            {"question_id": r["question_id"], "image": f"{r['image_source']}.jpg", "text": r["question"], "label": r["answer"]}
            for r in rows
            if r["category"] == kind
        ]
        put(f"pope/coco_pope_{kind}.json", "\n".join(map(json.dumps, lines)).encode())
    put("mmhal/response_template.json", [mmhal_row(n) for n in range(4)])
    for n in range(4):
        put(f"mmhal/images/{n}_o.jpg", picture(6000 + n))
    put(
        "coco/annotations/instances_val2014.json",
        {
            "categories": [{"id": i, "name": name} for i, name in enumerate(THINGS)],
            "annotations": [{"image_id": n, "category_id": n % 8} for n in COCO_VAL],
        },
    )
    captions = [
        {"image_id": n, "caption": f"a {THINGS[n % 8]} and a {word} in front of a red wall with a {n} on it"}
        for n in COCO_VAL
        for word in ("tree", "puppy", "man", "house", "wall")
    ]
    put("coco/annotations/captions_val2014.json", {"images": [{"id": n} for n in COCO_VAL], "annotations": captions})
    return folder


if __name__ == "__main__":
    home = Path(sys.argv[1])
    print(write_hub(home / "hub"))
    print(write_official(home / "official"))
