"""Weights from the hub's layouts, which folders of tiny models stand for; what is refused, and how it is said."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import constants, errors
from PIL import Image
from safetensors.torch import load_file, save_file
from test_models import ARCHITECTURES, EXAMPLES, encoder_of

from mmpeft.attach import attach, load_adapter, save_adapter
from mmpeft.contract import difference, logits
from mmpeft.errors import MmpeftError
from mmpeft.loading import Loaded, framed, from_hub, tiny
from mmpeft.methods import Full, Lora
from mmpeft.models import MODELS, Hub, Model, Square, load
from mmpeft.models.base import merged
from mmpeft.models.qwen import patches
from mmpeft.reach import explained
from mmpeft.registry import fingerprint
from mmpeft.run import run
from mmpeft.spec import RunSpec
from mmpeft.train import answer_loss

torch.set_num_threads(1)


def shrunk(name: str, folder: Path, loaded: Loaded, **source: Any) -> Model:
    """The entry of a model with the tiny configuration as its published one, and this folder as its place on the hub."""
    model = MODELS[name]
    assert isinstance(model.source, Hub)
    text = {"vocab_size": loaded.dims.vocab_size, "pad_token_id": loaded.tokenizer.pad_token_id}
    config = merged(merged(model.config, model.tiny), {"text_config": text, "image_token_id": loaded.image_token_id})
    square = replace(model.square, side=model.tiny_side) if model.square else None
    hub = replace(model.source, id=str(folder), revision=None, **source)
    return replace(model, source=hub, config=config, square=square, num_image_tokens=model.tiny_num_image_tokens)


def saved(name: str, folder: Path) -> tuple[Loaded, Model]:
    """A tiny random model, and its entry once it is written as transformers writes a checkpoint."""
    loaded = tiny(MODELS[name])
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return loaded, shrunk(name, folder, loaded)


@pytest.mark.parametrize("name", ["llava-1.5-7b", "smolvlm-256m", "qwen3-vl-2b", "gemma3-4b"])
def test_a_checkpoint_gives_the_same_logits_and_asks_the_same_way(name: str, tmp_path: Path) -> None:
    made, model = saved(name, tmp_path)
    loaded = model.load()
    batch, again = encoder_of(made).training_batch(EXAMPLES), encoder_of(loaded).training_batch(EXAMPLES)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert torch.equal(logits(made.model, batch), logits(loaded.model, batch))
    assert loaded.model.generation_config.eos_token_id == loaded.end_of_answer_id


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_in_bf16_the_base_is_narrow_and_what_trains_is_wide(kind: str, tmp_path: Path) -> None:
    model = MODELS[ARCHITECTURES[kind]]
    loaded = tiny(model, precision="bf16")
    batch = encoder_of(loaded).training_batch(EXAMPLES)
    attached = attach(loaded.model, loaded.entry, Lora(r=2), "both", True, seed=0)
    kept = {p.requires_grad: set() for p in attached.parameters()}
    for name, p in attached.named_parameters():
        if loaded.entry.connector not in name:
            kept[p.requires_grad].add(p.dtype)
        elif p.requires_grad:
            assert p.dtype == torch.float32
    assert kept == {False: {torch.bfloat16}, True: {torch.float32}}
    answer_loss(attached, batch).backward()
    with torch.no_grad():
        for p in attached.parameters():
            if p.requires_grad:
                p -= 1e-4 * p.grad.sign()
    save_adapter(attached, loaded.entry, tmp_path)
    reloaded = load_adapter(tiny(model, precision="bf16").model, loaded.entry, tmp_path)
    assert torch.equal(logits(reloaded, batch), logits(attached.eval(), batch))


def test_full_fine_tuning_of_a_bf16_base_trains_and_reloads_in_single_precision(tmp_path: Path) -> None:
    loaded = tiny(MODELS["llava-1.5-7b"], precision="bf16")
    batch = encoder_of(loaded).training_batch(EXAMPLES)
    model = attach(loaded.model, loaded.entry, Full(), "both", True, seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(1.001)
    save_adapter(model, loaded.entry, tmp_path)
    reloaded = load_adapter(tiny(MODELS["llava-1.5-7b"], precision="bf16").model, loaded.entry, tmp_path)
    assert difference(logits(reloaded, batch), logits(model, batch)) == 0.0


def published_layout(folder: Path, drop: str = "") -> tuple[Loaded, Model]:
    """A tiny ShareGPT4V as its owners published theirs: the original's names, no vision encoder, which has its own folder."""
    loaded = tiny(MODELS["sharegpt4v-7b"])
    names = {
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "model.language_model.": "model.",
    }
    state = {}
    for name, tensor in loaded.model.state_dict().items():
        if not name.startswith("model.vision_tower."):
            old = next((p for p in names if name.startswith(p)), None)
            state[names[old] + name[len(old) :] if old else name] = tensor.contiguous()
    weights, encoder = folder / "weights", folder / "encoder"
    weights.mkdir()
    save_file({name: tensor for name, tensor in state.items() if name != drop}, weights / "model.safetensors", {"format": "pt"})
    (weights / "config.json").write_text(json.dumps({"model_type": "share4v"}), encoding="utf-8")
    (weights / "generation_config.json").write_text("{}", encoding="utf-8")
    loaded.tokenizer.save_pretrained(weights)
    loaded.model.get_submodule("model.vision_tower").save_pretrained(encoder)
    model = shrunk("sharegpt4v-7b", weights, loaded, vision_encoder=Hub(str(encoder), None, ""))
    return loaded, model


