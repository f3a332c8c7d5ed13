"""The bottleneck adapter as a registered peft method: importing this module makes peft know ``"BOTTLENECK"``.

    input:     linear(x + a(x))          a(x) = W_up f(W_down x)
    output:    y + a(y), y = linear(x)
    parallel:  block(x) + a(x)

Each adapted module gets an `a` of its own (no bias, no scaling). Afterwards everything that peft offers
works: `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`, `disable_adapter`, `add_adapter`,
`set_adapter`, `modules_to_save`, `unload`. Merging is refused: f is not linear, so no matrix equals W + a.

A saved adapter can be loaded once this module is imported.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from torch import nn
from transformers.activations import ACT2FN

from mmpeft.errors import MmpeftError

Position = Literal["input", "output", "parallel"]
INIT_STD = 0.02


class MergeRefused(MmpeftError, ValueError):
    """A bottleneck adapter was asked to become part of the base weights."""

    def __init__(self) -> None:
        super().__init__(
            "a bottleneck adapter cannot be merged: because of its non-linearity no weight matrix can absorb "
            "it. Keep it attached, or call unload() to get the base model back."
        )


def _new_peft_type(name: str) -> PeftType:
    """A member of PeftType by this name, made if peft has none.

    PeftType is a closed enum and register_peft_method accepts members only; this is the one place that opens
    it.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    return member


BOTTLENECK = _new_peft_type("BOTTLENECK")


@dataclass
class BottleneckConfig(PeftConfig):
    """Where the adapters sit and what they look like.

    A name in a list matches a module whose path ends with it; a string is a regular expression for the whole
    path.

    Attributes:
        target_modules: Every adapted module. What the next two fields leave over is adapted on its input.
        output_modules: The targets adapted on their output.
        parallel_modules: The targets, usually whole blocks, that the adapter runs beside.
        exclude_modules: Modules left alone although they match.
        modules_to_save: Modules trained whole and saved with the adapter.
        bottleneck_size: Width of the narrow layer.
        non_linearity: f, by transformers' name.
        dropout: Dropout on the adapter's input, 0–1.
        init: ``"normal"``, both matrices from N(0, 0.02), or ``"identity"``, W_up = 0.
    """

    target_modules: list[str] | str | None = None
    output_modules: list[str] | str | None = None
    parallel_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bottleneck_size: int = 32
    non_linearity: str = "tanh"
    dropout: float = 0.0
    init: Literal["normal", "identity"] = field(default="normal")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, got {self.bottleneck_size}")
        if self.non_linearity not in ACT2FN:
            raise ValueError(
                f"non_linearity '{self.non_linearity}' is none of transformers': {', '.join(ACT2FN)}"
            )
        if self.init not in ("normal", "identity"):
            raise ValueError(f"init must be 'normal' or 'identity', got '{self.init}'")

    def position(self, path: str) -> Position:
        """Where the adapter of the module at this path sits."""
        if _matches(self.parallel_modules, path):
            return "parallel"
        return "output" if _matches(self.output_modules, path) else "input"


def _matches(names: list[str] | str | None, path: str) -> bool:
    """Whether a module's path is meant by these names (a list of suffixes) or this regular expression."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names or ())


class Bottleneck(nn.Module):
    """a(x) = W_up f(W_down dropout(x)), x: (..., D).

    Args:
        width: D.
        config: Gives the bottleneck's width, f, the dropout and the initial weights.
    """

    def __init__(self, width: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.down = nn.Linear(width, config.bottleneck_size, bias=False)
        self.activation = ACT2FN[config.non_linearity]
        self.up = nn.Linear(config.bottleneck_size, width, bias=False)
        nn.init.normal_(self.down.weight, std=INIT_STD)
        if config.init == "identity":
            nn.init.zeros_(self.up.weight)
        else:
            nn.init.normal_(self.up.weight, std=INIT_STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """a(x), in x's dtype and shape (the weights may be kept in a wider one)."""
        narrow = self.activation(self.down(self.dropout(x.to(self.down.weight.dtype))))
        return self.up(narrow).to(x.dtype)


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear map, or a whole block, with adapters on its input, on its output or beside it.

    Args:
        base_layer: The module adapted; it stays as it is.
    """

    adapter_layer_names = ("bottleneck_adapters",)
    other_param_names = ("bottleneck_positions",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_adapters = nn.ModuleDict()
        self.bottleneck_positions: dict[str, Position] = {}
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []

    def add(self, adapter_name: str, position: Position, width: int, config: BottleneckConfig) -> None:
        """Adds an adapter of this name for activations of this width."""
        self.bottleneck_adapters[adapter_name] = Bottleneck(width, config)
        self.bottleneck_positions[adapter_name] = position
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _get_base_layer_device_and_dtype(
        self, base_layer: nn.Module
    ) -> tuple[torch.device | None, torch.dtype | None]:
        """The first parameter's device and dtype: a whole block has no weight of its own to ask."""
        first = next(base_layer.parameters(), None)
        return (None, None) if first is None else (first.device, first.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises MergeRefused."""
        raise MergeRefused

    def unmerge(self) -> None:
        """Nothing: what cannot be merged never needs to be taken apart."""

    def _active(self, position: Position) -> list[nn.Module]:
        """The active adapters in this position, in the order they were activated."""
        names = [name for name in self.active_adapters if self.bottleneck_positions.get(name) == position]
        return [self.bottleneck_adapters[name] for name in names]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's output (a tensor, or a tuple that starts with one) with the adapters' part."""
        if self.disable_adapters:
            return self.base_layer(*args, **kwargs)
        # Linear maps and MLP blocks get their input as the one argument, attention blocks by name.
        x, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        for adapter in self._active("input"):
            x = x + adapter(x)
        result = self.base_layer(x, *args, **kwargs)
        output = result[0] if isinstance(result, tuple) else result
        for adapter in self._active("parallel"):
            output = output + adapter(x)
        for adapter in self._active("output"):
            output = output + adapter(output)
        return (output, *result[1:]) if isinstance(result, tuple) else output


class BottleneckModel(BaseTuner):
    """A model whose targeted modules carry bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  so peft declares it

    # Any: peft hands each tuner configs of its own class, but its signatures name the base class.
    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        configs: dict[str, Any] = self.peft_config
        if len({bool(other.parallel_modules) for other in configs.values()}) > 1:
            raise ValueError(
                "adapters beside blocks (parallel_modules) and adapters on the linear maps inside them "
                "cannot share one model: wrapping a block moves its linear maps. Use one model for each."
            )

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target)
        position = peft_config.position(current_key)
        layer.add(
            adapter_name, position, self._width(layer.get_base_layer(), position, current_key), peft_config
        )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _width(self, base: nn.Module, position: Position, path: str) -> int:
        """The width of the activations adapted there.

        Raises:
            ValueError: The module at this path is of a kind that cannot be adapted in this position.
        """
        if isinstance(base, nn.Linear):
            if position == "parallel" and base.in_features != base.out_features:
                raise ValueError(
                    f"'{path}' maps {base.in_features} to {base.out_features}: no adapter fits beside it"
                )
            return int(base.out_features if position == "output" else base.in_features)
        if position != "parallel":
            raise ValueError(
                f"'{path}' is no linear map: a {type(base).__name__} takes an adapter beside it only"
            )
        config = self.get_model_config(self.model)
        return int((config.get("text_config") or config)["hidden_size"])

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # peft's own copies `child.weight`, which a whole block does not have.
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise MergeRefused


register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)
