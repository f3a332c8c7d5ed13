"""Features of the frozen vision encoder, computed once a picture and cached on disk.

The cache changes nothing: `CachedEncoder` takes the encoder's place inside the model and accepts pixels or features, so that the
whole way through the connector, the decoder and `generate` is the same. One file a picture, written in one move, with a checksum;
a file that is damaged or half-written is computed again.
"""

import hashlib
import os
import uuid
import zlib
from collections import UserDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmpeft.files import cache_folder
from mmpeft.task import Task


class CachedEncoder(nn.Module):
    """A vision encoder that also accepts its own features.

    Args:
        encoder: The real one.
        layer: Which of its hidden states the model uses (an index as in ``vision_feature_layer``).
    """

    def __init__(self, encoder: nn.Module, layer: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer = layer

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The encoder's output, as far as the model uses it, for pixels (B, 3, H, W) or for their features (B, N, D)."""
        used = self.features(pixel_values).to(pixel_values.dtype) if pixel_values.ndim == 4 else pixel_values
        copies = self.layer + 1 if self.layer >= 0 else -self.layer
        return BaseModelOutputWithPooling(last_hidden_state=used, hidden_states=(used,) * copies)

    @torch.no_grad()
    def features(self, pixel_values: Tensor) -> Tensor:
        """What is cached for pixels (B, 3, H, W): the used hidden state (B, N, D), in half precision."""
        return self.encoder(pixel_values, output_hidden_states=True, return_dict=True).hidden_states[self.layer].half()


def digest_of(module: nn.Module) -> str:
    """12 hex digits over all weights and buffers of a module: features of another encoder are never mixed in."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:12]


class FeatureStore:
    """The cached features of one encoder.

    Args:
        encoder: The `CachedEncoder` of a loaded model.
        pixels: Turns RGB pictures into pixel values for it.
        folder: The cache; the user's by default.
    """

    def __init__(self, encoder: CachedEncoder, pixels: Callable[[list[Any]], Tensor], folder: Path | None = None) -> None:
        self.encoder = encoder
        self.pixels = pixels
        self.folder = (folder or cache_folder()) / "features" / digest_of(encoder.encoder)

    def path(self, task: Task, picture_id: str) -> Path:
        """The file of a picture's features."""
        name = hashlib.sha256(picture_id.encode()).hexdigest()[:16]
        return self.folder / f"{task.name}-v{task.version}" / name[:2] / f"{name}.safetensors"

    def load(self, task: Task, picture_id: str) -> Tensor | None:
        """The cached features (N, D) in half precision, or None when there are none that are whole."""
        path = self.path(task, picture_id)
        try:
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("features")
                expected = (file.metadata() or {}).get("crc32")
        except (FileNotFoundError, SafetensorError, OSError):
            return None
        return features if expected == _checksum(features) else None

    def compute(self, task: Task, picture_id: str) -> Tensor:
        """The features (N, D) in half precision, computed now and written to the cache in one move."""
        device = next(self.encoder.parameters()).device
        pixel_values = self.pixels([task.picture(picture_id)]).to(device)
        features = self.encoder.features(pixel_values)[0].cpu().contiguous()
        path = self.path(task, picture_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        save_file({"features": features}, partial, metadata={"crc32": _checksum(features)})
        os.replace(partial, path)
        return features

    def get(self, task: Task, picture_ids: Iterable[str], progress: bool = False) -> dict[str, Tensor]:
        """Features by picture id, from the cache where they are there, else computed (with a bar over two seconds' worth)."""
        wanted = list(dict.fromkeys(picture_ids))
        found = {p: f for p in wanted if (f := self.load(task, p)) is not None}
        missing = [p for p in wanted if p not in found]
        if progress and len(missing) > 100:
            from rich.progress import track

            missing = list(missing)
            for p in track(missing, description=f"vision features of {task.name}", console=Console(stderr=True)):
                found[p] = self.compute(task, p)
        else:
            found |= {p: self.compute(task, p) for p in missing}
        return found


class LivePixels:
    """Pixel values by picture id, made when they are asked for and not kept: for an encoder that runs each time.

    Args:
        pixels: Turns RGB pictures into pixel values.
    """

    def __init__(self, pixels: Callable[[list[Any]], Tensor]) -> None:
        self.pixels = pixels

    def get(self, task: Task, picture_ids: Iterable[str], progress: bool = False) -> "OpenedLater":
        """The task's pictures, none of which is opened yet."""
        return OpenedLater({picture_id: partial(self._open, task, picture_id) for picture_id in picture_ids})

    def _open(self, task: Task, picture_id: str) -> Tensor:
        return self.pixels([task.picture(picture_id)])[0]


class OpenedLater(UserDict[str, Any]):
    """A dict whose values are made at each look: what it holds are the makers."""

    def __getitem__(self, key: str) -> Tensor:
        """The value (3, H, W), made now."""
        return self.data[key]()


def _checksum(features: Tensor) -> str:
    return f"{zlib.crc32(features.numpy().tobytes()):08x}"


def prepare(make_store: Callable[[], FeatureStore], wanted: Sequence[tuple[Task, list[str]]], workers: int = 2) -> int:
    """Fills the cache with several processes and a progress bar; safe to stop and to repeat.

    Args:
        make_store: Makes the store, in each process anew (picklable).
        wanted: Picture ids by task.
        workers: Processes, one thread each.

    Returns:
        How many pictures were computed.
    """
    store = make_store()
    shares = [
        (task, missing[i : i + 64])
        for task, ids in wanted
        if (missing := [p for p in dict.fromkeys(ids) if store.load(task, p) is None])
        for i in range(0, len(missing), 64)
    ]
    total = sum(len(ids) for _, ids in shares)
    if not total:
        return 0
    with (
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)) as bar,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(make_store,)) as pool,
    ):
        job = bar.add_task("vision features", total=total)
        for done in pool.map(_compute_share, shares):
            bar.advance(job, done)
    return total


_store_of_process: list[FeatureStore] = []


def _start(make_store: Callable[[], FeatureStore]) -> None:
    torch.set_num_threads(1)
    _store_of_process.append(make_store())


def _compute_share(share: tuple[Task, list[str]]) -> int:
    task, ids = share
    for picture_id in ids:
        _store_of_process[0].compute(task, picture_id)
    return len(ids)
