"""LoRA: a low-rank update beside each frozen linear map.

    h = W x + (alpha / r) B A x        A: r × in, B: out × r, B = 0 at the start

Parameters: r (in + out) for each linear map. Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language
Models", arXiv 2106.09685, eq. 3.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmpeft.entry import Dims, Location, ModelEntry, one_of
from mmpeft.methods.base import Method

if TYPE_CHECKING:
    from peft import PeftConfig


class Lora(Method):
    """LoRA on q, k, v, o (attention), on gate, up, down (mlp), or on all seven (both).

    Attributes:
        r: Rank of the update.
        lora_alpha: The update is scaled by ``lora_alpha / r``.
        lora_dropout: Dropout on the update's input, 0–1.
    """

    name: Literal["lora"] = "lora"
    r: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)

    label: ClassVar[str] = "LoRA"
    formula: ClassVar[str] = "h = W x + (alpha / r) B A x"
    size_field: ClassVar[str | None] = "r"
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True

    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig":
        """A LoraConfig, anchored on the decoder's linear maps."""
        from peft import LoraConfig

        attention, mlp = entry.attention_linears(*entry.attention), entry.mlp_linears(*entry.mlp)
        return LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules={"attention": attention, "mlp": mlp, "both": one_of([attention, mlp])}[location],
        )

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """L · r · Σ (in + out) over the layer's linear maps."""
        return dims.num_layers * self.r * sum(i + o for i, o in dims.linears(location))

    def num_matrix_weights(self, dims: Dims, location: Location) -> int:
        """All of them."""
        return self.num_trainable(dims, location)

    def saved_bytes(self, dims: Dims, location: Location, half: bool) -> float:
        """The input of every A (in fp32 one copy for maps that read the same), its output, and dropout's mask."""
        maps = dims.linears(location)
        apart = half or self.lora_dropout > 0
        inputs = sum(i for i, _ in maps) if apart else dims.distinct_inputs(location)
        dropped = sum(i for i, _ in maps) if self.lora_dropout else 0
        return (2 if half else 4) * (inputs + self.r * len(maps)) + dropped
