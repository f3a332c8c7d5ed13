"""METHODS × {MHA, GQA} × connector frozen or tuned: every promise of a method, on a toy LLaVA."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from toy import ENTRY, IMAGE, KEY_VALUE_HEADS, make_batch, make_toy

from mmpeft.attach import attach, load_adapter, parameter_groups, part_of, save_adapter, trainable_parts
from mmpeft.contract import Watch, difference, logits
from mmpeft.entry import Dims, dims_of
from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS, Adapter, Connector, Full, Ia3, Lora, Method, Prefix, ZeroShot

LLAVA_7B = Dims(4096, 11008, 32, 32, 32, 128, 32064)
LLAVA_13B = Dims(5120, 13824, 40, 40, 40, 128, 32064)

CASES: dict[str, Method] = {
    "zero-shot": ZeroShot(),
    "connector": Connector(),
    "full": Full(),
    "lora": Lora(r=4),
    "ia3": Ia3(),
    "adapter": Adapter(bottleneck_size=8),
    "adapter-identity": Adapter(bottleneck_size=8, init="identity"),
    "adapter-houlsby": Adapter(bottleneck_size=8, placement="houlsby"),
    "adapter-parallel": Adapter(bottleneck_size=8, placement="parallel", init="identity"),
    "prefix": Prefix(num_virtual_tokens=3),
    "prefix-projection": Prefix(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=16),
}
PEFT_CASES = [name for name in CASES if name not in ("zero-shot", "connector", "full")]
LEARNING_RATES = {"ia3": 0.1, "prefix": 0.1}

RUNS = [
    (case, attention, tuned)
    for case in CASES
    for attention in KEY_VALUE_HEADS
    for tuned in (False, True)
    if CASES[case].trains or not tuned
]
each_run = pytest.mark.parametrize(("case", "attention", "tuned"), RUNS)
each_training_run = pytest.mark.parametrize(
    ("case", "attention", "tuned"), [run for run in RUNS if CASES[run[0]].trains]
)
each_peft_run = pytest.mark.parametrize(
    ("case", "attention", "tuned"), [run for run in RUNS if run[0] in PEFT_CASES]
)
each_attention = pytest.mark.parametrize("attention", KEY_VALUE_HEADS)


class Trained(NamedTuple):
    model: Any
    contract: dict[str, Any]
    losses: list[float]
    base_logits: torch.Tensor


@cache
def trained(case: str, attention: str, tuned: bool) -> Trained:
    """Ten steps of this case under a Watch (which raises when a promise breaks)."""
    method, batch, base = CASES[case], make_batch(), make_toy(attention)
    base_logits = logits(base, batch)
    watch = Watch(ENTRY, method, "both", tuned)
    watch.base(base, batch)
    model = attach(base, ENTRY, method, "both", tuned, seed=0)
    watch.before(model)
    losses: list[float] = []
    if method.trains:
        groups = parameter_groups(model, ENTRY, LEARNING_RATES.get(case, 1e-2), 1e-3)
        optimizer = torch.optim.AdamW(groups)
        for _ in range(10):
            loss = model(**batch).loss
            loss.backward()
            watch.gradients()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    with TemporaryDirectory() as folder:
        contract = watch.after(model, len(losses), lambda: make_toy(attention), Path(folder))
    return Trained(model, contract, losses, base_logits)


def test_importing_the_methods_does_not_import_torch() -> None:
    check = "import sys, mmpeft.methods; sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_every_method_is_registered_under_its_own_name() -> None:
    assert {name: cls().name for name, cls in METHODS.items()} == {name: name for name in METHODS}


def test_a_field_that_does_not_exist_or_makes_no_sense_is_refused() -> None:
    for bad in ({"rank": 8}, {"r": 0}, {"r": "8"}, {"lora_dropout": 1.0}):
        with pytest.raises(ValidationError):
            Lora(**bad)


@pytest.mark.parametrize(
    ("method", "location", "count_7b", "count_13b"),
    [
        (Lora(r=128), "both", 319_815_680, 500_695_040),
        (Lora(r=128), "attention", 134_217_728, 209_715_200),
        (Lora(r=128), "mlp", 185_597_952, 290_979_840),
        (Ia3(), "both", 614_400, 962_560),
        (Adapter(bottleneck_size=256), "mlp", 201_326_592, 314_572_800),
        (Adapter(bottleneck_size=256, placement="houlsby"), "mlp", 67_108_864, 104_857_600),
        (Adapter(bottleneck_size=256, placement="houlsby"), "both", 134_217_728, 209_715_200),
        (Prefix(num_virtual_tokens=20), "both", 5_242_880, 8_192_000),
    ],
)
def test_the_formulas_give_the_counts_of_the_published_models(
    method: Method, location: Any, count_7b: int, count_13b: int
) -> None:
    assert method.num_trainable(LLAVA_7B, location) == count_7b
    assert method.num_trainable(LLAVA_13B, location) == count_13b


def test_a_projected_prefix_trains_a_billion_parameters_and_stores_five_million() -> None:
    method = Prefix(num_virtual_tokens=20, prefix_projection=True, encoder_hidden_size=4096)
    assert method.num_trainable(LLAVA_7B, "both") == 1_090_867_200
    assert method.num_stored(LLAVA_7B, "both") == 5_242_880


@each_attention
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_the_formula_of_full_fine_tuning_counts_the_language_model(attention: str, tied: bool) -> None:
    model = make_toy(attention, tied=tied)
    counted = trainable_parts(attach(model, ENTRY, Full(), "both", False, seed=0), ENTRY)["language_model"]
    assert Full().num_trainable(dims_of(model.config), "both") == counted


@each_attention
@pytest.mark.parametrize("location", ["attention", "mlp", "both"])
@pytest.mark.parametrize("case", [name for name in PEFT_CASES if CASES[name].has_location])
def test_the_formula_counts_what_trains_in_every_location(case: str, location: Any, attention: str) -> None:
    model = make_toy(attention)
    expected = CASES[case].num_trainable(dims_of(model.config), location)
    attached = attach(model, ENTRY, CASES[case], location, False, seed=0)
    assert trainable_parts(attached, ENTRY) == {
        "language_model": expected,
        "connector": 0,
        "vision_encoder": 0,
        "prompt": 0,
    }
    blocks = {"attention": {"self_attn"}, "mlp": {"mlp"}, "both": {"self_attn", "mlp"}}[location]
    names = [name for name, p in attached.named_parameters() if p.requires_grad]
    assert {block for block in ("self_attn", "mlp") for name in names if f".{block}." in name} == blocks


@each_run
def test_the_contract_holds_over_ten_steps(case: str, attention: str, tuned: bool) -> None:
    contract = trained(case, attention, tuned).contract
    connector = contract["expected_trainable"]["connector"]
    assert contract["trainable"]["connector"] == connector
    assert (connector > 0) == (tuned or case == "connector")
    assert contract["trainable"]["vision_encoder"] == 0
    assert contract["frozen_unchanged"]
    assert contract["without_gradient"] == []
    assert contract["reload_delta_logits"] <= (1e-5 if case == "prefix-projection" else 0.0)
    assert contract["gradients_judged"] == CASES[case].trains
    assert (contract["start_delta_logits"] == 0.0) == CASES[case].identity_at_start()


@each_training_run
def test_the_loss_falls_in_ten_steps(case: str, attention: str, tuned: bool) -> None:
    losses = trained(case, attention, tuned).losses
    assert losses[-1] < losses[0] - 0.1


def greedy_without_cache(model: Any, batch: dict[str, torch.Tensor], num_tokens: int) -> torch.Tensor:
    """The tokens (B, num_tokens) that whole forward passes choose, one after the other."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for _ in range(num_tokens):
        positions = (mask.cumsum(-1) - 1).clamp(0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        with torch.no_grad():
            scores = model(**inputs, pixel_values=batch["pixel_values"]).logits[:, -1]
        scores[:, IMAGE] = -torch.inf
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids[:, -num_tokens:]


@each_peft_run
def test_generation_is_the_same_with_and_without_cache_and_padding(
    case: str, attention: str, tuned: bool
) -> None:
    model = trained(case, attention, tuned).model.eval()
    batch = {name: make_batch()[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "suppress_tokens": [IMAGE]}
    together = model.generate(**batch, **options)[:, -4:]
    assert torch.equal(together, greedy_without_cache(model, batch, 4))
    for i, mask in enumerate(batch["attention_mask"].bool()):
        alone = {
            "input_ids": batch["input_ids"][i, mask][None],
            "pixel_values": batch["pixel_values"][i, None],
        }
        alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        assert torch.equal(together[i], model.generate(**alone, **options)[0, -4:])


# peft's disable_adapter leaves a prefix run's trained connector in place, so those runs are left out.
@pytest.mark.parametrize(
    ("case", "attention", "tuned"),
    [run for run in RUNS if run[0] in PEFT_CASES and not (run[2] and run[0].startswith("prefix"))],
)
def test_a_disabled_adapter_leaves_the_base(case: str, attention: str, tuned: bool) -> None:
    run = trained(case, attention, tuned)
    with run.model.disable_adapter():
        assert torch.equal(logits(run.model, make_batch()), run.base_logits)
    assert difference(logits(run.model, make_batch()), run.base_logits) > 0.01


@each_attention
@pytest.mark.parametrize("case", ["prefix", "prefix-projection"])
def test_a_prefix_with_explicit_positions_does_not_see_left_padding(case: str, attention: str) -> None:
    model = trained(case, attention, False).model
    batch = make_batch(padding="left")
    padded = logits(model, batch).split(batch["attention_mask"].sum(-1).tolist())
    for i, mask in enumerate(batch["attention_mask"].bool()):
        ids = batch["input_ids"][i, mask][None]
        alone = logits(model, {"input_ids": ids, "pixel_values": batch["pixel_values"][i, None]})
        assert difference(padded[i], alone) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_seed_alone_decides_the_new_weights(case: str) -> None:
    def start(seed: int, drawn_before: int) -> dict[str, torch.Tensor]:
        base = make_toy()
        torch.randn(drawn_before)
        model = attach(base, ENTRY, CASES[case], "both", True, seed)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    first, again, other = start(1, drawn_before=0), start(1, drawn_before=7), start(2, drawn_before=0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    if case in PEFT_CASES and case != "ia3":
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_connector_has_its_own_learning_rate_and_every_tensor_one_group() -> None:
    model = trained("prefix", "gqa", True).model
    groups = {group["name"]: group for group in parameter_groups(model, ENTRY, 1e-3, 1e-5)}
    assert {name: group["lr"] for name, group in groups.items()} == {"method": 1e-3, "connector": 1e-5}
    counts = trainable_parts(model, ENTRY)
    assert sum(p.numel() for p in groups["connector"]["params"]) == counts["connector"]
    assert sum(p.numel() for p in groups["method"]["params"]) == counts["prompt"]


def test_a_missing_learning_rate_is_named() -> None:
    model = trained("lora", "mha", True).model
    with pytest.raises(MmpeftError, match=r"connector\.learning_rate is missing"):
        parameter_groups(model, ENTRY, 1e-3, None)


def test_a_name_is_sorted_into_its_part_in_a_base_and_in_a_peft_model() -> None:
    assert part_of("model.language_model.layers.0.mlp.up_proj.weight", ENTRY) == "language_model"
    assert part_of("base_model.model.lm_head.weight", ENTRY) == "language_model"
    assert part_of("base_model.model.model.vision_tower.x.q_proj.weight", ENTRY) == "vision_encoder"
    assert (
        part_of("base_model.model.model.multi_modal_projector.modules_to_save.default.b", ENTRY)
        == "connector"
    )
    assert part_of("prompt_encoder.default.embedding.weight", ENTRY) == "prompt"
    assert part_of("model.image_newline", ENTRY) == "other"


def test_a_saved_adapter_names_no_path_and_loads_with_plain_peft(tmp_path: Path) -> None:
    run = trained("adapter", "mha", True)
    save_adapter(run.model, ENTRY, tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]
    assert '"base_model_name_or_path": ""' in (tmp_path / "adapter_config.json").read_text()
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        plain = PeftModel.from_pretrained(make_toy(), tmp_path)
    assert torch.equal(logits(plain, make_batch()), logits(run.model, make_batch()))


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmpeftError, match="no adapter in"):
        load_adapter(make_toy(), ENTRY, tmp_path)
    save_adapter(trained("lora", "mha", False).model, ENTRY, tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(MmpeftError, match="never a pickle"):
        load_adapter(make_toy(), ENTRY, tmp_path)


@pytest.mark.parametrize("case", ["full", "lora", "adapter"])
def test_an_adapter_of_another_model_is_refused(case: str, tmp_path: Path) -> None:
    save_adapter(trained(case, "mha", False).model, ENTRY, tmp_path)
    with pytest.raises(MmpeftError, match="does not fit"):
        load_adapter(_narrower(), ENTRY, tmp_path)


def _narrower() -> Any:
    """A base whose language model is half as wide."""
    from transformers import LlavaForConditionalGeneration

    config = make_toy().config
    config.text_config.hidden_size = 16
    config.text_config.head_dim = 4
    return LlavaForConditionalGeneration(config)


def test_a_trained_full_model_with_a_tied_head_loads_tied(tmp_path: Path) -> None:
    model = attach(make_toy(tied=True), ENTRY, Full(), "both", False, seed=0)
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(1.5)
    save_adapter(model, ENTRY, tmp_path)
    loaded = load_adapter(make_toy(tied=True), ENTRY, tmp_path)
    assert torch.equal(logits(loaded, make_batch()), logits(model, make_batch()))
