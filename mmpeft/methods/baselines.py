"""The three baselines that the methods stand between: nothing trained, the connector alone, everything."""

from typing import TYPE_CHECKING, ClassVar, Literal

from mmpeft.entry import Dims, Location, ModelEntry
from mmpeft.methods.base import Method

if TYPE_CHECKING:
    from peft import PeftConfig


class Baseline(Method):
    """A method that adds no parameters: it trains parts of the base in place, or none."""

    has_location: ClassVar[bool] = False

    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig | None":
        """None: nothing is added."""
        return None

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """Nothing in the language model."""
        return 0


class ZeroShot(Baseline):
    """The base model as it is."""

    name: Literal["zero-shot"] = "zero-shot"

    label: ClassVar[str] = "Zero-shot"
    formula: ClassVar[str] = "h = W x"
    trains: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = "zero-shot"


class Connector(Baseline):
    """Only the connector is trained; the language model stays as it is."""

    name: Literal["connector"] = "connector"

    label: ClassVar[str] = "Connector only"
    formula: ClassVar[str] = "h = W x, image embeddings trained"
    tunes_connector: ClassVar[bool] = True
    peft_type: ClassVar[str | None] = "connector-only"


class Full(Baseline):
    """Every weight of the language model is trained: embeddings, layers and output head."""

    name: Literal["full"] = "full"

    label: ClassVar[str] = "Full fine-tuning"
    formula: ClassVar[str] = "h = (W + ΔW) x"

    def trained_parts(self, entry: ModelEntry) -> tuple[str, ...]:
        """The decoder and its output head."""
        return (entry.language_model, entry.output_head)

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """V D (twice with a head of its own) + L (Σ in · out + biases + norms) + D."""
        return dims.num_parameters

    def saved_bytes(self, dims: Dims, location: Location, half: bool) -> float:
        """The input of every linear map, and both norms' results before their weights, which are in fp32."""
        if not half:
            return 4 * (dims.distinct_inputs("both") + 2 * dims.hidden_size)
        return 2 * (sum(i for i, _ in dims.linears("both")) - dims.query_size) + 4 * 2 * dims.hidden_size
