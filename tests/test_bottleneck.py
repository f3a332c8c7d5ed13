"""The bottleneck adapter as a method of peft: everything peft offers, through peft's own functions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from toy import ENTRY, make_batch, make_toy

from mmpeft.bottleneck import Bottleneck, BottleneckConfig, BottleneckLayer, MergeRefused
from mmpeft.contract import difference, logits
from mmpeft.methods import Adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PLACEMENTS = ["paper_code", "houlsby", "parallel"]
each_placement = pytest.mark.parametrize("placement", PLACEMENTS)


def config(placement: Any = "paper_code", **fields: Any) -> BottleneckConfig:
    made = Adapter(placement=placement, bottleneck_size=8, **fields).peft_config(ENTRY, "both")
    assert isinstance(made, BottleneckConfig)
    return made


def wide(model: torch.nn.Module) -> torch.nn.Module:
    """The model with adapters large enough to be seen in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bottleneck_adapters" in name:
                parameter.normal_(std=0.3)
    return model


def test_the_adapter_computes_up_of_tanh_of_down() -> None:
    adapter = Bottleneck(6, BottleneckConfig(bottleneck_size=2))
    x = torch.randn(3, 4, 6)
    expected = torch.tanh(x @ adapter.down.weight.T) @ adapter.up.weight.T
    assert torch.allclose(adapter(x), expected)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 2 * 6


def test_both_matrices_start_at_a_deviation_of_two_hundredths_or_up_at_zero() -> None:
    normal = Bottleneck(512, BottleneckConfig(bottleneck_size=64))
    identity = Bottleneck(512, BottleneckConfig(bottleneck_size=64, init="identity"))
    for weight in (normal.down.weight, normal.up.weight, identity.down.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not identity.up.weight.any()


def test_a_position_decides_whether_input_output_or_the_whole_block_is_adapted() -> None:
    def adapted(**positions: Any) -> tuple[torch.Tensor, torch.Tensor, Bottleneck, torch.nn.Linear]:
        torch.manual_seed(0)
        linear = torch.nn.Linear(6, 6)
        model = torch.nn.Sequential(linear)
        wrapped = wide(
            get_peft_model(model, BottleneckConfig(target_modules=["0"], bottleneck_size=3, **positions))
        )
        layer = next(m for m in wrapped.modules() if isinstance(m, BottleneckLayer))
        x = torch.randn(2, 6)
        return x, wrapped(x), layer.bottleneck_adapters["default"], linear

    x, y, a, linear = adapted()
    assert torch.allclose(y, linear(x + a(x)))
    x, y, a, linear = adapted(output_modules=["0"])
    assert torch.allclose(y, linear(x) + a(linear(x)))
    x, y, a, linear = adapted(parallel_modules=["0"])
    assert torch.allclose(y, linear(x) + a(x))


@pytest.mark.parametrize(
    ("placement", "positions"),
    [
        (
            "paper_code",
            {
                **{f"{block}_proj": "input" for block in ("gate", "up", "q", "k", "v")},
                **{f"{block}_proj": "output" for block in ("down", "o")},
            },
        ),
        ("houlsby", {"o_proj": "output", "down_proj": "output"}),
        ("parallel", {"self_attn": "parallel", "mlp": "parallel"}),
    ],
)
def test_every_decoder_layer_is_adapted_where_the_placement_says(
    placement: str, positions: dict[str, str]
) -> None:
    model = get_peft_model(make_toy(), config(placement))
    found = [
        (name.rsplit(".", 1)[-1], module.bottleneck_positions["default"])
        for name, module in model.named_modules()
        if isinstance(module, BottleneckLayer)
    ]
    assert sorted(found) == sorted(2 * list(positions.items()))


@each_placement
def test_two_adapters_live_in_one_model_and_are_saved_and_loaded_apart(
    placement: str, tmp_path: Path
) -> None:
    batch = make_batch()
    model = get_peft_model(make_toy(), config(placement))
    model.add_adapter("second", config(placement))
    wide(model)
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".second." in name)
    first = logits(model, batch)
    model.set_adapter("second")
    second = logits(model, batch)
    assert difference(first, second) > 0.01
    assert all(p.requires_grad for name, p in model.named_parameters() if ".second." in name)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_toy(), tmp_path)
    loaded.load_adapter(tmp_path / "second", "second", low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded, batch), first)
    loaded.set_adapter("second")
    assert torch.equal(logits(loaded, batch), second)
    loaded.set_adapter("default")
    loaded.delete_adapter("second")
    assert torch.equal(logits(loaded, batch), first)


@each_placement
def test_unload_gives_the_base_back(placement: str) -> None:
    base, batch = make_toy(), make_batch()
    before = logits(base, batch)
    names = set(base.state_dict())
    model = wide(get_peft_model(base, config(placement)))
    assert difference(logits(model, batch), before) > 0.01
    unloaded = model.unload()
    assert set(unloaded.state_dict()) == names
    assert torch.equal(logits(unloaded, batch), before)


@each_placement
def test_merging_is_refused_with_a_reason(placement: str) -> None:
    model = get_peft_model(make_toy(), config(placement))
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(MergeRefused, match="non-linearity"):
            merge()


@each_placement
def test_a_half_precision_base_keeps_its_dtype_and_trains_the_adapter_in_full_precision(
    placement: str,
) -> None:
    batch = make_batch()
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    model = get_peft_model(make_toy().bfloat16(), config(placement))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    output = model(**batch)
    assert output.logits.dtype == torch.bfloat16
    output.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


def test_dropout_acts_in_training_only() -> None:
    model, batch = wide(get_peft_model(make_toy(), config(dropout=0.5))), make_batch()
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    model.eval()
    assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_adapters_on_blocks_and_on_their_linear_maps_are_refused_in_one_model() -> None:
    model = get_peft_model(make_toy(), config("paper_code"))
    with pytest.raises(ValueError, match="cannot share"):
        model.add_adapter("second", config("parallel"))
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size"),
        ({"non_linearity": "tahn"}, "non_linearity 'tahn'"),
        ({"init": "zero"}, "init must be"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(target_modules=["down_proj"], **fields)


def test_a_target_that_cannot_be_adapted_is_named() -> None:
    with pytest.raises(ValueError, match="down_proj"):
        get_peft_model(
            make_toy(), BottleneckConfig(target_modules=r".*language_model.*down_proj", parallel_modules=".*")
        )
    with pytest.raises(ValueError, match="takes an adapter beside it only"):
        get_peft_model(make_toy(), BottleneckConfig(target_modules=r".*language_model.*\.mlp"))
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(make_toy(), BottleneckConfig())


def test_peft_knows_the_method_as_it_knows_its_own() -> None:
    assert PeftType("BOTTLENECK") is PeftType["BOTTLENECK"] is PeftType.BOTTLENECK  # type: ignore[attr-defined]
    assert list(PeftType).count(PeftType("BOTTLENECK")) == 1


def test_a_saved_adapter_loads_in_a_new_process(tmp_path: Path) -> None:
    model = wide(get_peft_model(make_toy(), config()))
    model.save_pretrained(tmp_path)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import mmpeft.bottleneck\n"
        "from peft import PeftModel\n"
        "from toy import make_batch, make_toy\n"
        "from mmpeft.contract import logits\n"
        f"model = PeftModel.from_pretrained(make_toy(), {str(tmp_path)!r})\n"
        "print(logits(model, make_batch()).double().sum().item())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert float(printed) == logits(model, make_batch()).double().sum().item()
