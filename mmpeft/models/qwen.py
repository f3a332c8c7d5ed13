"""Qwen2.5-VL and Qwen3-VL: a vision transformer whose last module, the merger, is the connector; positions in three directions.

The merger lies inside the vision encoder. Qwen3-VL also feeds features of earlier vision layers into the first decoder layers
through mergers of their own, which belong to the vision encoder here and stay frozen: the connector is `merger` alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmpeft.entry import ModelEntry
from mmpeft.models.base import Hub, Model, Square
from mmpeft.models.tiny import TEXT

if TYPE_CHECKING:
    from torch import Tensor, nn

MERGE = 2
"""Patches along each side of the window that becomes one image token."""


def patches(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs with patches (patches of all pictures, channels · 2 · side²), their grid (B, 3) and 3D positions (3, B, T).

    Patches of one window follow each other, and a picture stands for two equal frames, as in the official preprocessing.
    Positions are given, because behind a prefix the model would count the lengthened mask.
    """
    pixels, ids = inputs["pixel_values"], inputs["input_ids"]
    config: Any = model.config
    side = config.vision_config.patch_size
    batch, channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    tiles = pixels.reshape(batch, channels, rows // MERGE, MERGE, side, columns // MERGE, MERGE, side)
    tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)  # window row and column, patch in it, channel, pixel
    frames = tiles[..., None, :, :].expand(*tiles.shape[:-2], 2, side, side)
    grid = ids.new_tensor([[1, rows, columns]] * batch)
    kinds = (ids == config.image_token_id).int()
    core: Any = next(module for module in model.modules() if hasattr(module, "get_rope_index"))
    positions, _ = core.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid, attention_mask=inputs["attention_mask"])
    return inputs | {
        "pixel_values": frames.reshape(batch * rows * columns, -1),
        "image_grid_thw": grid,
        "mm_token_type_ids": kinds,
        "position_ids": positions,
    }


def _qwen(
    name: str, kind: str, architecture: str, source: Hub, vision: dict[str, Any], text: dict[str, Any], tiny: dict[str, Any],
    square: Square, about: str, arrange: "Callable[..., dict[str, Tensor]]" = patches,
) -> Model:  # fmt: skip
    num_tokens = (square.side // vision["patch_size"] // MERGE) ** 2
    return Model(
        entry=ModelEntry(
            name=name,
            kind=kind,
            language_model="model.language_model",
            connector="model.visual.merger",
            vision_encoder="model.visual",
            attention=("q_proj", "k_proj", "v_proj", "o_proj"),
            mlp=("gate_proj", "up_proj", "down_proj"),
            layers="model.language_model.layers",
            image_token="<|image_pad|>",
            prompt_format=(
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
                "<|vision_start|><|image_pad|><|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
            ),
            adds_special_tokens=False,
            end_of_answer="<|im_end|>",
        ),
        about=about,
        source=source,
        architecture=architecture,
        config={
            "vision_config": vision,
            "text_config": text,
            "image_token_id": 151_655,
            "video_token_id": 151_656,
            "vision_start_token_id": 151_652,
            "vision_end_token_id": 151_653,
            "tie_word_embeddings": text["tie_word_embeddings"],
        },
        tiny=tiny,
        token_ids={
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        },
        square=square,
        num_image_tokens=num_tokens,
        tiny_side=16,
        tiny_num_image_tokens=4,
        arrange=arrange,
    )


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TINY_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4, "out_hidden_size": 32}


def _qwen25(size: str, revision: str, licence: str, text: dict[str, Any]) -> Model:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": text["hidden_size"],
    }
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    return _qwen(
        f"qwen2.5-vl-{size.lower()}",
        "qwen2.5-vl",
        "Qwen2_5_VLForConditionalGeneration",
        Hub(f"Qwen/Qwen2.5-VL-{size}-Instruct", revision, licence),
        vision,
        {"model_type": "qwen2_5_vl_text", "rope_parameters": rope, "max_position_embeddings": 128_000} | text,
        {
            "vision_config": {**_TINY_VISION, "fullatt_block_indexes": [1], "window_size": 16},
            "text_config": {**TEXT, "rope_parameters": {**rope, "mrope_section": [1, 1, 2]}},
        },
        Square(448, _CLIP_MEAN, _CLIP_STD),
        f"Qwen2.5 {size} behind a vision transformer of its own, at 448 pixels",
    )


def _qwen3(size: str, revision: str | None, vision: dict[str, Any], text: dict[str, Any], deepstack: list[int]) -> Model:
    rope = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return _qwen(
        f"qwen3-vl-{size.lower()}",
        "qwen3-vl",
        "Qwen3VLForConditionalGeneration",
        Hub(f"Qwen/Qwen3-VL-{size}-Instruct", revision, "Apache-2.0"),
        {
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
            "deepstack_visual_indexes": deepstack,
            **vision,
        },
        {"model_type": "qwen3_vl_text", "rope_parameters": rope, "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936}
        | text,
        {
            "vision_config": {**_TINY_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": {**rope, "mrope_section": [2, 1, 1]}},
        },
        Square(448, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        f"Qwen3 {size} behind a vision transformer that also feeds the first decoder layers",
    )


QWEN25_VL_3B = _qwen25(
    "3B",
    "66285546d2b821cf421d4f5eb2576359d3770cd3",
    "Qwen Research",
    {
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
)
QWEN25_VL_7B = _qwen25(
    "7B",
    "cc594898137f460bfe9f0759e9844b3ce807cfb5",
    "Apache-2.0",
    {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
)
QWEN3_VL_2B = _qwen3(
    "2B",
    "89644892e4d85e24eaac8bacfd4f463576704203",
    {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096},
    {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    [5, 11, 17],
)
QWEN3_VL_8B = _qwen3(
    "8B",
    "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
    {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304},
    {
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    [8, 16, 24],
)
