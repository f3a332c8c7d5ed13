"""The port of Qwen-VL-Chat: a checkpoint in the published layout, read and computed here, against its formulas written out."""

import base64
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, interpolate, layer_norm, silu

from mmpeft.counts import sizes
from mmpeft.loading import tiny
from mmpeft.models import MODELS, Hub
from mmpeft.models.base import merged
from mmpeft.qwen_vl import SPECIAL, tokenizer

torch.set_num_threads(1)

MODEL = MODELS["qwen-vl-chat"]
HEADS, LAYERS, VISION_HEADS, POOL_HEADS, WIDTH = 4, 2, 2, 2, 32


def checkpoint() -> dict[str, Tensor]:
    """Random tensors under the names and shapes of the published checkpoint, at the tiny sizes."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    state = {"transformer.wte.weight": some(3100, WIDTH), "lm_head.weight": some(3100, WIDTH)}
    state["transformer.ln_f.weight"] = 1 + some(WIDTH)
    for i in range(LAYERS):
        layer = f"transformer.h.{i}."
        state |= {layer + "ln_1.weight": 1 + some(WIDTH), layer + "ln_2.weight": 1 + some(WIDTH)}
        state |= {layer + "attn.c_attn.weight": some(3 * WIDTH, WIDTH), layer + "attn.c_attn.bias": some(3 * WIDTH)}
        state |= {layer + "attn.c_proj.weight": some(WIDTH, WIDTH), layer + "mlp.c_proj.weight": some(WIDTH, 48)}
        state |= {layer + "mlp.w1.weight": some(48, WIDTH), layer + "mlp.w2.weight": some(48, WIDTH)}
    visual, pool = "transformer.visual.", "transformer.visual.attn_pool."
    state |= {visual + "conv1.weight": some(16, 3, 4, 4), visual + "positional_embedding": some(4, 16)}
    state |= {visual + "proj": some(WIDTH, WIDTH), pool + "query": some(4, WIDTH), pool + "pos_embed": some(4, WIDTH)}
    state |= {pool + "attn.in_proj_weight": some(3 * WIDTH, WIDTH), pool + "attn.in_proj_bias": some(3 * WIDTH)}
    state |= {pool + "attn.out_proj.weight": some(WIDTH, WIDTH), pool + "attn.out_proj.bias": some(WIDTH)}
    state[pool + "kv_proj.weight"] = some(WIDTH, 16)
    for norm, width in (("ln_pre", 16), ("ln_post", WIDTH), ("attn_pool.ln_q", WIDTH), ("attn_pool.ln_kv", WIDTH)):
        state |= {f"{visual}{norm}.weight": 1 + some(width), f"{visual}{norm}.bias": some(width)}
    for i in range(2):
        block = f"{visual}transformer.resblocks.{i}."
        for norm in ("ln_1", "ln_2"):
            state |= {f"{block}{norm}.weight": 1 + some(16), f"{block}{norm}.bias": some(16)}
        for linear, out in (("attn.in_proj", 48), ("attn.out_proj", 16), ("mlp.c_fc", 16), ("mlp.c_proj", 16)):
            state |= {f"{block}{linear}.weight": some(out, 16), f"{block}{linear}.bias": some(out)}
    return state


class Written:
    """The model's formulas, one after another, on a checkpoint in the published layout."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.state.get(f"{name}.bias")
        return x @ self.state[f"{name}.weight"].T + (0 if bias is None else bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return layer_norm(x, weight.shape, weight, self.state[f"{name}.bias"], 1e-6)

    def rms(self, name: str, x: Tensor) -> Tensor:
        return self.state[f"{name}.weight"] * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()

    def wide(self, positions: Tensor, side: int) -> Tensor:
        old = math.isqrt(len(positions))
        grid = positions.reshape(old, old, -1).permute(2, 0, 1)[None]
        return interpolate(grid, (side, side), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).flatten(0, 1)

    def picture(self, pixels: Tensor) -> Tensor:
        """Image embeddings (N, D) of one picture (3, 16, 16)."""
        x = torch.nn.functional.conv2d(pixels[None], self.state["visual.conv1.weight"], stride=4)[0].flatten(1).T
        x = self.norm("visual.ln_pre", x + self.wide(self.state["visual.positional_embedding"], 4))
        for i in range(2):
            block = f"visual.transformer.resblocks.{i}."
            mixed = self.linear(block + "attn.in_proj", self.norm(block + "ln_1", x)).reshape(16, VISION_HEADS, 3, 8)
            out = []
            for head in range(VISION_HEADS):
                q, k, v = mixed[:, head].unbind(1)
                out.append((q @ k.T / math.sqrt(8)).softmax(-1) @ v)
            x = x + self.linear(block + "attn.out_proj", torch.cat(out, 1))
            x = x + self.linear(block + "mlp.c_proj", gelu(self.linear(block + "mlp.c_fc", self.norm(block + "ln_2", x))))
        pool = "visual.attn_pool."
        seen, places = self.norm(pool + "ln_kv", self.linear(pool + "kv_proj", x)), self.state[pool + "pos_embed"]
        query = self.norm(pool + "ln_q", self.state[pool + "query"]) + places
        weights, biases = (self.state[f"{pool}attn.in_proj_{kind}"].split(WIDTH) for kind in ("weight", "bias"))
        inputs = (query, seen + self.wide(places, 4), seen)
        q, k, v = (t @ w.T + b for t, w, b in zip(inputs, weights, biases, strict=True))
        heads = zip(*(t.split(WIDTH // POOL_HEADS, 1) for t in (q, k, v)), strict=True)
        x = torch.cat([(a @ b.T / math.sqrt(WIDTH // POOL_HEADS)).softmax(-1) @ c for a, b, c in heads], 1)
        return self.norm("visual.ln_post", self.linear(pool + "attn.out_proj", x)) @ self.state["visual.proj"]

    def logits(self, ids: Tensor, image_token: int, pixels: Tensor) -> Tensor:
        """Logits (T, V) of one sequence."""
        x = self.state["wte.weight"][ids].clone()
        x[ids == image_token] = self.picture(pixels)
        length, size = len(ids), WIDTH // HEADS
        angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, size, 2) / size)
        cos, sin = torch.cat([angles, angles], 1).cos(), torch.cat([angles, angles], 1).sin()

        def turned(t: Tensor) -> Tensor:
            return t * cos + torch.cat([-t[:, size // 2 :], t[:, : size // 2]], 1) * sin

        future = torch.ones(length, length).triu(1).bool()
        for i in range(LAYERS):
            layer = f"h.{i}."
            q, k, v = self.linear(layer + "attn.c_attn", self.rms(layer + "ln_1", x)).split(WIDTH, 1)
            heads = zip(*(t.split(size, 1) for t in (q, k, v)), strict=True)
            out = [
                (turned(a) @ turned(b).T / math.sqrt(size)).masked_fill(future, -torch.inf).softmax(-1) @ c for a, b, c in heads
            ]
            x = x + self.linear(layer + "attn.c_proj", torch.cat(out, 1))
            inner = self.rms(layer + "ln_2", x)
            gated = self.linear(layer + "mlp.w1", inner) * silu(self.linear(layer + "mlp.w2", inner))
            x = x + self.linear(layer + "mlp.c_proj", gated)
        return self.rms("ln_f", x) @ self.state["lm_head.weight"].T


def write_vocabulary(folder: Path) -> None:
    """260 tokens in the format of the published file."""
    tokens = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"hell", b"hello"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines), encoding="ascii")


@torch.no_grad()
def test_a_checkpoint_in_the_published_layout_computes_what_its_formulas_say(tmp_path: Path) -> None:
    state = checkpoint()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "qwen", "architectures": ["QWenLMHeadModel"]}', encoding="utf-8")
    (tmp_path / "generation_config.json").write_text('{"chat_format": "chatml", "top_k": 0}', encoding="utf-8")
    write_vocabulary(tmp_path)
    image = 260 + SPECIAL.index("<imgpad>")
    changes: dict[str, Any] = {"image_token_id": image, "text_config": {"vocab_size": 3100}}
    assert isinstance(MODEL.source, Hub)
    here = replace(MODEL.source, id=str(tmp_path), revision=None)
    loaded = replace(MODEL, source=here, config=merged(merged(MODEL.config, MODEL.tiny), changes)).load()
    model, ids = loaded.model, torch.tensor([5, 7, image, image, image, image, 11, 13, 17])
    assert loaded.image_token_id == image
    pixels = torch.randn(3, 16, 16)
    expected = Written(state).logits(ids, image, pixels)
    found_logits = model.eval()(input_ids=ids[None], pixel_values=pixels[None]).logits[0]
    torch.testing.assert_close(found_logits, expected, rtol=1e-4, atol=1e-4)


def test_at_full_size_its_parts_are_as_large_as_the_paper_of_the_model_says() -> None:
    """arXiv 2308.12966, table 1: vision encoder 1.9B, adapter 0.08B, language model 7.7B, 9.6B in all."""
    found = sizes("qwen-vl-chat")
    assert round(found.language_model / 1e9, 1) == 7.7
    assert round(found.vision_encoder / 1e9, 1) == 1.9
    assert round(found.connector / 1e9, 2) == 0.08
    assert found.total == 9_655_886_592  # and 256 × 4,096 fixed places, which are no parameters here


def test_the_connector_is_the_resampler() -> None:
    model = tiny(MODEL).model
    assert MODEL.entry.connector.endswith(".attn_pool")
    names = {name for name, _ in model.get_submodule(MODEL.entry.connector).named_parameters()}
    assert {"query", "kv_proj.weight", "attn.in_proj_weight", "attn.out_proj.weight", "ln_q.weight", "ln_kv.bias"} <= names


def test_the_tokenizer_is_read_from_the_vocabulary_file(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    made = tokenizer(Hub(str(tmp_path), None, ""))
    ids = made("<img><imgpad></img>hello é 12<|im_end|>")["input_ids"]
    assert ids[:4] == [260 + SPECIAL.index(token) for token in ("<img>", "<imgpad>", "</img>")] + [259]
    assert made.decode(ids) == "<img><imgpad></img>hello é 12<|im_end|>"
    assert ids[-3:-1] == [ord("1"), ord("2")]


@pytest.mark.parametrize(
    ("token", "published"), [("<img>", 151_857), ("</img>", 151_858), ("<imgpad>", 151_859), ("<|im_end|>", 151_645)]
)
def test_special_tokens_have_their_published_ids(token: str, published: int) -> None:
    assert 151_643 + SPECIAL.index(token) == published
