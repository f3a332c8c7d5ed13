"""What every method can say about itself: its fields, its formula, its parameter count, its peft config."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from mmpeft.entry import Dims, Location, ModelEntry

if TYPE_CHECKING:
    from peft import PeftConfig


class Method(BaseModel, ABC):
    """One way of adapting a language model; its fields are peft's own names.

    Attributes:
        label: The name printed in tables and figures.
        formula: What it computes, in one line.
        trains: Whether a run of this method trains anything at all.
        mergeable: Whether the trained weights can be folded into the base weights.
        has_location: Whether attention, mlp or both is a choice; a method without one is always "both".
        tunes_connector: Whether the method is meaningless without a tuned connector.
        checkpointable: Whether it works when activations are computed again (gradient checkpointing).
        size_field: The field that decides how many parameters it has; None where none does.
        peft_type: Its type in peft's own files; words in lower case for what peft does not know, None for full fine-tuning.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str

    label: ClassVar[str]
    formula: ClassVar[str]
    trains: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    has_location: ClassVar[bool] = True
    tunes_connector: ClassVar[bool] = False
    checkpointable: ClassVar[bool] = True
    size_field: ClassVar[str | None] = None
    peft_type: ClassVar[str | None] = None

    @abstractmethod
    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig | None":
        """The peft config that puts the method on this model's decoder, or None for a baseline."""

    @abstractmethod
    def num_trainable(self, dims: Dims, location: Location) -> int:
        """The number of trained parameters, without the connector's."""

    @property
    def size(self) -> int | None:
        """The value of ``size_field``; None for a method of one size."""
        return getattr(self, self.size_field) if self.size_field else None

    def num_stored(self, dims: Dims, location: Location) -> int:
        """The number of parameters needed after training, without the connector's."""
        return self.num_trainable(dims, location)

    @property
    def num_extra_keys(self) -> int:
        """Keys and values that every layer attends to beside the sequence's own."""
        return 0

    def num_matrix_weights(self, dims: Dims, location: Location) -> int:
        """Its weights that every token is multiplied with, as matrices."""
        return 0

    def saved_bytes(self, dims: Dims, location: Location, half: bool) -> float:
        """Bytes that one layer keeps of each token for this method's gradients, beside what a frozen layer keeps.

        Args:
            dims: The decoder's sizes.
            location: Where in each layer the method works.
            half: Whether the forward pass is in bf16; inputs are then kept once for each map that reads them.
        """
        return 0.0

    def identity_at_start(self) -> bool:
        """Whether the adapted model computes exactly the base model before the first step."""
        return True

    def trained_parts(self, entry: ModelEntry) -> tuple[str, ...]:
        """The dotted paths of the parts trained whole, in place (the connector excluded)."""
        return ()
