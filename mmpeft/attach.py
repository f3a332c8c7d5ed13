"""Putting a method on a model: what trains and at which rate, what is saved, and loading it again.

Names: a *part* is the language model, the connector, the vision encoder, or the prompt (the prefix, which
belongs to no module of the base).
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import mmpeft.bottleneck  # noqa: F401  peft must know the method before an adapter of it can be loaded
from mmpeft.entry import Location, ModelEntry
from mmpeft.errors import MmpeftError
from mmpeft.methods import Method

PARTS = ("language_model", "connector", "vision_encoder", "prompt")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASELINE_WEIGHTS = "trained.safetensors"


def attach(
    model: nn.Module, entry: ModelEntry, method: Method, location: Location, connector_tuned: bool, seed: int
) -> nn.Module:
    """The model with the method on it: exactly what the run trains has `requires_grad`.

    Args:
        model: The base; it is changed in place.
        entry: Where its parts are.
        method: What to put on it.
        location: Which part of each decoder layer the method works on.
        connector_tuned: Whether the connector is trained too.
        seed: Decides the new weights; set before they are made.

    Returns:
        A PeftModel, or the base itself for a baseline.

    Raises:
        MmpeftError: This model cannot take the method.
    """
    if reason := entry.refused.get(method.name):
        raise MmpeftError(f"method '{method.name}' is refused on model '{entry.name}': {reason}.")
    torch.manual_seed(seed)
    tuned = connector_tuned or method.tunes_connector
    config: Any = method.peft_config(
        entry, location
    )  # every config here has modules_to_save; peft's base lacks it
    if config is None:
        model.requires_grad_(False)
        for path in (*method.trained_parts(entry), *([entry.connector] if tuned else [])):
            # In single precision, whatever the base is kept in: small steps on half the digits would be lost.
            model.get_submodule(path).float().requires_grad_(True)
        return model
    if tuned:
        config.modules_to_save = [entry.connector]
    with _peft_asks_old_name():
        return get_peft_model(model, config)


@contextmanager
def _peft_asks_old_name() -> Iterator[None]:
    """Silences transformers' remark that peft still reads a property by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def part_of(name: str, entry: ModelEntry) -> str:
    """The part that a tensor belongs to, by its name in a base or in a PeftModel; else "other"."""
    if name.startswith("prompt_encoder."):
        return "prompt"
    places = {
        entry.connector: "connector",
        entry.vision_encoder: "vision_encoder",
        entry.language_model: "language_model",
        entry.output_head: "language_model",
    }
    return next((part for path, part in places.items() if f".{path}." in f".{name}"), "other")


def trainable_parts(model: nn.Module, entry: ModelEntry) -> dict[str, int]:
    """The number of trainable parameters in each part; "other" appears only when something else trains."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name, entry)
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def parameter_groups(
    model: nn.Module, entry: ModelEntry, learning_rate: float | None, connector_learning_rate: float | None
) -> list[dict[str, Any]]:
    """The optimizer's groups, "method" and "connector", each with its rate; an empty group is left out.

    Raises:
        MmpeftError: Something trains and its learning rate is None.
    """
    tensors: dict[str, list[nn.Parameter]] = {"method": [], "connector": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors["connector" if part_of(name, entry) == "connector" else "method"].append(parameter)
    rates = {"method": learning_rate, "connector": connector_learning_rate}
    for name, field in (("method", "train.learning_rate"), ("connector", "connector.learning_rate")):
        if tensors[name] and rates[name] is None:
            raise MmpeftError(
                f"{field} is missing, and the {name}'s weights train: write one, for example 1.0e-4."
            )
    return [{"name": name, "params": params, "lr": rates[name]} for name, params in tensors.items() if params]


def save_adapter(model: nn.Module, entry: ModelEntry, path: Path) -> int:
    """The size in bytes of the weights written: everything needed, beside the base, to get this model again.

    A PeftModel is saved as peft saves it, a baseline as one file with the tensors it trained.
    """
    path.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = ""  # a path of this machine means nothing elsewhere
        # "auto" would ask the hub for the base's vocabulary
        model.save_pretrained(str(path), save_embedding_layers=False)
        return (path / ADAPTER_WEIGHTS).stat().st_size
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, path / BASELINE_WEIGHTS, metadata={"format": "pt", "model": entry.name})
    return (path / BASELINE_WEIGHTS).stat().st_size


def load_adapter(base_model: nn.Module, entry: ModelEntry, path: Path) -> nn.Module:
    """The model that was saved there, ready for inference (nothing of it trains).

    Args:
        base_model: A fresh base of the same kind; it is changed in place.
        entry: Where its parts are.
        path: The folder that `save_adapter` or peft's `save_pretrained` wrote.

    Raises:
        MmpeftError: There is no adapter in safetensors, or it does not fit this base.
    """
    if (path / ADAPTER_CONFIG).is_file():
        return _load_peft(base_model, path)
    if not (path / BASELINE_WEIGHTS).is_file():
        raise MmpeftError(f"no adapter in '{path}': expected {ADAPTER_CONFIG} or {BASELINE_WEIGHTS}.")
    base_model.requires_grad_(False)
    with safe_open(path / BASELINE_WEIGHTS, framework="pt") as file:
        trained = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safetensors file is no mapping
    parameters = dict(base_model.named_parameters())
    for name, tensor in trained.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise MmpeftError(
                f"'{path}' does not fit the model '{entry.name}': tensor '{name}' {tuple(tensor.shape)}."
            )
        parameters[name].data = tensor.to(parameters[name].device)
    return base_model


def _load_peft(base_model: nn.Module, path: Path) -> nn.Module:
    """The base with the peft adapter saved there."""
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise MmpeftError(f"'{path}' has no {ADAPTER_WEIGHTS}: only safetensors are loaded, never a pickle.")
    peft_type = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("peft_type")
    device = str(next(base_model.parameters()).device)
    try:
        with _peft_asks_old_name():
            return PeftModel.from_pretrained(base_model, str(path), torch_device=device)
    except (KeyError, RuntimeError, ValueError) as error:
        raise MmpeftError(f"the {peft_type} adapter in '{path}' does not fit this model: {error}") from error
