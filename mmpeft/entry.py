"""What is known about a model without loading it: where its parts are, and how large its decoder is.

Pure: nothing here imports torch. Shape letters: D hidden width, F intermediate width, L layers, V vocabulary.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Location = Literal["attention", "mlp", "both"]


@dataclass(frozen=True)
class ModelEntry:
    """One model of the study: its name, and the dotted paths of its parts inside the loaded module.

    Attributes:
        name: The name used in a RunSpec.
        kind: The architecture, for example ``"llava"``.
        language_model: Path of the decoder (without its output head).
        connector: Path of the module that maps vision features to decoder embeddings.
        vision_encoder: Path of the vision encoder; it stays frozen in every run.
        attention: Names of the query, key, value and output projections, in this order.
        mlp: Names of the gate, up and down projections, in this order.
        layers: Path of the decoder's list of layers.
        attention_block: Name of the attention block inside a layer.
        mlp_block: Name of the MLP block inside a layer.
        output_head: Path of the linear map from hidden states to the vocabulary.
        prompt_format: How a user's text becomes a prompt, with ``{prompt}`` where it goes and the image token once.
        before_answer: What stands between prompt and answer and is part of the answer's first token: a space, where the
            tokenizer joins it to the word and the prompt ends without one.
        image_token: The token that is repeated N times for a picture.
        adds_special_tokens: Whether the tokenizer adds its own, such as the first one; else the prompt format holds them all.
        end_of_answer: The token that ends an answer; by default the tokenizer's end token.
        refused: Methods that this model cannot take, by name, with the reason.
    """

    name: str
    kind: str
    language_model: str
    connector: str
    vision_encoder: str
    attention: tuple[str, str, str, str]
    mlp: tuple[str, str, str]
    layers: str
    attention_block: str = "self_attn"
    mlp_block: str = "mlp"
    output_head: str = "lm_head"
    prompt_format: str = "{prompt}"
    before_answer: str = ""
    image_token: str = "<image>"
    adds_special_tokens: bool = True
    end_of_answer: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)

    def attention_linears(self, *names: str) -> str:
        """The regular expression that matches these projections of every decoder layer, and nothing else."""
        return self._in_layers(f"{re.escape(self.attention_block)}\\.{one_of(names)}")

    def mlp_linears(self, *names: str) -> str:
        """The regular expression that matches these MLP linears of every decoder layer, and nothing else."""
        return self._in_layers(f"{re.escape(self.mlp_block)}\\.{one_of(names)}")

    def blocks(self, *names: str) -> str:
        """The regular expression that matches whole blocks of every decoder layer, and nothing else."""
        return self._in_layers(one_of(names))

    def _in_layers(self, pattern: str) -> str:
        return f"{re.escape(self.layers)}\\.\\d+\\.{pattern}"


def one_of(patterns: tuple[str, ...] | list[str]) -> str:
    """The regular expression that matches any one of these patterns."""
    return f"({'|'.join(patterns)})"


LLAVA_PARTS: dict[str, Any] = {
    "kind": "llava",
    "language_model": "model.language_model",
    "connector": "model.multi_modal_projector",
    "vision_encoder": "model.vision_tower",
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "layers": "model.language_model.layers",
}
"""The fields of a ModelEntry that every LlavaForConditionalGeneration shares (transformers' names)."""


@dataclass(frozen=True)
class Dims:
    """The sizes of a decoder that parameter counts follow from.

    Attributes:
        hidden_size: D, the width of the residual stream.
        intermediate_size: F, the width inside the MLP.
        num_layers: L.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (fewer than the query heads under grouped-query attention).
        head_dim: Width of one head.
        vocab_size: V, rows of the embedding.
        tied_embeddings: Whether the output head is the embedding matrix.
        attention_biased: Whether queries, keys and values carry a bias, as in Qwen2.
        heads_normed: Whether each query and key head is normalized, as in Qwen3 and Gemma 3.
        norms_per_layer: Norms over the residual stream in a layer; four in Gemma 2 and 3.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool = False
    attention_biased: bool = False
    heads_normed: bool = False
    norms_per_layer: int = 2

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together (and of all value heads)."""
        return self.num_key_value_heads * self.head_dim

    def distinct_inputs(self, location: Location) -> int:
        """Width of what a layer's linear maps read, together: q, k and v read the same, and so do gate and up.

        The input of the output projection is the attention's result, which is kept anyway.
        """
        attention, mlp = self.hidden_size, self.hidden_size + self.intermediate_size
        return {"attention": attention, "mlp": mlp, "both": attention + mlp}[location]

    def linears(self, location: Location) -> list[tuple[int, int]]:
        """The (input, output) widths of one layer's linear maps there, ordered q, k, v, o, gate, up, down."""
        attention = [
            (self.hidden_size, self.query_size),
            (self.hidden_size, self.key_value_size),
            (self.hidden_size, self.key_value_size),
            (self.query_size, self.hidden_size),
        ]
        mlp = [
            (self.hidden_size, self.intermediate_size),
            (self.hidden_size, self.intermediate_size),
            (self.intermediate_size, self.hidden_size),
        ]
        return {"attention": attention, "mlp": mlp, "both": attention + mlp}[location]

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole decoder: embeddings, output head, L layers of linear maps, biases and norms, a last norm."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        biases = (self.query_size + 2 * self.key_value_size) * self.attention_biased
        norms = self.norms_per_layer * self.hidden_size + 2 * self.head_dim * self.heads_normed
        layer = sum(i * o for i, o in self.linears("both")) + biases + norms
        return embeddings + self.num_layers * layer + self.hidden_size


_BIASED = ("qwen2", "qwen2_5_vl_text")
_HEADS_NORMED = ("qwen3", "qwen3_vl_text", "gemma3_text")
_FOUR_NORMS = ("gemma2", "gemma3_text")


def dims_of(config: Any) -> Dims:
    """The decoder's sizes, read from a transformers config (a LlavaConfig or a Llama-like text config)."""
    text = getattr(config, "text_config", config)
    kind = getattr(text, "model_type", "llama")
    return Dims(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=text.vocab_size,
        tied_embeddings=bool(config.tie_word_embeddings),
        attention_biased=kind in _BIASED,
        heads_normed=kind in _HEADS_NORMED,
        norms_per_layer=4 if kind in _FOUR_NORMS else 2,
    )
