"""PaliGemma 2 and Gemma 3: SigLIP behind Google's Gemma. Both say for each token whom it may look at, by `token_type_ids`.

In PaliGemma the picture and the prompt see each other in both directions, and only the answer is causal. In Gemma 3 the tokens of
a picture see each other in both directions. peft drops these marks for a prefix, so a prefix is refused here.
"""

from typing import TYPE_CHECKING, Any

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import Hub, Model, Square
from mmpeft.models.tiny import TEXT, VISION

if TYPE_CHECKING:
    from torch import Tensor, nn

_NO_PREFIX = {
    "prefix": "peft drops token_type_ids for prompt learning, and without them attention is not what it was trained with"
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "vision_use_head": False,
}
_HALF = (0.5, 0.5, 0.5)


def answers_are_causal(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs with token types (B, T): 0 for picture and prompt, 1 for the answer."""
    return inputs | {"token_type_ids": answers.long()}


def pictures_see_both_ways(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs with token types (B, T): 1 for image tokens, 0 for text."""
    config: Any = model.config
    return inputs | {"token_type_ids": (inputs["input_ids"] == config.image_token_id).long()}


PALIGEMMA2_3B = Model(
    entry=ModelEntry(
        name="paligemma2-3b",
        prompt_format="<image><bos>{prompt}\n",
        adds_special_tokens=False,
        end_of_answer="<eos>",
        refused=_NO_PREFIX,
        **{**LLAVA_PARTS, "kind": "paligemma2"},
    ),
    about="SigLIP so400m at 224 pixels, Gemma 2 2B; pretrained only, to be fine-tuned",
    source=Hub("google/paligemma2-3b-pt-224", "96eeb174da13ca1a2b247e4d0867436296c36420", "Gemma", gated=True),
    architecture="PaliGemmaForConditionalGeneration",
    config={
        "vision_config": {**_SIGLIP, "image_size": 224, "projection_dim": 2304},
        "text_config": {
            "model_type": "gemma2",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "vocab_size": 257_216,
            "tie_word_embeddings": True,
        },
        "image_token_index": 257_152,
        "projection_dim": 2304,
        "hidden_size": 2304,
        "tie_word_embeddings": True,
    },
    tiny={
        "vision_config": {**VISION, "image_size": 8, "patch_size": 4, "projection_dim": 32},
        "text_config": {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
        "projection_dim": 32,
        "hidden_size": 32,
    },
    token_ids={"image_token_index": "<image>"},
    square=Square(224, _HALF, _HALF),
    num_image_tokens=256,
    tiny_side=8,
    tiny_num_image_tokens=4,
    arrange=answers_are_causal,
)
GEMMA3_4B = Model(
    entry=ModelEntry(
        name="gemma3-4b",
        image_token="<image_soft_token>",
        prompt_format=(
            "<bos><start_of_turn>user\n\n\n<start_of_image><image_soft_token><end_of_image>\n\n{prompt}<end_of_turn>\n"
            "<start_of_turn>model\n"
        ),
        adds_special_tokens=False,
        end_of_answer="<end_of_turn>",
        refused=_NO_PREFIX,
        **{**LLAVA_PARTS, "kind": "gemma3"},
    ),
    about="SigLIP so400m at 896 pixels, Gemma 3 4B; its connector is one bare matrix and a norm",
    source=Hub("google/gemma-3-4b-it", "093f9f388b31de276ce2de164bdc2081324b9767", "Gemma", gated=True),
    architecture="Gemma3ForConditionalGeneration",
    config={
        "vision_config": {**_SIGLIP, "image_size": 896},
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
            "vocab_size": 262_208,
            "tie_word_embeddings": True,
        },
        "mm_tokens_per_image": 256,
        "image_token_index": 262_144,
        "boi_token_index": 255_999,
        "eoi_token_index": 256_000,
        "tie_word_embeddings": True,
    },
    tiny={
        "vision_config": {**VISION, "image_size": 16, "patch_size": 4},
        "text_config": {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
        "mm_tokens_per_image": 4,
    },
    token_ids={
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    },
    square=Square(896, _HALF, _HALF),
    num_image_tokens=256,
    tiny_side=16,
    tiny_num_image_tokens=4,
    arrange=pictures_see_both_ways,
)
