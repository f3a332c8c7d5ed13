"""METHODS × architectures × connector: every promise, on a tiny random model of each architecture that MODELS holds."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from mmpeft.attach import attach, parameter_groups
from mmpeft.batches import Encoder
from mmpeft.contract import Watch
from mmpeft.errors import MmpeftError
from mmpeft.loading import Loaded, tiny
from mmpeft.methods import Adapter, Connector, Full, Ia3, Lora, Method, Prefix
from mmpeft.models import MODELS, Hub
from mmpeft.task import Example
from mmpeft.train import answer_loss

torch.set_num_threads(1)

ARCHITECTURES = {model.entry.kind: name for name, model in reversed(MODELS.items()) if isinstance(model.source, Hub)}
"""One model of each kind: the first of MODELS."""

METHODS: dict[str, Method] = {
    "connector": Connector(),
    "full": Full(),
    "lora": Lora(r=4),
    "ia3": Ia3(),
    "adapter": Adapter(bottleneck_size=8),
    "adapter-parallel": Adapter(bottleneck_size=8, placement="parallel", init="identity"),
    "prefix": Prefix(num_virtual_tokens=3),
}
LEARNING_RATES = {"ia3": 0.1, "prefix": 0.1}
NUM_STEPS = 6

CELLS = [
    (kind, case, tuned) for kind in ARCHITECTURES for case in METHODS for tuned in (False, True) if tuned or case != "connector"
]
SUPPORTED = [cell for cell in CELLS if METHODS[cell[1]].name not in MODELS[ARCHITECTURES[cell[0]]].entry.refused]
REFUSED = [cell for cell in CELLS if cell not in SUPPORTED]
each_supported = pytest.mark.parametrize(("kind", "case", "tuned"), SUPPORTED)

EXAMPLES = [
    Example("a/0", "red", "What color is it?", "red", ("red",)),
    Example("a/1", "blue", "Is the picture blue, and is there a cat?", "yes", ("yes",)),
    Example("a/2", "noise", "How many?", "two", ("two",)),
]


def picture(name: str) -> Image.Image:
    """A plain picture of this color, or noise; wider than high."""
    if name == "noise":
        return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    return Image.new("RGB", (30, 20), name)


def encoder_of(loaded: Loaded) -> Encoder:
    names = {e.picture_id for e in EXAMPLES}
    return Encoder(loaded, {name: loaded.pixels([picture(name)])[0] for name in names}, 128)


class Trained(NamedTuple):
    loaded: Loaded
    model: Any
    contract: dict[str, Any]
    losses: list[float]


@cache
def trained(kind: str, case: str, tuned: bool) -> Trained:
    """Some steps of this cell under a Watch (which raises when a promise breaks)."""
    name, method = ARCHITECTURES[kind], METHODS[case]
    loaded = tiny(MODELS[name])
    batch = encoder_of(loaded).training_batch(EXAMPLES)
    watch = Watch(loaded.entry, method, "both", tuned)
    watch.base(loaded.model, batch)
    model = attach(loaded.model, loaded.entry, method, "both", tuned, seed=0)
    watch.before(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, loaded.entry, LEARNING_RATES.get(case, 1e-2), 1e-2))
    losses = []
    for _ in range(NUM_STEPS):
        loss = answer_loss(model, batch)
        loss.backward()
        watch.gradients()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with TemporaryDirectory() as folder:
        contract = watch.after(model, NUM_STEPS, lambda: tiny(MODELS[name]).model, Path(folder))
    return Trained(loaded, model, contract, losses)


@each_supported
def test_only_what_is_declared_trains_and_the_saved_adapter_gives_equal_logits(kind: str, case: str, tuned: bool) -> None:
    contract = trained(kind, case, tuned).contract
    assert contract["frozen_unchanged"]
    assert contract["without_gradient"] == []
    assert contract["reload_delta_logits"] == 0.0
    assert contract["trainable"]["vision_encoder"] == 0
    assert (contract["trainable"]["connector"] > 0) == tuned


@each_supported
def test_the_loss_falls(kind: str, case: str, tuned: bool) -> None:
    losses = trained(kind, case, tuned).losses
    assert losses[-1] < losses[0]


def test_a_space_before_the_answer_belongs_to_its_first_token() -> None:
    """As a model that continues «Assistant:» writes it; what it then says is compared without outer spaces."""
    spaced = [model for model in MODELS.values() if model.entry.before_answer]
    assert [model.entry.name for model in spaced] == ["smolvlm-256m", "smolvlm-500m"]
    loaded = tiny(spaced[0])
    byte_level = Tokenizer(BPE(unk_token=None))
    byte_level.pre_tokenizer, byte_level.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    texts = ["a red one, no red two, the red cat"] * 9
    byte_level.train_from_iterator(texts, BpeTrainer(initial_alphabet=ByteLevel.alphabet(), show_progress=False))
    byte_level.add_special_tokens(["<image>", "<pad>", "<end_of_utterance>"])
    words = PreTrainedTokenizerFast(tokenizer_object=byte_level, pad_token="<pad>", eos_token="<end_of_utterance>")
    encoder = Encoder(replace(loaded, tokenizer=words), {"red": torch.zeros(3, 16, 16)}, 999)
    example = EXAMPLES[0]
    prompt = loaded.entry.prompt_format.format(prompt=example.prompt)
    whole = words(f"{prompt} {example.answer}", add_special_tokens=False)["input_ids"]
    bare = words(example.answer, add_special_tokens=False)["input_ids"]
    first, *_, end = encoder.answer_ids(example)
    assert words.decode([first]) == " red" and first == whole[-1] != bare[0]
    labels = encoder.training_batch([example])["labels"][0]
    assert labels[labels != -100].tolist() == [first, end]


def without_cache(model: Any, encoder: Encoder, examples: list[Example], num_tokens: int) -> torch.Tensor:
    """The tokens (B, num_tokens) that whole forward passes choose, one after the other."""
    loaded = encoder.loaded
    prompts = [encoder.prompt_ids(e) for e in examples]
    chosen: list[list[int]] = [[] for _ in examples]
    longest = max(map(len, prompts))
    for step in range(num_tokens):
        answers = torch.zeros(len(examples), longest + step, dtype=torch.bool)
        answers[:, longest:] = True
        rows = [p + c for p, c in zip(prompts, chosen, strict=True)]
        with torch.no_grad():
            scores = model(**encoder._tensors(examples, rows, answers)).logits[:, -1]
        scores[:, loaded.image_token_id] = -torch.inf
        for row, token in zip(chosen, scores.argmax(-1).tolist(), strict=True):
            row.append(token)
    return torch.tensor(chosen)


@each_supported
def test_generation_is_the_same_with_and_without_cache_and_padding(kind: str, case: str, tuned: bool) -> None:
    loaded, model, _, _ = trained(kind, case, tuned)
    encoder = encoder_of(loaded)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "suppress_tokens": [loaded.image_token_id]}

    def generated(examples: list[Example]) -> torch.Tensor:
        inputs = encoder.prompt_batch(examples)
        del inputs["position_ids"]
        return model.generate(**inputs, **options)[:, -4:]

    model.eval()
    together = generated(EXAMPLES)
    assert torch.equal(together, without_cache(model, encoder, EXAMPLES, 4))
    for row, example in zip(together, EXAMPLES, strict=True):
        assert torch.equal(row, generated([example])[0])


@pytest.mark.parametrize(("kind", "case", "tuned"), REFUSED)
def test_a_cell_that_is_not_supported_is_refused_with_its_reason(kind: str, case: str, tuned: bool) -> None:
    loaded = tiny(MODELS[ARCHITECTURES[kind]])
    with pytest.raises(MmpeftError, match="is refused on model"):
        attach(loaded.model, loaded.entry, METHODS[case], "both", tuned, seed=0)
