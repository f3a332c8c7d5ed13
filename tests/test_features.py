"""The feature cache changes nothing: the same numbers with it and without, and a damaged file is made again."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmpeft.batches import Encoder
from mmpeft.features import CachedEncoder, FeatureStore, LivePixels, digest_of, prepare
from mmpeft.loading import Loaded
from mmpeft.models import load
from mmpeft.tasks import TASKS

torch.set_num_threads(1)

TASK = TASKS["mini-vqav2"]
IDS = list(dict.fromkeys(example.picture_id for example in TASK.examples("dev", 12)))[:4]


def store_in(folder: Path) -> FeatureStore:
    return load("toy").features(folder)


@cache
def small_llava() -> Loaded:
    """A narrow LLaVA behind the real vision encoder, weights and all."""
    from mmpeft.mini.stages import Recipe, build

    toy = load("toy")
    model = build(Recipe(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2), toy.tokenizer)
    model.model.vision_tower.load_backbone()
    model.model.vision_tower = CachedEncoder(model.model.vision_tower, model.config.vision_feature_layer)
    return Loaded(model.eval(), toy.tokenizer, toy.entry, toy.pixels, model.config.image_seq_length)


def pixel_values(loaded: Loaded, ids: list[str]) -> Tensor:
    return loaded.pixels([TASK.picture(picture_id) for picture_id in ids])


@torch.no_grad()
def test_a_model_says_the_same_to_pixels_and_to_cached_features(tmp_path: Path) -> None:
    loaded = small_llava()
    store = loaded.features(tmp_path)
    store.get(TASK, IDS)
    examples = [next(e for e in TASK.examples("dev") if e.picture_id == picture_id) for picture_id in IDS]
    batch = Encoder(loaded, store.get(TASK, IDS), 256).training_batch(examples)
    from_cache = loaded.model(**batch)
    from_pixels = loaded.model(**{**batch, "pixel_values": pixel_values(loaded, IDS)})
    assert torch.equal(from_cache.logits, from_pixels.logits)
    assert torch.equal(from_cache.loss, from_pixels.loss)


@torch.no_grad()
def test_generate_says_the_same_to_pixels_and_to_cached_features(tmp_path: Path) -> None:
    loaded = small_llava()
    encoder = Encoder(loaded, loaded.features(tmp_path).get(TASK, IDS[:2]), 256)
    batch = encoder.prompt_batch([e for e in TASK.examples("dev") if e.picture_id in IDS[:2]][:3])
    del batch["position_ids"]
    pictures = [e.picture_id for e in TASK.examples("dev") if e.picture_id in IDS[:2]][:3]
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": loaded.tokenizer.pad_token_id}
    from_cache = loaded.model.generate(**batch, **settings)
    from_pixels = loaded.model.generate(**{**batch, "pixel_values": pixel_values(loaded, pictures)}, **settings)
    assert torch.equal(from_cache, from_pixels)


@torch.no_grad()
def test_a_pictures_features_do_not_depend_on_its_batch() -> None:
    loaded = small_llava()
    encoder = loaded.model.get_submodule(loaded.entry.vision_encoder)
    together = encoder.features(pixel_values(loaded, IDS))
    alone = torch.cat([encoder.features(pixel_values(loaded, [picture_id])) for picture_id in reversed(IDS)])
    assert torch.equal(together, alone.flip(0))


def test_what_comes_from_the_cache_is_what_was_computed(tmp_path: Path) -> None:
    first, second = store_in(tmp_path), store_in(tmp_path)
    computed = first.get(TASK, IDS)
    assert [first.load(TASK, picture_id) is not None for picture_id in IDS] == [True] * len(IDS)
    cached = second.get(TASK, IDS)
    assert list(computed) == IDS
    assert all(torch.equal(computed[picture_id], cached[picture_id]) for picture_id in IDS)


def test_asking_again_computes_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.get(TASK, IDS)
    times = [store.path(TASK, picture_id).stat().st_mtime_ns for picture_id in IDS]
    store.get(TASK, [*IDS, *IDS])
    assert [store.path(TASK, picture_id).stat().st_mtime_ns for picture_id in IDS] == times


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def text(content: bytes) -> bytes:
    return b"not a tensor"


@pytest.mark.parametrize("damage", [half, empty, flipped, text])
def test_a_damaged_file_is_noticed_and_made_again(tmp_path: Path, damage: Any) -> None:
    store = store_in(tmp_path)
    before = store.get(TASK, IDS[:1])[IDS[0]]
    path = store.path(TASK, IDS[0])
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert store.load(TASK, IDS[0]) is None
    assert torch.equal(store.get(TASK, IDS[:1])[IDS[0]], before)
    assert path.read_bytes() == content


def test_a_killed_writers_part_is_never_read(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    whole_file = store.path(TASK, IDS[0])
    store.get(TASK, IDS[:1])
    whole_file.rename(whole_file.with_suffix(".4711.partial"))
    assert store.load(TASK, IDS[0]) is None


def test_features_of_another_encoder_are_never_mixed_in(tmp_path: Path) -> None:
    store, other = store_in(tmp_path), load("toy")
    encoder = other.model.get_submodule(other.entry.vision_encoder)
    before = digest_of(encoder)
    with torch.no_grad():
        next(encoder.parameters()).add_(1.0)
    assert digest_of(encoder) != before
    assert other.features(tmp_path).folder != store.folder


def test_a_new_version_of_a_task_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    before = store.path(TASK, IDS[0])
    monkeypatch.setattr(type(TASK), "version", TASK.version + 1)
    assert store.path(TASK, IDS[0]) != before


def test_several_processes_fill_the_cache_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = partial(store_in, tmp_path)
    assert prepare(make, [(TASK, IDS)], workers=1) == len(IDS)
    assert prepare(make, [(TASK, IDS)], workers=1) == 0
    expected = load("toy").features(tmp_path / "other").get(TASK, IDS)
    found = store_in(tmp_path).get(TASK, IDS)
    assert all(torch.equal(found[picture_id], expected[picture_id]) for picture_id in IDS)
    assert not list(tmp_path.rglob("*.partial"))
    assert capsys.readouterr().out == ""


def test_pixel_values_of_a_live_encoder_are_made_at_each_look() -> None:
    looked: list[str] = []

    class Album:
        def picture(self, picture_id: str) -> Image.Image:
            looked.append(picture_id)
            return Image.new("RGB", (2, 2))

    live = LivePixels(lambda pictures: torch.zeros(len(pictures), 3, 2, 2))
    found = live.get(Album(), ["a", "b"])
    found |= live.get(Album(), ["c"])
    assert looked == [] and set(found) == {"a", "b", "c"}
    assert found["a"].shape == found["c"].shape == (3, 2, 2)
    assert looked == ["a", "c"]
