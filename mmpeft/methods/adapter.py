"""The bottleneck adapter: a narrow two-layer network with a residual connection, inside each decoder layer.

    adapter(h) = h + W_up f(W_down h)        W_down: b × D, W_up: D × b, no bias

Three placements:

- ``paper_code``: what the study's released code runs (the wrapper of LLM-Adapters, Hu et al. 2023,
  arXiv 2304.01933): on the *input* of q, k, v, gate, up and on the *output* of o, down; every linear map has
  its own adapter.
- ``houlsby``: what its text describes: after the attention's output projection and after the MLP's down
  projection (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", arXiv 1902.00751,
  section 2.1).
- ``parallel``: block(x) + W_up f(W_down x), on the attention block and on the MLP block (He et al. 2022,
  "Towards a Unified View of Parameter-Efficient Transfer Learning", arXiv 2110.04366, section 4.2).

Parameters: 2 b D for each adapter.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmpeft.entry import Dims, Location, ModelEntry, one_of
from mmpeft.methods.base import Method

if TYPE_CHECKING:
    from peft import PeftConfig

Placement = Literal["paper_code", "houlsby", "parallel"]


class Adapter(Method):
    """A bottleneck adapter of width b.

    Attributes:
        bottleneck_size: b, the width of the narrow layer.
        placement: Where the adapters sit; see the module's docstring.
        init: ``"normal"``, both matrices from N(0, 0.02) as in the study's code, or ``"identity"``, W_up = 0.
        non_linearity: f, by transformers' name.
        dropout: Dropout on the adapter's input, 0–1.
    """

    name: Literal["adapter"] = "adapter"
    bottleneck_size: int = Field(default=32, gt=0)
    placement: Placement = "paper_code"
    init: Literal["normal", "identity"] = "normal"
    non_linearity: Literal["tanh", "relu", "gelu", "silu"] = "tanh"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    label: ClassVar[str] = "Adapter"
    formula: ClassVar[str] = "h' = h + W_up f(W_down h)"
    size_field: ClassVar[str | None] = "bottleneck_size"
    peft_type: ClassVar[str | None] = "BOTTLENECK"

    def peft_config(self, entry: ModelEntry, location: Location) -> "PeftConfig":
        """Our BottleneckConfig, anchored on the decoder's linear maps or blocks."""
        from mmpeft.bottleneck import BottleneckConfig

        on_input, on_output, beside = self._targets(entry, location)
        return BottleneckConfig(
            bottleneck_size=self.bottleneck_size,
            init=self.init,
            non_linearity=self.non_linearity,
            dropout=self.dropout,
            target_modules=one_of([*on_input, *on_output, *beside]),
            output_modules=one_of(on_output) if on_output else None,
            parallel_modules=one_of(beside) if beside else None,
        )

    def _targets(self, entry: ModelEntry, location: Location) -> tuple[list[str], list[str], list[str]]:
        """The patterns of the modules adapted on their input, on their output, and as a whole beside them."""
        attention, mlp = location in ("attention", "both"), location in ("mlp", "both")
        if self.placement == "parallel":
            names = [entry.attention_block] * attention + [entry.mlp_block] * mlp
            return [], [], [entry.blocks(*names)]
        on_input, on_output = [], []
        if attention:
            on_input.append(entry.attention_linears(*entry.attention[:-1]))
            on_output.append(entry.attention_linears(entry.attention[-1]))
        if mlp:
            on_input.append(entry.mlp_linears(*entry.mlp[:-1]))
            on_output.append(entry.mlp_linears(entry.mlp[-1]))
        return (on_input if self.placement == "paper_code" else []), on_output, []

    def num_trainable(self, dims: Dims, location: Location) -> int:
        """2 · b · D · (adapters a layer) · L: 4 + 3 adapters a layer as in the study's code, else 1 + 1."""
        attention, mlp = (4, 3) if self.placement == "paper_code" else (1, 1)
        adapters = {"attention": attention, "mlp": mlp, "both": attention + mlp}[location]
        return dims.num_layers * adapters * 2 * self.bottleneck_size * dims.hidden_size

    def num_matrix_weights(self, dims: Dims, location: Location) -> int:
        """All of them."""
        return self.num_trainable(dims, location)

    def saved_bytes(self, dims: Dims, location: Location, half: bool) -> float:
        """The input of every W_down (in fp32 one copy for adapters that read the same), f's result, and dropout's mask."""
        attention, mlp = ((4, 2), (3, 2)) if self.placement == "paper_code" else ((1, 1), (1, 1))
        number, distinct = {
            "attention": attention,
            "mlp": mlp,
            "both": (attention[0] + mlp[0], attention[1] + mlp[1]),
        }[location]
        apart = half or self.dropout > 0
        dropped = number * dims.hidden_size if self.dropout else 0
        return (2 if half else 4) * ((number if apart else distinct) * dims.hidden_size + number * self.bottleneck_size) + dropped

    def identity_at_start(self) -> bool:
        """True for ``init="identity"``: with W_up = 0 the residual connection is all there is."""
        return self.init == "identity"
