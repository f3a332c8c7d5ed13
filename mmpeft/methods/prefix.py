"""Prefix-tuning: learned keys and values before the first token, in every attention layer.

    attention(q, [P_k; K], [P_v; V])        P_k, P_v: M × (key/value width), one pair a layer

With the projection, one table of M embeddings goes through a two-layer tanh network that yields all pairs;
only its output is kept after training. Parameters: 2 M L · (key/value width). Li and Liang 2021,
"Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv 2101.00190, sections 4.2 and 4.3.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmpeft.entry import Dims, Location, ModelEntry
from mmpeft.methods.base import Method

if TYPE_CHECKING:
    from peft import PeftConfig


class Prefix(Method):
    """M learned key-value pairs in every layer.

    Attributes:
        num_virtual_tokens: M.
        prefix_projection: Whether the pairs come out of a two-layer network while training.
        encoder_hidden_size: Width inside that network; None means the width of the virtual tokens.
    """

    name: Literal["prefix"] = "prefix"
    num_virtual_tokens: int = Field(default=20, gt=0)
    prefix_projection: bool = False
    encoder_hidden_size: int | None = Field(default=None, gt=0)

    label: ClassVar[str] = "Prefix"
    formula: ClassVar[str] = "attention(q, [P_k; K], [P_v; V])"
    size_field: ClassVar[str | None] = "num_virtual_tokens"
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    has_location: ClassVar[bool] = False
    checkpointable: ClassVar[bool] = False

    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig":
        """A PrefixTuningConfig; it acts on the decoder's key-value cache, whatever the location."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size,  # type: ignore[arg-type]  # None: peft's own
        )

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """2 M L K, K being the key/value width; with the projection M K + (K + 1) E + (E + 1) 2 L K."""
        if not self.prefix_projection:
            return self.num_stored(dims, location)
        width, inner = dims.key_value_size, self.encoder_hidden_size or dims.key_value_size
        return (
            self.num_virtual_tokens * width + (width + 1) * inner + (inner + 1) * 2 * dims.num_layers * width
        )

    def num_stored(self, dims: Dims, location: Location) -> int:
        """2 M L K: the keys and values themselves."""
        return self.num_virtual_tokens * dims.num_layers * 2 * dims.key_value_size

    @property
    def num_extra_keys(self) -> int:
        """M."""
        return self.num_virtual_tokens

    def identity_at_start(self) -> bool:
        """False: the prefix starts random and takes part in every attention."""
        return False