def test_sharegpt4v_gets_its_own_vision_encoder(tmp_path: Path) -> None:
    made, model = published_layout(tmp_path)
    batch = encoder_of(made).training_batch(EXAMPLES)
    assert torch.equal(logits(model.load().model, batch), logits(made.model, batch))
    path = tmp_path / "encoder" / "model.safetensors"
    tuned = {name: tensor * 1.5 if "patch_embedding" in name else tensor for name, tensor in load_file(path).items()}
    save_file(tuned, path, {"format": "pt"})
    assert difference(logits(model.load().model, batch), logits(made.model, batch)) > 0


def test_sharegpt4v_without_its_vision_encoder_is_refused(tmp_path: Path) -> None:
    _, model = published_layout(tmp_path)
    assert isinstance(model.source, Hub)
    missing = replace(model.source, vision_encoder=Hub(str(tmp_path / "nothing"), None, ""))
    with pytest.raises(MmpeftError, match="vision encoder of sharegpt4v-7b"):
        replace(model, source=missing).load()


def test_sharegpt4v_with_another_vision_encoder_is_refused(tmp_path: Path) -> None:
    _, model = published_layout(tmp_path)
    wide = merged(model.tiny, {"vision_config": {"hidden_size": 32}})
    other = tiny(replace(MODELS["llava-1.5-7b"], tiny=wide))
    other.model.get_submodule("model.vision_tower").save_pretrained(tmp_path / "encoder")
    with pytest.raises(MmpeftError, match="vision encoder"):
        model.load()


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    _, model = published_layout(tmp_path, drop="model.norm.weight")
    with pytest.raises(MmpeftError, match=r"lacks weights: model\.language_model\.norm\.weight"):
        model.load()


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    _, model = saved("llava-1.5-7b", tmp_path)
    wider = replace(model, config=merged(model.config, {"text_config": {"num_hidden_layers": 3}}))
    with pytest.raises(MmpeftError, match="its entry says"):
        wider.load()


def test_a_vocabulary_without_an_image_token_gets_one(tmp_path: Path) -> None:
    _, model = published_layout(tmp_path)
    path = tmp_path / "weights" / "tokenizer.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] != "<image>"]
    path.write_text(json.dumps(words), encoding="utf-8")
    settings = tmp_path / "weights" / "tokenizer_config.json"
    kept = json.loads(settings.read_text(encoding="utf-8"))
    needed = ("tokenizer_class", "pad_token", "eos_token", "bos_token")
    settings.write_text(json.dumps({key: kept[key] for key in needed}), encoding="utf-8")
    loaded = model.load()
    embeddings = loaded.model.get_input_embeddings().num_embeddings
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == loaded.image_token_id < embeddings


