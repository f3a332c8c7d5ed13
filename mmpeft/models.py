"""MODELS: every model the study knows: where it loads from, what its parts are called, how it is asked.

A loaded model is a transformers `LlavaForConditionalGeneration` whose vision encoder stands inside a `CachedEncoder`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpeft.entry import LLAVA_PARTS, Dims, ModelEntry, dims_of
from mmpeft.errors import MmpeftError, unknown
from mmpeft.features import CachedEncoder, FeatureStore
from mmpeft.registry import DATA, fingerprint
from mmpeft.vision import LiteEncoder, pixels

PROMPT_FORMAT = "USER: <image>\n{prompt} ASSISTANT:"


@dataclass
class Loaded:
    """A model ready for use.

    Attributes:
        model: The whole multimodal model, on the CPU, in evaluation mode.
        tokenizer: Its tokenizer.
        entry: Where its parts are.
        pixels: Turns RGB pictures into pixel values (B, 3, H, W).
        num_image_tokens: N, tokens of one picture.
    """

    model: LlavaForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    entry: ModelEntry
    pixels: Callable[[list[Image.Image]], Tensor]
    num_image_tokens: int

    @property
    def dims(self) -> Dims:
        """The decoder's sizes."""
        return dims_of(self.model.config)

    def features(self, folder: Path | None = None) -> FeatureStore:
        """The feature cache of this model's vision encoder."""
        return FeatureStore(self.model.get_submodule(self.entry.vision_encoder), self.pixels, folder)


def fingerprint_of(folder: Path) -> str:
    """16 hex digits over the files that decide what a packaged model computes."""
    total = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = folder / name
        if path.exists():
            total.update(name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def _finish(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.model.vision_tower = CachedEncoder(model.model.vision_tower, model.config.vision_feature_layer)
    return model.eval()


def from_folder(folder: Path, entry: ModelEntry) -> Loaded:
    """A tiny-llava from its folder: decoder, connector and statistics from safetensors, the encoder from its package.

    Raises:
        MmpeftError: If a file is missing or is not the one its fingerprint names.
    """
    if not (folder / "model.safetensors").exists():
        raise MmpeftError(f"model {entry.name}: no weights in {folder}; make them: python -m mmpeft base {entry.name}")
    written = (folder / "fingerprint.txt").read_text(encoding="utf-8").strip()
    if written != (found := fingerprint_of(folder)):
        raise MmpeftError(
            f"model {entry.name}: the weights have fingerprint {found}, expected {written}; "
            "the installation is damaged: reinstall."
        )
    tokenizer = _tokenizer(folder)
    config = LlavaConfig.from_pretrained(str(folder), local_files_only=True)
    model = LlavaForConditionalGeneration(config)
    state = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(state, strict=False)
    left = [n for n in missing if ".backbone." not in n and n != "lm_head.weight"]
    if left or unexpected:
        raise MmpeftError(f"model {entry.name}: weights do not fit its config (missing {left[:3]}, unexpected {unexpected[:3]})")
    model.tie_weights()
    encoder = model.model.vision_tower
    assert isinstance(encoder, LiteEncoder)
    encoder.load_backbone()
    side = config.vision_config.image_size
    return Loaded(_finish(model, tokenizer), tokenizer, entry, partial(pixels, side=side), config.image_seq_length)


def _tiny_llava() -> Loaded:
    return from_folder(DATA / "tiny-llava", MODELS["tiny-llava"].entry)


def _toy() -> Loaded:
    """A random model of some 50,000 parameters with the parts and the tokenizer of tiny-llava, for tests."""
    tokenizer = _tokenizer(DATA / "tiny-llava")
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=128, patch_size=64
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    return Loaded(_finish(model, tokenizer), tokenizer, MODELS["toy"].entry, pixels, config.image_seq_length)


@dataclass(frozen=True)
class Model:
    """An entry of MODELS: where a model's parts are, how it loads, and what to say of it."""

    entry: ModelEntry
    load: Callable[[], Loaded]
    about: str


def _entry(name: str, **fields: Any) -> ModelEntry:
    return ModelEntry(name=name, **{**LLAVA_PARTS, "prompt_format": PROMPT_FORMAT, **fields})


MODELS: dict[str, Model] = {
    "tiny-llava": Model(_entry("tiny-llava"), _tiny_llava, "our own small LLaVA on packaged pictures"),
    "toy": Model(_entry("toy"), _toy, "a random model for tests"),
}


def load(name: str) -> Loaded:
    """A fresh copy of a model of the study.

    Raises:
        MmpeftError: If the name is unknown or the weights are damaged.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name].load()


__all__ = ["MODELS", "Loaded", "Model", "fingerprint", "fingerprint_of", "from_folder", "load"]
