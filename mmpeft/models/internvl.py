"""InternVL3: InternViT, pixel shuffle and a two-layer connector, Qwen2.5. A picture is one tile: 256 image tokens."""

from typing import Any

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import Hub, Model, Square
from mmpeft.models.tiny import TEXT, VISION


def _internvl3(size: str, revision: str | None, **text: Any) -> Model:
    return Model(
        entry=ModelEntry(
            name=f"internvl3-{size.lower()}",
            image_token="<IMG_CONTEXT>",
            prompt_format="<|im_start|>user\n<img><IMG_CONTEXT></img>\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
            adds_special_tokens=False,
            end_of_answer="<|im_end|>",
            **{**LLAVA_PARTS, "kind": "internvl"},
        ),
        about=f"InternViT 300M at 448 pixels, Qwen2.5; {size} parameters in all",
        source=Hub(f"OpenGVLab/InternVL3-{size}-hf", revision, "Apache-2.0 (Qwen's terms for its decoder)"),
        architecture="InternVLForConditionalGeneration",
        config={
            "vision_config": {
                "model_type": "internvl_vision",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "attention_bias": True,
                "image_size": [448, 448],
                "patch_size": [14, 14],
            },
            "text_config": {"model_type": "qwen2", "vocab_size": 151_674, "max_position_embeddings": 32_768, **text},
            "image_token_id": 151_667,
            "image_seq_length": 256,
            "downsample_ratio": 0.5,
            "tie_word_embeddings": False,
        },
        tiny={
            "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
            "text_config": TEXT,
            "image_seq_length": 4,
        },
        token_ids={"image_token_id": "<IMG_CONTEXT>"},
        square=Square(448, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        num_image_tokens=256,
        tiny_side=16,
        tiny_num_image_tokens=4,
    )


INTERNVL3_1B = _internvl3(
    "1B",
    "014c0583a0d4bedf29fbe2dbff4f865eb998e171",
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
)
INTERNVL3_2B = _internvl3(
    "2B",
    "cb57a075cb75a2e6d1b668b128d48bb00ae321d2",
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
)
