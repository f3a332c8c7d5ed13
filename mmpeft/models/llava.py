"""LLaVA-1.5 and ShareGPT4V: CLIP, a two-layer connector, Vicuna. LLaVA-OneVision: SigLIP, Qwen2, a picture in tiles.

The prompt is the one LLaVA-1.5 was trained with (vicuna_v1), its system sentence included; a picture is padded to a square, as
the official training does, and the next-to-last layer of CLIP is used without the class token.
"""

from typing import TYPE_CHECKING, Any

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import Hub, Model, Square, merged
from mmpeft.models.tiny import TEXT, VISION

if TYPE_CHECKING:
    from torch import Tensor, nn

VICUNA_PROMPT = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions. USER: <image>\n{prompt} ASSISTANT:"
)
CLIP_SQUARE = Square(336, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), fit="pad")


def _vicuna(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    """The configuration of a LLaVA-1.5 with a Vicuna of this size."""
    return {
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32_064,
        },
        "image_token_id": 32_000,
        "pad_token_id": 32_001,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": 576,
        "tie_word_embeddings": False,
    }


def _llava(name: str, about: str, source: Hub, config: dict[str, Any]) -> Model:
    return Model(
        entry=ModelEntry(name=name, prompt_format=VICUNA_PROMPT, adds_special_tokens=False, **LLAVA_PARTS),
        about=about,
        source=source,
        config=config,
        tiny={
            "vision_config": {**VISION, "image_size": 8, "patch_size": 4},
            "text_config": TEXT,
            "image_seq_length": 4,
        },
        token_ids={"image_token_id": "<image>"},
        square=CLIP_SQUARE,
        num_image_tokens=576,
        tiny_side=8,
        tiny_num_image_tokens=4,
    )


LLAVA_7B = _llava(
    "llava-1.5-7b",
    "CLIP ViT-L/14 at 336 pixels, Vicuna 7B",
    Hub("llava-hf/llava-1.5-7b-hf", "b234b804b114d9e37bb655e11cbbb5f5e971b7a9", "Llama 2 Community"),
    _vicuna(4096, 11_008, 32, 32),
)
LLAVA_13B = _llava(
    "llava-1.5-13b",
    "CLIP ViT-L/14 at 336 pixels, Vicuna 13B",
    Hub("llava-hf/llava-1.5-13b-hf", "5dda2880bda009266dda7c4baff660b95ca64540", "Llama 2 Community"),
    _vicuna(5120, 13_824, 40, 40),
)
SHAREGPT4V_7B = _llava(
    "sharegpt4v-7b",
    "LLaVA-1.5's architecture with a CLIP of its own, tuned on detailed captions; LLaVA's CLIP in its place is refused",
    Hub(
        "Lin-Chen/ShareGPT4V-7B",
        None,
        "Llama 2 Community",
        vision_encoder=Hub("Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12", None, "Apache-2.0"),
        key_mapping={
            r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
            r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
            r"^model\.(layers|embed_tokens|norm)\.": r"model.language_model.\1.",
        },
        own_config=False,
    ),
    # Its vocabulary is Vicuna's own; the image token is added after loading.
    merged(_vicuna(4096, 11_008, 32, 32), {"text_config": {"vocab_size": 32_000}}),
)


def one_tile(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs for a picture that is its own one tile: pixel values (B, 2, 3, H, W), whole and tile, and its size (B, 2)."""
    pixels = inputs["pixel_values"]
    return inputs | {
        "pixel_values": pixels[:, None].expand(-1, 2, -1, -1, -1),
        "image_sizes": inputs["input_ids"].new_tensor([pixels.shape[-2:]] * len(pixels)),
    }


ONEVISION_HALF_B = Model(
    entry=ModelEntry(
        name="llava-onevision-0.5b",
        prompt_format="<|im_start|>user <image>\n{prompt}<|im_end|><|im_start|>assistant\n",
        adds_special_tokens=False,
        end_of_answer="<|im_end|>",
        **{**LLAVA_PARTS, "kind": "llava-onevision"},
    ),
    about="SigLIP so400m, Qwen2 0.5B; a picture is seen whole and as one tile",
    source=Hub("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", None, "Apache-2.0"),
    architecture="LlavaOnevisionForConditionalGeneration",
    config={
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "vocab_size": 152_000,
            "tie_word_embeddings": True,
        },
        "image_token_index": 151_646,
        "video_token_index": 151_647,
        "image_grid_pinpoints": [[384, 384]],
        "vision_aspect_ratio": "anyres_max_9",
        "tie_word_embeddings": True,
    },
    tiny={
        "vision_config": {**VISION, "image_size": 8, "patch_size": 4},
        "text_config": TEXT,
        "image_grid_pinpoints": [[8, 8]],
    },
    token_ids={"image_token_index": "<image>", "video_token_index": "<video>"},
    square=Square(384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    num_image_tokens=27 * 27 + 27 * 28,  # the whole, then the tile with an end to each of its rows
    tiny_side=8,
    tiny_num_image_tokens=2 * 2 + 2 * 3,
    arrange=one_tile,
)