def http(kind: type[Exception]) -> Exception:
    return kind("no", response=httpx2.Response(404, request=httpx2.Request("GET", "https://hub.invalid")))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: http(errors.GatedRepoError), "is gated: accept its terms"),
        (lambda: http(errors.RepositoryNotFoundError), "may have moved"),
        (lambda: http(errors.RevisionNotFoundError), "no revision"),
        (lambda: errors.LocalEntryNotFoundError("no"), "cannot be reached"),
        (lambda: errors.OfflineModeIsEnabled("no"), "cannot be reached"),
        (lambda: OSError("We couldn't connect to the hub"), "cannot be reached"),
        (lambda: ImportError("needs the sentencepiece package"), "a package is missing"),
        (lambda: OSError("broken\nfile"), "does not load: broken file"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_sentence(make: Callable[[], Exception], said: str) -> None:
    with pytest.raises(MmpeftError, match=said) as caught, explained("model x", "owner/x@main"):
        try:
            raise make()
        except ImportError:
            raise
        except Exception as inner:
            raise OSError(str(inner)) from inner  # as transformers wraps them
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_out_of_reach_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MmpeftError, match=r"model qwen2\.5-vl-3b: 'Qwen/Qwen2\.5-VL-3B-Instruct@66285546.*cannot be reached"):
        load("qwen2.5-vl-3b")


def test_the_fingerprint_of_a_hub_model_is_its_place() -> None:
    names = [name for name, model in MODELS.items() if isinstance(model.source, Hub)]
    assert len({fingerprint(name) for name in names}) == len(names)
    assert all(len(fingerprint(name)) == 16 for name in names)
    model = MODELS["sharegpt4v-7b"]
    assert isinstance(model.source, Hub)
    plain = replace(model.source, vision_encoder=None)
    assert plain.fingerprint("") != model.fingerprint != replace(plain, revision="0" * 40).fingerprint("")


def test_a_padded_picture_stands_in_the_middle_of_the_mean_color() -> None:
    square = Square(4, (0.2, 0.4, 0.6), (0.5, 0.5, 0.5), fit="pad")
    found = framed([Image.new("RGB", (4, 2), (255, 0, 0))], square)[0]
    assert found.shape == (3, 4, 4)
    assert found[:, 0].abs().max() < 0.01 and found[:, 3].abs().max() < 0.01
    torch.testing.assert_close(found[:, 1, 1], (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor([0.2, 0.4, 0.6])) / 0.5)


def test_patches_are_in_the_order_of_the_official_preprocessing() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8))
    model = MODELS["qwen2.5-vl-3b"]
    assert model.square is not None
    official = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)(images=[picture], return_tensors="pt")
    loaded = tiny(model)
    loaded.model.config.vision_config.patch_size = 14
    ids = torch.full((1, 4), loaded.image_token_id)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = framed([picture], replace(model.square, side=56))
    found = patches(loaded.model, inputs, torch.zeros_like(ids).bool())
    assert found["image_grid_thw"].tolist() == official["image_grid_thw"].tolist()
    torch.testing.assert_close(found["pixel_values"], official["pixel_values"].float(), rtol=1e-4, atol=1e-4)


def test_from_hub_is_what_an_entry_of_the_hub_loads_with(tmp_path: Path) -> None:
    _, model = saved("internvl3-1b", tmp_path)
    assert isinstance(model.source, Hub)
    assert from_hub(model, model.source).dims == model.dims


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_all_the_way_on_a_model_of_the_hub(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live pictures, a frozen encoder that runs each time, training, the contract, answers, scores."""
    _, model = saved("smolvlm-256m", tmp_path)
    monkeypatch.setitem(MODELS, "smolvlm-256m", model)
    spec = RunSpec.from_dict(
        {
            "model": "smolvlm-256m",
            "task": "mini-vqav2",
            "method": {"name": "lora", "r": 2},
            "connector": {"tuned": True, "learning_rate": 1e-3},
            "train": {"num_examples": 8, "num_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "precision": precision},
            "eval": {"num_examples": 4, "batch_size": 2, "max_new_tokens": 2},
        }
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # one process, one precision: accelerate keeps it
    try:
        record = run(spec).record
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert record.status == "ok" and record.fingerprint == model.fingerprint
    assert record.contract["reload_delta_logits"] == 0.0
    assert len(record.curve) == 2
