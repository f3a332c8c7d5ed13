"""From examples to tensors: token ids, labels on the answer alone, positions that are right under padding.

Shapes: B batch, T tokens, N image tokens, D channels of a patch.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mmpeft.errors import MmpeftError
from mmpeft.features import OpenedLater
from mmpeft.loading import Loaded
from mmpeft.task import Example

IGNORED = -100

Made = TypeVar("Made")


def ahead(wanted: Iterable[Made]) -> Iterator[Made]:
    """The same, each made beside whoever uses the one before: pictures are opened while the model computes."""
    coming = iter(wanted)
    with ThreadPoolExecutor(1) as beside:
        following = beside.submit(next, coming, None)
        while (found := following.result()) is not None:
            following = beside.submit(next, coming, None)
            yield found


@dataclass
class Encoder:
    """Turns examples into batches for one model.

    Args:
        loaded: The model whose tokenizer and prompt format are used.
        features: By picture id, vision features (N, D) or pixel values (3, H, W).
        max_length: Longest sequence in tokens, image tokens included.
    """

    loaded: Loaded
    features: dict[str, Tensor] | OpenedLater
    max_length: int

    def prompt_ids(self, example: Example) -> list[int]:
        """Token ids of the prompt, its image token repeated N times."""
        tokenizer, entry = self.loaded.tokenizer, self.loaded.entry
        text = entry.prompt_format.format(prompt=example.prompt)
        image = self.loaded.image_token_id
        ids: list[int] = []
        for token in tokenizer(text, add_special_tokens=entry.adds_special_tokens)["input_ids"]:
            ids += [token] * (self.loaded.num_image_tokens if token == image else 1)
        return ids

    def answer_ids(self, example: Example) -> list[int]:
        """Token ids of the answer, with what stands before it, and the end token."""
        tokenizer, text = self.loaded.tokenizer, self.loaded.entry.before_answer + example.answer
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], self.loaded.end_of_answer_id]

    def check_lengths(self, examples: Sequence[Example]) -> None:
        """Looks at the lengths of all examples before the first batch is made; no picture is needed.

        Raises:
            MmpeftError: If one is longer than ``max_length``.
        """
        lengths = [len(self.prompt_ids(e)) + len(self.answer_ids(e)) for e in examples]
        longest = max(lengths, default=0)
        if longest > self.max_length:
            too_many, name = sum(length > self.max_length for length in lengths), examples[lengths.index(longest)].example_id
            raise MmpeftError(
                f"train.max_length: {too_many} of {len(examples)} examples are longer than {self.max_length} tokens; "
                f"raise it to {longest}, the length of {name}."
            )

    def training_batch(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Left-padded prompt and answer; labels are −100 but on the answer and its end token.

        Padding stands on the left, so that all answers end a row and the output head need only see the last few tokens.
        """
        prompts = [self.prompt_ids(e) for e in examples]
        answers = [self.answer_ids(e) for e in examples]
        rows = [p + a for p, a in zip(prompts, answers, strict=True)]
        longest = max(map(len, rows))
        labels = _padded([[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)], longest, IGNORED)
        return self._tensors(examples, rows, labels != IGNORED) | {"labels": labels}

    def prompt_batch(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Left-padded prompts, for generation."""
        rows = [self.prompt_ids(e) for e in examples]
        return self._tensors(examples, rows, torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool))

    def _tensors(self, examples: Sequence[Example], rows: list[list[int]], answers: Tensor) -> dict[str, Tensor]:
        length = answers.shape[1]
        mask = _padded([[1] * len(r) for r in rows], length, 0)
        # In fp32 before they are stacked: autocast on a CPU takes no fp16.
        pixel_values = torch.stack([self.features[e.picture_id].float() for e in examples])
        inputs = {
            "input_ids": _padded(rows, length, self.loaded.tokenizer.pad_token_id),
            "attention_mask": mask,
            # Explicit, because a prefix shifts the default positions of left-padded rows.
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
            "pixel_values": pixel_values,
        }
        return self.loaded.arrange(self.loaded.model, inputs, answers)


def _padded(rows: list[list[int]], length: int, fill: int) -> Tensor:
    return torch.tensor([[fill] * (length - len(r)) + r for r in rows])
