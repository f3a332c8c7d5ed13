"""The loop learns answers only, the same way twice, and says so when it leaves the finite numbers."""

import math
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import pytest
import torch

from mmpeft.attach import attach, parameter_groups
from mmpeft.batches import IGNORED, Encoder
from mmpeft.errors import MmpeftError
from mmpeft.loading import Loaded
from mmpeft.methods import Full, Lora, Prefix
from mmpeft.mini.packing import Packer, Row
from mmpeft.models import load
from mmpeft.spec import TrainSpec
from mmpeft.task import Example
from mmpeft.tasks import MINI, TASKS
from mmpeft.train import Trained, TrainingDiverged, answer_loss, num_steps, parts_of, rate, shuffled, train

torch.set_num_threads(1)

TASK = TASKS["mini-vqav2"]


@cache
def features() -> dict[str, torch.Tensor]:
    return load("toy").features().get(TASK, [e.picture_id for e in some()])


def some(num_examples: int = 16) -> list[Example]:
    return TASK.examples("train", num_examples)


def encoder_of(loaded: Loaded, max_length: int = 256) -> Encoder:
    return Encoder(loaded, features(), max_length)


def trained(spec: TrainSpec, seed: int = 0, method: Any = None) -> tuple[Trained, dict[str, torch.Tensor]]:
    """What training the toy gives, and the weights afterwards."""
    loaded = load("toy")
    method = method or Lora(r=4)
    model = attach(loaded.model, loaded.entry, method, "both", False, seed)
    groups = parameter_groups(model, loaded.entry, spec.learning_rate, None)
    done = train(model, groups, some(), encoder_of(loaded).training_batch, spec, seed)
    return done, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def spec_of(**changes: Any) -> TrainSpec:
    return TrainSpec(**{"num_steps": 4, "batch_size": 4, "learning_rate": 0.01, **changes})


def test_the_same_call_gives_the_same_weights_bit_by_bit() -> None:
    (first, weights), (second, again) = trained(spec_of()), trained(spec_of())
    assert first == second
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_another_seed_gives_another_order_and_other_weights() -> None:
    (first, weights), (second, others) = trained(spec_of()), trained(spec_of(), seed=1)
    assert first.curve != second.curve
    assert any(not torch.equal(weights[name], others[name]) for name in weights)


def test_the_loss_falls() -> None:
    done, _ = trained(spec_of(num_steps=60, batch_size=8, learning_rate=0.02), method=Full())
    losses = [loss for _, loss in done.curve]
    assert done.num_steps == len(losses) == 60
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_labels_are_the_answer_and_its_end_and_nothing_else() -> None:
    loaded = load("toy")
    encoder, examples = encoder_of(loaded), some(6)
    batch = encoder.training_batch(examples)
    for example, ids, labels in zip(examples, batch["input_ids"], batch["labels"], strict=True):
        kept = labels != IGNORED
        assert labels[kept].tolist() == encoder.answer_ids(example)
        assert labels[kept].tolist() == ids[kept].tolist()
        assert labels[kept][-1] == loaded.tokenizer.eos_token_id
        assert loaded.tokenizer.decode(labels[kept][:-1]).strip() == example.answer
        before = ids[: int(kept.nonzero()[0])]
        assert before[before != loaded.tokenizer.pad_token_id].tolist() == encoder.prompt_ids(example)
    assert not (batch["labels"] == loaded.model.config.image_token_id).any()
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()


@pytest.mark.parametrize("name", ["training_batch", "prompt_batch"])
def test_positions_count_the_tokens_that_are_there(name: str) -> None:
    batch = getattr(encoder_of(load("toy")), name)(some(6))
    for positions, mask in zip(batch["position_ids"], batch["attention_mask"], strict=True):
        num_tokens = int(mask.sum())
        assert positions[mask == 1].tolist() == list(range(num_tokens))
        assert mask.tolist() == sorted(mask.tolist())


@torch.no_grad()
@pytest.mark.parametrize("method", [Lora(r=2), Prefix(num_virtual_tokens=3)], ids=["lora", "prefix"])
def test_a_row_means_the_same_alone_and_padded_in_a_batch(method: Any) -> None:
    loaded = load("toy")
    encoder, examples = encoder_of(loaded), some(6)
    model = attach(loaded.model, loaded.entry, method, "both", False, 0).eval()
    together = model(**encoder.prompt_batch(examples)).logits[:, -1]
    for row, example in zip(together, examples, strict=True):
        alone = model(**encoder.prompt_batch([example])).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", [Lora(r=2), Prefix(num_virtual_tokens=3)], ids=["lora", "prefix"])
def test_the_loss_is_the_models_own(method: Any) -> None:
    """The head sees only the last tokens; the mean over the answers is the same."""
    loaded = load("toy")
    batch = encoder_of(loaded).training_batch(some(6))
    model = attach(loaded.model, loaded.entry, method, "both", False, 0).eval()
    torch.testing.assert_close(answer_loss(model, batch), model(**batch).loss)


