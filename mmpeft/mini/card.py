"""The card of a packaged model: what a base can do, measured on pictures it has not seen, beside chance and majority."""

import json
import math
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import torch

from mmpeft.evaluate import evaluate, generate
from mmpeft.loading import Loaded, from_folder, halve
from mmpeft.mini import world
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.language import look_up
from mmpeft.models import MODELS, Packaged, Precision
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


def abilities(loaded: Loaded, per_kind: int = 600) -> dict[str, dict[str, float]]:
    """Exact-match accuracy by ability on the test pictures of mini-vqav2 (and, for letters, in text alone).

    Args:
        loaded: The model.
        per_kind: Questions for each.

    Returns:
        By kind: ``accuracy``, ``majority`` (always the most frequent answer), ``num_questions``.
    """
    task = MiniVQAv2()
    asked: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        rng, index = Random(f"ability:{kind}"), 0
        while len(asked[kind]) < per_kind:
            scene, _ = task.composed("test", index % task.num_pictures["test"])
            if kind != "where" or scene.kind in ("two", "several"):  # type: ignore[union-attr]
                draft = question(rng, scene, kind)  # type: ignore[arg-type]
                picture_id = f"{task.name}/test/{index % task.num_pictures['test']}"
                asked[kind].append(Example(f"{kind}/{index}", picture_id, draft.prompt, draft.answer, (draft.answer,)))
            index += 1
    encoder = encoder_for(loaded, task, [e for kind in KINDS for e in asked[kind]], 512, progress=True)
    found = {kind: _accuracy(asked[kind], generate(loaded.model, encoder, asked[kind], 6, 200)) for kind in KINDS}
    return found | {"letter": _letters(loaded, per_kind)}


def _letters(loaded: Loaded, count: int) -> dict[str, float]:
    """Letter look-up with no picture: the prompt format without its image token, one question a row."""
    rng = Random("ability:letter")
    asked: list[Example] = []
    while len(asked) < count:
        text, answer = look_up(rng, 4)
        if text.startswith("which letter"):
            asked.append(Example(f"letter/{len(asked)}", "", text, answer, (answer,)))
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(asked), 200):
        texts = [loaded.entry.prompt_format.replace("<image>\n", "").format(prompt=e.prompt) for e in asked[start : start + 200]]
        told = {"return_tensors": "pt", "return_token_type_ids": False, "add_special_tokens": loaded.entry.adds_special_tokens}
        inputs = tokenizer(texts, padding=True, **told).to(loaded.model.device)
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=3)
        new = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers += [t.strip() for t in new]
    return _accuracy(asked, answers)


def _accuracy(asked: list[Example], answers: list[str]) -> dict[str, float]:
    right = sum(a == e.answer for e, a in zip(asked, answers, strict=True))
    majority = Counter(e.answer for e in asked).most_common(1)[0][1]
    return {"accuracy": right / len(asked), "majority": majority / len(asked), "num_questions": len(asked)}


def captions(loaded: Loaded, num_examples: int | None = None) -> dict[str, float]:
    """CIDEr-D of the base's own captions on new scenes, all 400 or so many, beside that of one constant caption."""
    task = BaseCaptions()
    asked = task.examples("test", num_examples)
    encoder = encoder_for(loaded, task, asked, 512, progress=True)
    scores, rows = evaluate(loaded.model, encoder, task, asked, None, 200)
    exact = sum(r["prediction"] == r["answers"][0] for r in rows) / len(rows)
    constant = task.baselines(num_examples)["majority"]
    return {"cider_d": scores["score"], "exact": exact, "constant": constant, "num_examples": len(asked)}


def zero_shot(loaded: Loaded, num_examples: int | None = None) -> dict[str, dict[str, Any]]:
    """Zero-shot test score of each of the eight tasks, on all or so many examples, beside majority and chance."""
    rows = {}
    for name, task in COLUMNS.items():
        asked = task.examples("test", num_examples)
        encoder = encoder_for(loaded, task, asked, 512, progress=True)
        scores, _ = evaluate(loaded.model, encoder, task, asked, None, 200)
        rows[name] = {"seen": task.seen, "metric": task.metric, **scores, **task.baselines(num_examples)}
    return rows


