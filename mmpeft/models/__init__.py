"""MODELS: every model the study knows: where it loads from, what its parts are called, how it is asked. One file a family.

Pure: importing this needs no torch; loading does.
"""

from typing import TYPE_CHECKING

from mmpeft.errors import unknown
from mmpeft.models.base import Hub, Model, Packaged, Precision, Seeded, Square, Wheel
from mmpeft.models.gemma import GEMMA3_4B, PALIGEMMA2_3B
from mmpeft.models.internvl import INTERNVL3_1B, INTERNVL3_2B
from mmpeft.models.llava import LLAVA_7B, LLAVA_13B, ONEVISION_HALF_B, SHAREGPT4V_7B
from mmpeft.models.packaged import SMOLLM2_LLAVA, TINY_LLAVA, TOY
from mmpeft.models.qwen import QWEN3_VL_2B, QWEN3_VL_8B, QWEN25_VL_3B, QWEN25_VL_7B
from mmpeft.models.qwen_vl_chat import QWEN_VL_CHAT
from mmpeft.models.smolvlm import SMOLVLM_256M, SMOLVLM_500M

if TYPE_CHECKING:
    from mmpeft.loading import Loaded

MODELS: dict[str, Model] = {
    model.entry.name: model
    for model in (
        *(TINY_LLAVA, SMOLLM2_LLAVA, TOY),
        *(LLAVA_7B, LLAVA_13B, SHAREGPT4V_7B, QWEN_VL_CHAT),
        *(SMOLVLM_256M, SMOLVLM_500M, ONEVISION_HALF_B, INTERNVL3_1B, INTERNVL3_2B),
        *(QWEN25_VL_3B, QWEN25_VL_7B, QWEN3_VL_2B, QWEN3_VL_8B, PALIGEMMA2_3B, GEMMA3_4B),
    )
}
"""The packaged ones, the paper's, and what users have today."""


def known(name: str) -> Model:
    """The entry of this name.

    Raises:
        MmpeftError: There is none.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


def load(name: str, precision: Precision = "fp32") -> "Loaded":
    """A fresh copy of a model of the study.

    Raises:
        MmpeftError: The name is unknown, or the weights are damaged or out of reach.
    """
    return known(name).load(precision)


__all__ = ["MODELS", "Hub", "Model", "Packaged", "Precision", "Seeded", "Square", "Wheel", "known", "load"]
