"""The promises a run proves about itself, and the error when one is broken.

1. Only the declared parts train, and their size equals the method's formula (plus the connector, when tuned).
2. Before the first step the model computes what the base computes, where the method promises so.
3. Every trainable tensor receives a gradient that is not zero, at least once.
4. Every other tensor is the same, byte for byte, after training.
5. The saved adapter on a fresh base gives the trained model's logits.

    watch = Watch(entry, method, location, connector_tuned)
    watch.base(model, batch)                    # before anything is attached
    model = attach(model, entry, method, location, connector_tuned, seed)
    watch.before(model)
    for each step: loss.backward(); watch.gradients(); optimizer.step(); optimizer.zero_grad()
    contract = watch.after(model, num_steps, fresh_base, folder)
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpeft.attach import load_adapter, part_of, save_adapter, trainable_parts
from mmpeft.entry import Location, ModelEntry, dims_of
from mmpeft.errors import RunFailed
from mmpeft.methods import Method

# A prefix behind a projection is computed again when saved, in another batch size: equal up to rounding.
ROUNDING = 1e-4


class ContractBroken(RunFailed):
    """A run that broke a promise.

    Args:
        broken: One sentence for each broken promise.
        contract: What was measured, as it goes into the record.
    """

    def __init__(self, broken: list[str], contract: dict[str, Any]) -> None:
        super().__init__("the run broke its contract: " + "; ".join(broken) + ".", contract=contract)


class Watch:
    """Looks over one run's shoulder; the module's docstring shows the order of the calls.

    Args:
        entry: The model.
        method: What is attached to it.
        location: Where in each decoder layer.
        connector_tuned: Whether the connector trains too.
    """

    def __init__(self, entry: ModelEntry, method: Method, location: Location, connector_tuned: bool) -> None:
        self.entry = entry
        self.method = method
        self.location = location
        self.connector_tuned = connector_tuned or method.tunes_connector
        self.contract: dict[str, Any] = {}
        self._looked = False
        self._rebuilt = False
        self._broken: list[str] = []

    def base(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Notes the base's logits on this batch (forward's arguments) and the size of its parts."""
        self._batch = dict(batch)
        self._base_logits = logits(model, batch)
        self._dims = dims_of(model.config)
        self._num_connector = sum(p.numel() for p in model.get_submodule(self.entry.connector).parameters())

    def before(self, model: nn.Module) -> None:
        """Checks the attached model against promises 1 and 2 and fingerprints its frozen tensors.

        Raises:
            ContractBroken: Something else trains, or the model starts elsewhere than the base.
        """
        self._model = model
        self._trainable = [name for name, p in model.named_parameters() if p.requires_grad]  # no tensors: shards take their place
        self._waiting = set(self._trainable)
        self._frozen = digests(model)
        self._check_counts(trainable_parts(model, self.entry))
        self._check_start(model)
        self._raise()

    def gradients(self) -> None:
        """Notes which trainable tensors have a gradient; call it after backward (free once all had one)."""
        self._looked = True
        if self._waiting:
            self._waiting -= {n for n, p in self._model.named_parameters() if p.grad is not None and bool(p.grad.any())}

    def rebuilt(self) -> None:
        """Notes that the model was put together anew from what trained in shards: its frozen tensors prove nothing."""
        self._rebuilt = True

    def state_dict(self) -> dict[str, Any]:
        """Which tensors still wait for a gradient, for a checkpoint."""
        return {"waiting": sorted(self._waiting), "looked": self._looked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Wait for those alone."""
        self._waiting = set(state["waiting"])
        self._looked = state["looked"]

    def after(
        self, model: nn.Module, num_steps: int, fresh_base: Callable[[], nn.Module], folder: Path
    ) -> dict[str, Any]:
        """The contract for the record, once promises 3 to 5 are checked too.

        Args:
            model: The trained model.
            num_steps: Optimizer steps made; with fewer than two, promise 3 is not judged, because LoRA's A
                has no gradient while B is zero. Nor is it where gradients were never whole (FSDP, DeepSpeed); there
                promise 4 is not judged either, and ``frozen_unchanged`` is None.
            fresh_base: Loads the base anew, untouched by training.
            folder: Where the adapter is saved; it stays there.

        Raises:
            ContractBroken: Names each broken promise and its tensors.
        """
        self._check_gradients(num_steps)
        self._check_frozen(model)
        self._check_reload(model, fresh_base, folder)
        self._raise()
        return self.contract

    def _check_counts(self, parts: dict[str, int]) -> None:
        expected = {"method": self.method.num_trainable(self._dims, self.location)}
        expected["connector"] = self._num_connector if self.connector_tuned else 0
        trained = {"method": parts["language_model"] + parts["prompt"], "connector": parts["connector"]}
        self.contract |= {"trainable": parts, "expected_trainable": expected}
        for name, count in expected.items():
            if trained[name] != count:
                self._broken.append(
                    f"the {name} trains {trained[name]:,} parameters, its formula says {count:,}"
                )
        strays = [
            name for name in self._trainable if part_of(name, self.entry) in ("vision_encoder", "other")
        ]
        if strays:
            self._broken.append(f"tensors train that no part declares: {some(strays)}")

    def _check_start(self, model: nn.Module) -> None:
        delta = difference(logits(model, self._batch), self._base_logits)
        self.contract |= {"identity_promised": self.method.identity_at_start(), "start_delta_logits": delta}
        if self.method.identity_at_start() and delta != 0.0:
            self._broken.append(f"before the first step the logits differ from the base's by {delta:.3g}")

    def _check_gradients(self, num_steps: int) -> None:
        judged = self._looked and num_steps >= 2 and bool(self._trainable)
        self.contract |= {
            "gradients_judged": judged,
            "without_gradient": sorted(self._waiting) if judged else [],
        }
        if judged and self._waiting:
            self._broken.append(f"no gradient ever reached {some(sorted(self._waiting))}")

    def _check_frozen(self, model: nn.Module) -> None:
        now = digests(model)
        changed = sorted(name for name in self._frozen | now if self._frozen.get(name) != now.get(name))
        self.contract |= {"frozen_tensors": len(self._frozen), "frozen_sha256": self._by_part(self._frozen)}
        self.contract |= {"frozen_unchanged": None if self._rebuilt else not changed}
        if changed:
            self._broken.append(f"frozen tensors changed: {some(changed)}")

    def _by_part(self, found: dict[str, str]) -> dict[str, str]:
        """One digest a part: sha256 over the digests of its tensors, in the order of their names."""
        hashes: dict[str, Any] = {}
        for name, digest in sorted(found.items()):
            hashes.setdefault(part_of(name, self.entry), hashlib.sha256()).update(digest.encode())
        return {part: joined.hexdigest() for part, joined in hashes.items()}

    def _check_reload(self, model: nn.Module, fresh_base: Callable[[], nn.Module], folder: Path) -> None:
        num_bytes = save_adapter(model, self.entry, folder)
        trained, device = logits(model, self._batch), next(model.parameters()).device
        model.to("cpu")  # a GPU that holds one such model may not hold two
        with torch.random.fork_rng(devices=[]):
            reloaded = load_adapter(fresh_base().to(device), self.entry, folder)
        delta = difference(logits(reloaded, self._batch), trained)
        del reloaded
        model.to(device)
        self.contract |= {"reload_delta_logits": delta, "adapter_bytes": num_bytes}
        recomputed = self.method.num_stored(self._dims, self.location) != self.method.num_trainable(
            self._dims, self.location
        )
        if not delta <= (ROUNDING if recomputed else 0.0):
            self._broken.append(
                f"the saved adapter, loaded on a fresh base, gives logits that differ by {delta:.3g}"
            )

    def _raise(self) -> None:
        if self._broken:
            raise ContractBroken(self._broken, self.contract)


def digests(model: nn.Module) -> dict[str, str]:
    """The sha256 of every frozen tensor by name: parameters without `requires_grad`, and all buffers."""
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    return {name: sha256(tensor) for name, tensor in [*frozen, *model.named_buffers()]}


def sha256(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's bytes, in hexadecimal; any dtype, any device."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def logits(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """The logits (number of tokens that are no padding, V) on this batch, without dropout.

    The model's mode is as before afterwards.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad(), _evaluating(model):
        found: torch.Tensor = model(**inputs).logits
    mask = batch.get("attention_mask")
    return found.flatten(0, 1) if mask is None else found[mask.bool()]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference between two tensors; NaN when either has one."""
    return float((a.float() - b.float()).abs().max())


def some(names: list[str], limit: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module into evaluation mode, and each back into its own mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