def measure(folder: Path, name: str = "tiny-llava", few: int | None = None, precision: Precision = "fp32") -> dict[str, Any]:
    """Everything the card says, as numbers; written to ``card.json`` and, as prose and tables, to ``README.md``.

    Args:
        folder: Where the model's own files are.
        name: The model.
        few: Questions for each ability and task, where all of them would take hours.
        precision: Number format of the decoder.
    """
    entry, source = MODELS[name].entry, MODELS[name].source
    assert isinstance(source, Packaged)
    loaded = from_folder(folder, entry, source.language_model)
    parts = {"decoder": entry.language_model, "connector": entry.connector, "vision_encoder": entry.vision_encoder}
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "bf16":
        halve(loaded.model.get_submodule(entry.language_model))  # not the encoder, whose features are kept
    with torch.autocast(loaded.model.device.type, torch.bfloat16, enabled=precision == "bf16"):
        card = {
            "fingerprint": (folder / "fingerprint.txt").read_text(encoding="utf-8").strip(),
            "parameters": {k: sum(p.numel() for p in loaded.model.get_submodule(v).parameters()) for k, v in parts.items()},
            "vocabulary": len(loaded.tokenizer),
            "bytes": (folder / "model.safetensors").stat().st_size,
            "abilities": abilities(loaded, few or 600),
            "captions": captions(loaded, few),
            "zero_shot": zero_shot(loaded, few),
        }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    made = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(_prose(name, card, made), encoding="utf-8")
    return card


def _prose(name: str, card: dict[str, Any], made: dict[str, Any]) -> str:
    """The card as a page: the model's page beside this file with the measured numbers filled in."""
    abilities, seconds = card["abilities"], {row["stage"]: row["seconds"] for row in made["curve"] if "seconds" in row}
    weak = [title for kind, (title, goal) in ABILITIES.items() if abilities[kind]["accuracy"] < goal]
    template = (files("mmpeft.mini") / f"{name}.md").read_text(encoding="utf-8")
    return template.format(
        card=card,
        recipe=made["recipe"],
        counts={"things": len(world.things()), "icons": len(world.icons()), "countries": len(world.countries())},
        films=len(world.films()),
        seconds=", ".join(f"{stage} {value} s" for stage, value in seconds.items()),
        ability_rows="\n".join(_ability_row(title, goal, abilities[kind]) for kind, (title, goal) in ABILITIES.items()),
        task_rows="\n".join(_task_row(task, row) for task, row in card["zero_shot"].items()),
        verdict=f"It misses its goal in: {', '.join(weak)}." if weak else "It reaches every goal above.",
        guessed=_listed([title for kind, (title, _) in ABILITIES.items() if not above_majority(abilities[kind])]),
        below=_listed([task for task, row in card["zero_shot"].items() if row["score"] <= row["majority"]]),
    )


def above_majority(found: dict[str, float]) -> bool:
    """Whether an ability's accuracy is above that of the most frequent answer by more than two standard errors of either."""
    share = found["majority"]
    return found["accuracy"] - share > 2 * math.sqrt(max(share * (1 - share), 0.01) / found["num_questions"])


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _ability_row(name: str, goal: float, found: dict[str, float]) -> str:
    reached = "yes" if found["accuracy"] >= goal else "no"
    return f"| {name} | {found['accuracy']:.3f} | {found['majority']:.3f} | {goal:.2f} | {reached} |"


def _task_row(name: str, row: dict[str, Any]) -> str:
    seen = "seen" if row["seen"] else "unseen"
    return f"| {name} | {seen} | {row['metric']} | {row['score']:.3f} | {row['majority']:.3f} | {row['chance']:.3f} |"
