"""Qwen-VL-Chat inside transformers' own modules: its published code does not run under transformers 5.

    picture ─► VisionEncoder ─► Head: attn_pool (the connector), ln_post, proj ─► image embeddings ─► Qwen2 decoder

Bai et al. 2023, "Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and Beyond", arXiv
2308.12966. Its decoder, Qwen, computes up to 2,048 tokens what Qwen2 computes (beyond, Qwen rescales its rotation and its
attention), only that one linear map, `c_attn`, holds queries, keys and values: it is cut in three when a checkpoint is loaded, so
that every method has the same targets here as elsewhere. The names of the vision part are those of the checkpoint.
"""

import base64
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.hub import cached_file

from mmpeft.models.base import Hub

EPS = 1e-6  # of every norm


class VisionConfig(PreTrainedConfig):
    """Configuration of `VisionEncoder` and `Head`.

    The fields are transformers' names; `num_positions` is the grid that positions were trained on (bicubic in between),
    `num_queries` the image tokens N, `output_size` the width of the decoder.
    """

    model_type = "mmpeft_qwen_vl_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    num_positions: int = 256
    num_queries: int = 256
    output_size: int = 4096
    num_pool_heads: int = 32


def stretched(positions: Tensor, num: int) -> Tensor:
    """Positions of a square grid (P, D), bicubically stretched to a grid of `num` places (num, D)."""
    old, new = math.isqrt(len(positions)), math.isqrt(num)
    if old == new:
        return positions
    grid = positions.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    wide = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return wide.permute(0, 2, 3, 1).reshape(num, -1).to(positions.dtype)


class SelfAttention(nn.Module):
    """Attention of the vision encoder; its one input map holds query, key and value of each head side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) → (B, P, D)."""
        query, key, value = self.in_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.out_proj(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A layer of the vision encoder: norms first."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, EPS)
        self.ln_2 = nn.LayerNorm(config.hidden_size, EPS)
        self.attn = SelfAttention(config.hidden_size, config.num_attention_heads)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(config.hidden_size, config.intermediate_size),
                "c_proj": nn.Linear(config.intermediate_size, config.hidden_size),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) → (B, P, D)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class VisionEncoder(PreTrainedModel):
    """The vision transformer up to its last patches."""

    config_class = VisionConfig
    main_input_name = "pixel_values"
    base_model_prefix = "vision"

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.randn(config.num_positions, config.hidden_size) / config.hidden_size**0.5)
        self.ln_pre = nn.LayerNorm(config.hidden_size, EPS)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))})
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: torch's own start is kept."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Patches (B, P, D) of pictures (B, 3, H, W), as `last_hidden_state` and the only hidden state."""
        x = self.conv1(pixel_values.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + stretched(self.positional_embedding, x.shape[1]))
        blocks: Any = self.transformer["resblocks"]
        for block in blocks:
            x = block(x)
        return BaseModelOutputWithPooling(last_hidden_state=x, hidden_states=(x,))


class CrossAttention(nn.Module):
    """Attention whose three input maps are one tensor, under the names of torch's own module.

    Torch's own takes another way for tensors that want a gradient, which rounds differently: a base would not equal itself.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Queries (B, N, D), keys and values (B, P, D) → (B, N, D)."""
        maps = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        split = [functional.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x, w, b in maps]
        return self.out_proj(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class Pool(nn.Module):
    """The connector: N learned queries look at all patches once."""

    pos_embed: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.output_size
        # Sine and cosine of the place in the grid, which the checkpoint brings: fixed, so no parameter.
        self.register_buffer("pos_embed", torch.zeros(config.num_queries, width))
        self.query = nn.Parameter(0.02 * torch.randn(config.num_queries, width))
        self.kv_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.attn = CrossAttention(width, config.num_pool_heads)
        self.ln_q = nn.LayerNorm(width, EPS)
        self.ln_kv = nn.LayerNorm(width, EPS)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, P, D of the vision encoder) → (B, N, D of the decoder)."""
        seen = self.ln_kv(self.kv_proj(patches))
        query = (self.ln_q(self.query) + self.pos_embed).expand(len(seen), -1, -1)
        return self.attn(query, seen + stretched(self.pos_embed, seen.shape[1]), seen)


class Head(nn.Module):
    """What follows the patches: the connector, a norm, a projection."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attn_pool = Pool(config)
        self.ln_post = nn.LayerNorm(config.output_size, EPS)
        self.proj = nn.Parameter(torch.randn(config.output_size, config.output_size) / config.output_size**0.5)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, P, D of the vision encoder) → (B, N, D of the decoder)."""
        pooled = self.attn_pool(patches).to(self.proj.dtype)  # the connector may be kept in a wider one
        return self.ln_post(pooled) @ self.proj


class QwenVLForConditionalGeneration(LlavaForConditionalGeneration):
    """A LLaVA whose vision encoder and connector are Qwen-VL's, and whose decoder is a Qwen2."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = Head(config.vision_config)


AutoConfig.register(VisionConfig.model_type, VisionConfig)
AutoModel.register(VisionConfig, VisionEncoder)

_LAYER, _OURS = r"^transformer\.h\.(\d+)\.", r"model.language_model.layers.\1."
_RENAMED = {
    r"^transformer\.wte\.": "model.language_model.embed_tokens.",
    r"^transformer\.ln_f\.": "model.language_model.norm.",
    rf"{_LAYER}ln_1\.": rf"{_OURS}input_layernorm.",
    rf"{_LAYER}ln_2\.": rf"{_OURS}post_attention_layernorm.",
    rf"{_LAYER}attn\.c_attn\.": rf"{_OURS}self_attn.c_attn.",
    rf"{_LAYER}attn\.c_proj\.": rf"{_OURS}self_attn.o_proj.",
    rf"{_LAYER}mlp\.w1\.": rf"{_OURS}mlp.up_proj.",
    rf"{_LAYER}mlp\.w2\.": rf"{_OURS}mlp.gate_proj.",
    rf"{_LAYER}mlp\.c_proj\.": rf"{_OURS}mlp.down_proj.",
    r"^transformer\.visual\.(conv1|positional_embedding|ln_pre|transformer)": r"model.vision_tower.\1",
    r"^transformer\.visual\.(attn_pool|ln_post|proj)": r"model.multi_modal_projector.\1",
}
_CUT = [
    WeightConverter(
        f"self_attn.c_attn.{kind}",
        [f"self_attn.{name}_proj.{kind}" for name in "qkv"],
        operations=[Chunk(dim=0)],
    )
    for kind in ("weight", "bias")
]
register_checkpoint_conversion_mapping(
    QwenVLForConditionalGeneration.__name__,
    [*(WeightRenaming(old, new) for old, new in _RENAMED.items()), *_CUT],
    overwrite=True,
)

PATTERN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
"""How Qwen cuts text before its merges."""
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(f"<|extra_{i}|>" for i in range(205)),
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"),
]
"""Its special tokens, numbered on from the last merge."""


class _Converter(TikTokenConverter):
    """Reads a vocabulary of tiktoken's format: a token in base64 and its rank in each line."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        """The rank of each token."""
        lines = Path(tiktoken_url).read_bytes().splitlines()
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def tokenizer(hub: Hub) -> PreTrainedTokenizerFast:
    """Qwen's tokenizer, from the vocabulary file beside the weights: its own class is remote code."""
    file = cached_file(hub.id, "qwen.tiktoken", revision=hub.revision)
    made = _Converter(file, pattern=PATTERN, extra_special_tokens=SPECIAL).converted()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
