"""A LLaVA of some twenty thousand parameters, its entry, and batches for it: what the method tests run on."""

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmpeft.entry import LLAVA_PARTS, ModelEntry

torch.set_num_threads(1)

ENTRY = ModelEntry(name="toy", **LLAVA_PARTS)
KEY_VALUE_HEADS = {"mha": 4, "gqa": 2}
VOCAB_SIZE, IMAGE, PAD, NUM_IMAGE_TOKENS = 64, 63, 0, 4


def make_toy(attention: str = "mha", seed: int = 0, tied: bool = False) -> LlavaForConditionalGeneration:
    """A random LLaVA with multi-head ("mha") or grouped-query ("gqa") attention."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=KEY_VALUE_HEADS[attention],
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=PAD,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # wide enough for logits that differ visibly
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
    )
    return LlavaForConditionalGeneration(config).eval()


def make_batch(padding: str = "left", lengths: tuple[int, ...] = (5, 9), seed: int = 1) -> dict[str, Any]:
    """Forward's arguments: an image and some words an example, padded on one side, explicit positions."""
    generator = torch.Generator().manual_seed(seed)
    size = NUM_IMAGE_TOKENS + max(lengths)
    rows, masks = [], []
    for length in lengths:
        words = torch.randint(3, IMAGE, (length,), generator=generator)
        row = torch.cat([torch.full((NUM_IMAGE_TOKENS,), IMAGE), words])
        gap = torch.full((size - len(row),), PAD)
        rows.append(torch.cat([gap, row] if padding == "left" else [row, gap]))
        masks.append((rows[-1] != PAD).long())
    attention_mask = torch.stack(masks)
    input_ids = torch.stack(rows)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(0),
        "pixel_values": torch.randn(len(lengths), 3, 8, 8, generator=generator),
        "labels": input_ids.masked_fill((attention_mask == 0) | (input_ids == IMAGE), -100),
    }
