"""Packing: many questions about one picture in one row, none of which sees another."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpeft.batches import IGNORED

NUM_IMAGE_TOKENS = 16
ROW_TOKENS = 104  # a packed row is filled with questions up to this length
Question = tuple[str, str]  # what is asked, what is to be said


@dataclass
class Row:
    """One row of a packed batch: a picture (or none) and questions that do not see each other."""

    questions: list[Question]
    picture: Any = None
    statement: bool = False  # a sentence: every token is a target


class Packer:
    """Turns rows into one batch in which the questions of a row share its picture but not each other.

    A question restarts the positions behind the picture and sees the picture and itself alone, so it is the same to the model as
    a row of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without a start token."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]

    def row(self, row: Row) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids, block numbers (0 is shared), positions and labels of a row."""
        user, assistant = self.ids("USER:"), self.ids("ASSISTANT:")
        ids = [self.tokenizer.bos_token_id]
        if not row.statement:
            ids += user + [self.image] * (NUM_IMAGE_TOKENS if row.picture is not None else 0)
        shared = len(ids)
        block, position, labels = [0] * shared, list(range(shared)), [IGNORED] * shared
        for number, (asked, answer) in enumerate(row.questions):
            given = [] if row.statement else self.ids(asked) + assistant
            said = [*self.ids(answer), self.tokenizer.eos_token_id]
            if number and len(ids) + len(given) + len(said) > ROW_TOKENS:
                break
            ids += given + said
            block += [number + 1] * (len(given) + len(said))
            position += range(shared, shared + len(given) + len(said))
            labels += [IGNORED] * len(given) + said
        return ids, block, position, labels

    def batch(self, rows: list[Row]) -> dict[str, Tensor]:
        """``ids``, ``positions``, ``labels`` (B, T) and the boolean ``mask`` (B, 1, T, T)."""
        packed = [self.row(r) for r in rows]
        length = max(len(p[0]) for p in packed)
        length += -length % 8
        fills = (self.tokenizer.pad_token_id, -1, 0, IGNORED)
        padded = [torch.tensor([p[k] + [fills[k]] * (length - len(p[k])) for p in packed]) for k in range(4)]
        ids, block, position, labels = padded
        causal = torch.ones(length, length).tril().bool()[None]
        mask = causal & ((block[:, None, :] == 0) | (block[:, None, :] == block[:, :, None]))
        mask[:, range(length), range(length)] = True
        return {"ids": ids, "positions": position, "labels": labels, "mask": mask[:, None]}


def hidden_states(model: LlavaForConditionalGeneration, batch: dict[str, Tensor], image_tokens: Tensor | None) -> Tensor:
    """Last hidden states (B, T, D) of a packed batch; ``image_tokens`` are already projected."""
    image_id = model.config.image_token_id
    embedded = model.get_input_embeddings()(batch["ids"])
    if image_tokens is not None:
        where = (batch["ids"] == image_id)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(where, image_tokens.reshape(-1, embedded.shape[-1]).to(embedded.dtype))
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    )
    return out.last_hidden_state


def token_loss(model: LlavaForConditionalGeneration, states: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the answer tokens.

    Padded to whole hundreds of tokens: the CPU's bfloat16 kernels are compiled anew for each new shape.
    """
    targets = labels[:, 1:].flatten()
    chosen = (targets != IGNORED).nonzero()[:, 0]
    padded = torch.cat([chosen, chosen.new_zeros(-len(chosen) % 100)])
    wanted = torch.cat([targets[chosen], targets.new_full((len(padded) - len(chosen),), IGNORED)])
    logits = model.lm_head(states[:, :-1].flatten(0, 1)[padded])
    return F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED)
