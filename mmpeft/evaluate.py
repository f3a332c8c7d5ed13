"""Evaluation: greedy answers to every example, every one of them kept."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from mmpeft.batches import Encoder, ahead
from mmpeft.task import Example, Scored, Task


@torch.inference_mode()
def generate(
    model: nn.Module, encoder: Encoder, examples: Sequence[Example], max_new_tokens: int, batch_size: int = 64
) -> list[str]:
    """The model's greedy answer to each example, in order; the processes of a launch share the batches, and all get all answers.

    Args:
        model: In evaluation mode, with or without a method on it.
        encoder: Makes its inputs.
        examples: What is asked.
        max_new_tokens: Longest answer in tokens.
        batch_size: Examples generated at once; prompts of like length go together.
    """
    tokenizer = encoder.loaded.tokenizer
    device = next(model.parameters()).device
    image = encoder.loaded.image_token_id  # no answer holds a picture
    lengths = [len(encoder.prompt_ids(e)) for e in examples]
    order = sorted(range(len(examples)), key=lambda i: (lengths[i], i))
    process = PartialState()
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = batches[process.process_index :: process.num_processes]
    answers: dict[int, str] = {}
    for indices, batch in zip(mine, ahead(encoder.prompt_batch([examples[i] for i in each]) for each in mine), strict=True):
        inputs = {k: v.to(device) for k, v in batch.items()}
        del inputs["position_ids"]  # generate makes its own, right under left padding and behind a prefix
        out = cast(Any, model).generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, suppress_tokens=[image])
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        answers |= {i: text.strip() for i, text in zip(indices, texts, strict=True)}
    for others in gather_object([answers]):
        answers |= others
    return [answers[i] for i in range(len(examples))]


def predictions(examples: Sequence[Example], answers: Sequence[str], scored: Scored) -> list[dict[str, Any]]:
    """One row an example, as stored beside a record."""
    return [
        {
            "example_id": e.example_id,
            "picture_id": e.picture_id,
            "prediction": answer,
            "answers": list(e.answers),
            "score": round(item, 6),
            "parsed": parsed,
        }
        for e, answer, item, parsed in zip(examples, answers, scored.per_item, scored.parsed, strict=True)
    ]


def scores(scored: Scored) -> dict[str, float]:
    """The scores of a record: ``score``, the share ``unparsed``, and the task's further ones."""
    unparsed = 1 - sum(scored.parsed) / max(1, len(scored.parsed))
    return {"score": scored.score, "unparsed": unparsed, **scored.extra}


def evaluate(
    model: nn.Module, encoder: Encoder, task: Task, examples: Sequence[Example], max_new_tokens: int | None, batch_size: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores of a model on examples of a task, and every prediction."""
    answers = generate(model, encoder, examples, max_new_tokens or task.max_new_tokens, batch_size)
    scored = task.score(examples, answers)
    return scores(scored), predictions(examples, answers, scored)
