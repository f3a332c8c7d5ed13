"""A broken promise fails the run, with an error that names the promise and the tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ENTRY, make_batch, make_toy

from mmpeft.attach import attach
from mmpeft.contract import ContractBroken, Watch, digests, logits, sha256
from mmpeft.methods import Adapter, Connector, Lora, Method, ZeroShot


def watched(method: Method, tuned: bool = False) -> tuple[Watch, Any]:
    """A watch and the model it has seen before and after attaching."""
    base = make_toy()
    watch = Watch(ENTRY, method, "both", tuned)
    watch.base(base, make_batch())
    return watch, attach(base, ENTRY, method, "both", tuned, seed=0)


def step(watch: Watch, model: Any, num_steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(num_steps):
        model(**make_batch()).loss.backward()
        watch.gradients()
        optimizer.step()
        optimizer.zero_grad()


def test_an_honest_run_returns_its_contract(tmp_path: Path) -> None:
    watch, model = watched(Lora(r=2), tuned=True)
    watch.before(model)
    step(watch, model)
    contract = watch.after(model, 2, make_toy, tmp_path)
    assert contract["trainable"] == {
        "language_model": contract["expected_trainable"]["method"],
        "connector": contract["expected_trainable"]["connector"],
        "vision_encoder": 0,
        "prompt": 0,
    }
    assert contract["start_delta_logits"] == contract["reload_delta_logits"] == 0.0
    assert set(contract["frozen_sha256"]) == {"language_model", "connector", "vision_encoder"}
    assert contract["adapter_bytes"] == (tmp_path / "adapter_model.safetensors").stat().st_size


def test_a_part_that_should_be_frozen_but_trains_is_named() -> None:
    watch, model = watched(Lora(r=2))
    model.get_submodule("base_model.model.model.vision_tower").requires_grad_(True)
    with pytest.raises(ContractBroken, match=r"tensors train that no part declares: .*vision_tower"):
        watch.before(model)


def test_a_method_that_trains_less_than_its_formula_is_named() -> None:
    watch, model = watched(Lora(r=2))
    next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
    with pytest.raises(ContractBroken, match=r"the method trains .* parameters, its formula says"):
        watch.before(model)


def test_a_connector_that_should_train_but_is_frozen_is_named() -> None:
    watch, model = watched(Connector())
    model.requires_grad_(False)
    with pytest.raises(ContractBroken, match="the connector trains 0 parameters, its formula says 1,600"):
        watch.before(model)


def test_a_start_away_from_the_base_is_named() -> None:
    watch, model = watched(Adapter(bottleneck_size=4, init="identity"))
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if ".up." in name).add_(0.1)
    with pytest.raises(ContractBroken, match="before the first step the logits differ"):
        watch.before(model)


def test_a_frozen_tensor_that_changed_is_named(tmp_path: Path) -> None:
    watch, model = watched(Lora(r=2))
    watch.before(model)
    step(watch, model)
    with torch.no_grad():
        model.get_submodule("base_model.model.lm_head").weight[0, 0] += 1e-6
    with pytest.raises(
        ContractBroken, match=r"frozen tensors changed: base_model\.model\.lm_head\.weight"
    ) as caught:
        watch.after(model, 2, make_toy, tmp_path)
    assert caught.value.contract["frozen_unchanged"] is False


def test_a_tensor_without_gradient_is_named_unless_the_run_was_too_short_to_tell(tmp_path: Path) -> None:
    watch, model = watched(Lora(r=2))
    watch.before(model)
    step(watch, model, num_steps=1)  # A has no gradient while B is zero
    assert watch.after(model, 1, make_toy, tmp_path)["gradients_judged"] is False
    with pytest.raises(ContractBroken, match=r"no gradient ever reached .*lora_A.* and \d+ more"):
        watch.after(model, 2, make_toy, tmp_path)


def test_an_adapter_that_reloads_as_something_else_is_named(tmp_path: Path) -> None:
    watch, model = watched(Lora(r=2))
    watch.before(model)
    step(watch, model)
    with pytest.raises(ContractBroken, match="loaded on a fresh base, gives logits that differ"):
        watch.after(model, 2, lambda: make_toy(seed=9), tmp_path)


def test_a_zero_shot_run_changes_nothing_and_saves_an_empty_adapter(tmp_path: Path) -> None:
    watch, model = watched(ZeroShot())
    watch.before(model)
    contract = watch.after(model, 0, make_toy, tmp_path)
    assert sum(contract["trainable"].values()) == 0
    assert contract["adapter_bytes"] < 200


def test_a_digest_tells_bytes_apart_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        one = torch.arange(6, dtype=dtype).reshape(2, 3)
        assert sha256(one) == sha256(one.clone()) != sha256(one + 1)
        assert sha256(one.T) == sha256(one.T.contiguous())
    assert len(sha256(torch.tensor(1.0))) == 64


def test_batch_statistics_are_frozen_tensors_too() -> None:
    model = torch.nn.BatchNorm1d(3).requires_grad_(False)
    before = digests(model)
    model(torch.randn(4, 3))
    assert digests(model)["running_mean"] != before["running_mean"]


def test_looking_at_logits_leaves_each_module_in_its_mode() -> None:
    model = make_toy().train()
    model.get_submodule("model.vision_tower").eval()
    modes = [module.training for module in model.modules()]
    logits(model, make_batch())
    assert [module.training for module in model.modules()] == modes
