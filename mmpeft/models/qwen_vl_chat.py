"""Qwen-VL-Chat: a vision transformer of 1.9 billion parameters, a resampler to 256 image tokens, Qwen 7B.

Its published code does not run under transformers 5, so it is built of transformers' own modules in `mmpeft.qwen_vl`. The
connector is `visual.attn_pool`. The paper's published code trains `lm_head` and `wte` under that name, and never the resampler.
"""

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import Hub, Model, Square
from mmpeft.models.tiny import TEXT, VISION

QWEN_VL_CHAT = Model(
    entry=ModelEntry(
        name="qwen-vl-chat",
        image_token="<imgpad>",
        prompt_format=(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            "Picture 1: <img><imgpad></img>\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ),
        adds_special_tokens=False,
        end_of_answer="<|im_end|>",
        **{**LLAVA_PARTS, "kind": "qwen-vl", "connector": "model.multi_modal_projector.attn_pool"},
    ),
    about="a ViT of 1.9B at 448 pixels, a resampler, Qwen 7B; a port, for its own code is of transformers 4",
    source=Hub(
        "Qwen/Qwen-VL-Chat",
        "f57cfbd358cb56b710d963669ad1bcfb44cdcdd8",
        "Tongyi Qianwen",
        tokenizer="mmpeft.qwen_vl.tokenizer",
        own_config=False,
    ),
    architecture="mmpeft.qwen_vl.QwenVLForConditionalGeneration",
    config={
        "vision_config": {
            "model_type": "mmpeft_qwen_vl_vision",
            "hidden_size": 1664,
            "intermediate_size": 8192,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "image_size": 448,
            "patch_size": 14,
            "num_positions": 256,
            "num_queries": 256,
            "output_size": 4096,
            "num_pool_heads": 32,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "vocab_size": 151_936,
        },
        "image_token_id": 151_859,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": 256,
        "tie_word_embeddings": False,
    },
    tiny={
        "vision_config": {
            **VISION,
            "image_size": 16,
            "patch_size": 4,
            "num_positions": 4,
            "num_queries": 4,
            "output_size": 32,
            "num_pool_heads": 2,
        },
        "text_config": {**TEXT, "num_key_value_heads": 4},
        "image_seq_length": 4,
    },
    token_ids={"image_token_id": "<imgpad>"},
    square=Square(448, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    num_image_tokens=256,
    tiny_side=16,
    tiny_num_image_tokens=4,
)
