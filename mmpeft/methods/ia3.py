"""(IA)³: one learned factor for each key, each value and each inner MLP activation.

    k' = l_k ⊙ k,   v' = l_v ⊙ v,   mlp(x) = W_down (l_ff ⊙ a)        a = act(W_gate x) ⊙ W_up x

with l = 1 at the start. Parameters: two key/value widths and one intermediate width a layer. Liu et al. 2022,
"Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", arXiv 2205.05638,
section 3.3.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from mmpeft.entry import Dims, Location, ModelEntry, one_of
from mmpeft.methods.base import Method

if TYPE_CHECKING:
    from peft import PeftConfig


class Ia3(Method):
    """(IA)³ on keys and values (attention), on the down projection's input (mlp), or on all three (both)."""

    name: Literal["ia3"] = "ia3"

    label: ClassVar[str] = "(IA)³"
    formula: ClassVar[str] = "k' = l_k ⊙ k, v' = l_v ⊙ v, mlp = W_down (l_ff ⊙ a)"
    peft_type: ClassVar[str | None] = "IA3"
    mergeable: ClassVar[bool] = True

    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig":
        """An IA3Config, anchored on the decoder's k, v and down projections."""
        from peft import IA3Config

        _, key, value, _ = entry.attention
        attention, mlp = entry.attention_linears(key, value), entry.mlp_linears(entry.mlp[-1])
        return IA3Config(
            target_modules={"attention": attention, "mlp": mlp, "both": one_of([attention, mlp])}[location],
            feedforward_modules=[] if location == "attention" else mlp,
        )

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """L · (2 · key/value width + intermediate width), or the part of the sum that the location covers."""
        attention, mlp = 2 * dims.key_value_size, dims.intermediate_size
        return dims.num_layers * {"attention": attention, "mlp": mlp, "both": attention + mlp}[location]

    def saved_bytes(self, dims: Dims, location: Location, half: bool) -> float:
        """What is scaled: keys and values, and the MLP's inner activation, which is kept in fp32."""
        attention, mlp = (2 if half else 4) * 2 * dims.key_value_size, 4 * dims.intermediate_size
        return {"attention": attention, "mlp": mlp, "both": attention + mlp}[location]