def test_an_example_that_is_too_long_is_named() -> None:
    encoder = Encoder(load("toy"), {}, 8)  # without a picture
    said = r"train\.max_length: 2 of 2 examples are longer than 8 tokens; raise it to \d+, the length of mini-vqav2/train/\d+/\d"
    with pytest.raises(MmpeftError, match=said):
        encoder.check_lengths(some(2))


@pytest.mark.parametrize("name", MINI)
def test_prompts_are_those_the_base_was_trained_on(name: str) -> None:
    """The recipe packs several questions into a row; a row of one must be the example as fine-tuning sees it."""
    loaded = load("toy")
    packer = Packer(loaded.tokenizer)
    encoder = Encoder(Loaded(loaded.model, loaded.tokenizer, loaded.entry, loaded.pixels, 16), {}, 256)
    for example in TASKS[name].examples("test", 40):
        ids, _, position, labels = packer.row(Row([(example.prompt, example.answer)], picture=0))
        prompt, answer = encoder.prompt_ids(example), encoder.answer_ids(example)
        assert prompt + answer == ids
        assert [IGNORED] * len(prompt) + answer == labels
        assert position == list(range(len(ids)))


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_curve() -> None:
    with pytest.raises(TrainingDiverged, match=r"diverged: loss nan at step \d; lower train\.learning_rate") as caught:
        trained(spec_of(num_steps=8, learning_rate=1e30, warmup_ratio=0.0), method=Full())
    assert len(caught.value.curve) >= 2
    assert math.isnan(caught.value.curve[-1][1])


def test_steps_are_those_given_or_those_of_the_epochs() -> None:
    assert num_steps(TrainSpec(num_steps=7), 1000) == 7
    assert num_steps(TrainSpec(num_epochs=2, batch_size=16), 100) == math.ceil(200 / 16)
    assert num_steps(TrainSpec(num_epochs=0.01, batch_size=16), 100) == 1


def test_the_rate_rises_then_falls_to_zero() -> None:
    spec = TrainSpec(warmup_ratio=0.1)
    rates = [rate(spec, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
    assert rate(spec, 10 + 45, 100) == pytest.approx(0.5)


def test_the_constant_schedule_stays_after_the_warm_up() -> None:
    spec = TrainSpec(warmup_ratio=0.1, schedule="constant")
    assert [rate(spec, step, 100) for step in (9, 10, 50, 99)] == [1.0] * 4


def test_every_pass_shows_every_example_once_in_a_new_order() -> None:
    examples = some(10)
    seen = [example for batch in islice(shuffled(examples, 4, seed=0), 5) for example in batch]
    for start in (0, 10):
        assert sorted(e.example_id for e in seen[start : start + 10]) == sorted(e.example_id for e in examples)
    assert seen[:10] != seen[10:]
    assert list(islice(shuffled(examples, 4, seed=0), 5)) == list(islice(shuffled(examples, 4, seed=0), 5))


def test_the_order_of_examples_leaves_the_callers_generators_alone() -> None:
    rng, state = Random(0), torch.get_rng_state()
    next(shuffled(some(4), 2, seed=3))
    assert rng.random() == Random(0).random()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_in_several_passes_is_the_same_step() -> None:
    """Each answer token weighs the same, although the parts have different numbers of them."""
    one, weights = trained(spec_of(batch_size=8))
    several, others = trained(spec_of(batch_size=8, gradient_accumulation_steps=4))
    assert [loss for _, loss in several.curve] == pytest.approx([loss for _, loss in one.curve], abs=1e-5)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-5)


def saved_bytes(spec: TrainSpec) -> int:
    """Bytes that autograd keeps in all steps."""
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trained(spec)
    return kept


def test_activations_computed_again_give_the_same_bits_from_less_memory() -> None:
    (plain, weights), (again, others) = trained(spec_of()), trained(spec_of(gradient_checkpointing=True))
    assert plain.curve == again.curve
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert saved_bytes(spec_of(gradient_checkpointing=True)) < 0.8 * saved_bytes(spec_of())


def test_a_batch_that_cannot_be_dealt_out_is_said() -> None:
    assert parts_of(some(8), 2) == [some(8)[0::2], some(8)[1::2]]
    spec = TrainSpec(batch_size=8, gradient_accumulation_steps=2)
    with pytest.raises(MmpeftError, match=r"train\.batch_size: 8 examples cannot be dealt out to 3 processes; take a multiple"):
        spec.passes(3)


@pytest.mark.parametrize(("processes", "passes"), [(1, 16), (2, 8), (8, 2), (16, 1), (32, 1), (128, 1)])
def test_processes_share_the_passes_of_one(processes: int, passes: int) -> None:
    assert TrainSpec(batch_size=128, gradient_accumulation_steps=16).passes(processes) == passes
    assert TrainSpec(batch_size=12, gradient_accumulation_steps=4).passes(3) == 2  # of two examples; one of four would be more
