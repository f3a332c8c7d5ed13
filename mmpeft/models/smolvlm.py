"""SmolVLM 256M and 500M: SigLIP, pixel shuffle and one linear map, SmolLM2. Their checkpoints are of the Idefics3 architecture.

A picture is shown whole, without tiles: 64 image tokens.
"""

from typing import TYPE_CHECKING, Any

from mmpeft.entry import ModelEntry
from mmpeft.models.base import Hub, Model, Square
from mmpeft.models.tiny import TEXT, VISION

if TYPE_CHECKING:
    from torch import Tensor, nn


def one_image(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs with pixel values (B, 1, 3, H, W): one picture an example."""
    return inputs | {"pixel_values": inputs["pixel_values"][:, None]}


def _smolvlm(size: str, revision: str | None, **text: Any) -> Model:
    return Model(
        entry=ModelEntry(
            name=f"smolvlm-{size.lower()}",
            kind="idefics3",
            language_model="model.text_model",
            connector="model.connector",
            vision_encoder="model.vision_model",
            attention=("q_proj", "k_proj", "v_proj", "o_proj"),
            mlp=("gate_proj", "up_proj", "down_proj"),
            layers="model.text_model.layers",
            prompt_format=(
                "<|im_start|>User:<fake_token_around_image><global-img><image><fake_token_around_image>{prompt}<end_of_utterance>\n"
                "Assistant:"
            ),
            before_answer=" ",
            adds_special_tokens=False,
            end_of_answer="<end_of_utterance>",
        ),
        about=f"SigLIP base at 512 pixels, SmolLM2; {size} parameters in all",
        source=Hub(f"HuggingFaceTB/SmolVLM-{size}-Instruct", revision, "Apache-2.0"),
        architecture="Idefics3ForConditionalGeneration",
        config={
            "vision_config": {
                "model_type": "idefics3_vision",
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "image_size": 512,
                "patch_size": 16,
            },
            "text_config": {"model_type": "llama", "vocab_size": 49_280, "max_position_embeddings": 8192, **text},
            "scale_factor": 4,
            "image_token_id": 49_190,
            "pad_token_id": 2,
            "tie_word_embeddings": False,
        },
        tiny={
            "vision_config": {**VISION, "image_size": 16, "patch_size": 4},
            "text_config": TEXT,
            "scale_factor": 2,
        },
        token_ids={"image_token_id": "<image>", "pad_token_id": "<pad>"},
        square=Square(512, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        num_image_tokens=64,
        tiny_side=16,
        tiny_num_image_tokens=4,
        arrange=one_image,
    )


SMOLVLM_256M = _smolvlm(
    "256M",
    "7e3e67edbbed1bf9888184d9df282b700a323964",
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)
SMOLVLM_500M = _smolvlm(
    "500M",
    "a7da5b986cb59b408707209984f360a5f4ad7e47",
    hidden_size=960,
    intermediate_size=2560,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
)
