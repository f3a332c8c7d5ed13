"""The model card of tiny-llava: what the base can do, measured on pictures it has not seen, beside chance and majority."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import torch

from mmpeft.evaluate import evaluate, generate
from mmpeft.loading import Loaded, from_folder
from mmpeft.mini import world
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.language import look_up
from mmpeft.models import MODELS
from mmpeft.run import encoder_for
from mmpeft.task import Example
from mmpeft.tasks import COLUMNS
from mmpeft.tasks.mini_vqav2 import KINDS, MiniVQAv2, question

ABILITIES = {
    "what": ("naming", 0.85),
    "yesno": ("yes or no", 0.85),
    "where": ("where", 0.80),
    "count": ("counting", 0.85),
    "background": ("background", 0.85),
    "or": ("which of two", 0.85),
    "letter": ("letter look-up in text (four options)", 0.85),
}
_PER_KIND = 600


def abilities(loaded: Loaded) -> dict[str, dict[str, float]]:
    """Exact-match accuracy by ability on the test pictures of mini-vqav2 (and, for letters, in text alone).

    Returns:
        By kind: ``accuracy``, ``majority`` (always the most frequent answer), ``num_questions``.
    """
    task = MiniVQAv2()
    asked: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        rng, index = Random(f"ability:{kind}"), 0
        while len(asked[kind]) < _PER_KIND:
            scene, _ = task.composed("test", index % task.num_pictures["test"])
            if kind != "where" or scene.kind in ("two", "several"):  # type: ignore[union-attr]
                draft = question(rng, scene, kind)  # type: ignore[arg-type]
                picture_id = f"{task.name}/test/{index % task.num_pictures['test']}"
                asked[kind].append(Example(f"{kind}/{index}", picture_id, draft.prompt, draft.answer, (draft.answer,)))
            index += 1
    encoder = encoder_for(loaded, task, [e for kind in KINDS for e in asked[kind]], 512, progress=True)
    found = {kind: _accuracy(asked[kind], generate(loaded.model, encoder, asked[kind], 6, 200)) for kind in KINDS}
    return found | {"letter": _letters(loaded)}


def _letters(loaded: Loaded) -> dict[str, float]:
    """Letter look-up with no picture: the prompt format without its image token, one question a row."""
    rng = Random("ability:letter")
    asked: list[Example] = []
    while len(asked) < _PER_KIND:
        text, answer = look_up(rng, 4)
        if text.startswith("which letter"):
            asked.append(Example(f"letter/{len(asked)}", "", text, answer, (answer,)))
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(asked), 200):
        texts = [loaded.entry.prompt_format.replace("<image>\n", "").format(prompt=e.prompt) for e in asked[start : start + 200]]
        inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=3)
        new = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers += [t.strip() for t in new]
    return _accuracy(asked, answers)


def _accuracy(asked: list[Example], answers: list[str]) -> dict[str, float]:
    right = sum(a == e.answer for e, a in zip(asked, answers, strict=True))
    majority = Counter(e.answer for e in asked).most_common(1)[0][1]
    return {"accuracy": right / len(asked), "majority": majority / len(asked), "num_questions": len(asked)}


def captions(loaded: Loaded) -> dict[str, float]:
    """CIDEr-D of the base's own captions on 400 new scenes, beside that of one constant caption."""
    task = BaseCaptions()
    asked = task.examples("test")
    encoder = encoder_for(loaded, task, asked, 512, progress=True)
    scores, rows = evaluate(loaded.model, encoder, task, asked, None, 200)
    exact = sum(r["prediction"] == r["answers"][0] for r in rows) / len(rows)
    return {"cider_d": scores["score"], "exact": exact, "constant": task.baselines()["majority"]}


def zero_shot(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Zero-shot test score of each of the eight tasks, beside majority and chance."""
    rows = {}
    for name, task in COLUMNS.items():
        asked = task.examples("test")
        encoder = encoder_for(loaded, task, asked, 512, progress=True)
        scores, _ = evaluate(loaded.model, encoder, task, asked, None, 200)
        rows[name] = {"seen": task.seen, "metric": task.metric, **scores, **task.baselines()}
    return rows


def measure(folder: Path) -> dict[str, Any]:
    """Everything the card says, as numbers; written to ``card.json`` and, as prose and tables, to ``README.md``."""
    loaded = from_folder(folder, MODELS["tiny-llava"].entry)
    decoder = sum(p.numel() for p in loaded.model.model.language_model.parameters())
    connector = sum(p.numel() for p in loaded.model.model.multi_modal_projector.parameters())
    encoder = sum(p.numel() for p in loaded.model.model.vision_tower.parameters())
    card = {
        "fingerprint": (folder / "fingerprint.txt").read_text(encoding="utf-8").strip(),
        "parameters": {"decoder": decoder, "connector": connector, "vision_encoder": encoder},
        "vocabulary": len(loaded.tokenizer),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "abilities": abilities(loaded),
        "captions": captions(loaded),
        "zero_shot": zero_shot(loaded),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        _prose(card, json.loads((folder / "curve.json").read_text(encoding="utf-8"))), encoding="utf-8"
    )
    return card


def _prose(card: dict[str, Any], made: dict[str, Any]) -> str:
    """The card as a page: ``card.md`` beside this file with the measured numbers filled in."""
    abilities, seconds = card["abilities"], {row["stage"]: row["seconds"] for row in made["curve"]}
    weak = [name for kind, (name, goal) in ABILITIES.items() if abilities[kind]["accuracy"] < goal]
    template = (files("mmpeft.mini") / "card.md").read_text(encoding="utf-8")
    return template.format(
        card=card,
        recipe=made["recipe"],
        counts={"things": len(world.things()), "icons": len(world.icons()), "countries": len(world.countries())},
        films=len(world.films()),
        seconds=", ".join(f"{stage} {value} s" for stage, value in seconds.items()),
        ability_rows="\n".join(_ability_row(name, goal, abilities[kind]) for kind, (name, goal) in ABILITIES.items()),
        task_rows="\n".join(_task_row(name, row) for name, row in card["zero_shot"].items()),
        verdict=f"It misses its goal in: {', '.join(weak)}." if weak else "It reaches every goal above.",
    )


def _ability_row(name: str, goal: float, found: dict[str, float]) -> str:
    reached = "yes" if found["accuracy"] >= goal else "no"
    return f"| {name} | {found['accuracy']:.3f} | {found['majority']:.3f} | {goal:.2f} | {reached} |"


def _task_row(name: str, row: dict[str, Any]) -> str:
    seen = "seen" if row["seen"] else "unseen"
    return f"| {name} | {seen} | {row['metric']} | {row['score']:.3f} | {row['majority']:.3f} | {row['chance']:.3f} |"
