"""RunSpec: what is refused, how it is said, and ids that last."""

from copy import deepcopy
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS, Connector, Lora
from mmpeft.spec import ConnectorSpec, EvalSpec, RunSpec, TrainSpec, run_id

LORA: dict[str, Any] = {
    "model": "toy",
    "task": "mini-vqav2",
    "method": {"name": "lora", "r": 4},
    "connector": {"tuned": True, "learning_rate": 2.0e-4},
    "train": {"num_steps": 3, "learning_rate": 1.0e-3},
    "seed": 1,
}


RELEASED = {
    "zero-shot": "5c636735ec8f",
    "connector": "c2e9becb4720",
    "full": "6ecf942c5727",
    "lora": "d2602900c631",
    "ia3": "b2029bffa048",
    "adapter": "0ae76e0f7ace",
    "prefix": "ae82dad0d9eb",
}


def changed(**changes: Any) -> dict[str, Any]:
    """The LoRA run with some fields replaced; ``a__b`` reaches inside, None removes."""
    fields = deepcopy(LORA)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = fields
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if value is None:
            inner.pop(last)
        else:
            inner[last] = value
    return fields


def simplest(method: str) -> RunSpec:
    """A valid run of any method, with as little said as possible."""
    kind, fields = METHODS[method], {"model": "toy", "task": "mini-vqav2", "method": {"name": method}}
    if not kind.trains:
        return RunSpec.from_dict(fields)
    rate = {"learning_rate": 0.001}
    if kind.tunes_connector:
        return RunSpec.from_dict({**fields, "connector": rate, "train": {"num_steps": 1}})
    return RunSpec.from_dict({**fields, "train": {"num_steps": 1, **rate}})


def identify(spec: RunSpec, task_version: int = 1, fingerprint: str = "f") -> str:
    return run_id(spec, task_version=task_version, fingerprint=fingerprint)


class LaterTrainSpec(TrainSpec):
    """What TrainSpec may be next year."""

    beta2: float = 0.999


class LaterRunSpec(RunSpec):
    """What RunSpec may be next year."""

    train: LaterTrainSpec = LaterTrainSpec()
    merged: bool = False


def test_an_id_is_12_hex_digits_and_does_not_depend_on_the_order_of_keys() -> None:
    turned = {name: LORA[name] for name in reversed(LORA)}
    turned["train"] = dict(reversed(LORA["train"].items()))
    assert identify(RunSpec.from_dict(turned)) == identify(RunSpec.from_dict(LORA))
    assert len(identify(RunSpec.from_dict(LORA))) == 12
    assert int(identify(RunSpec.from_dict(LORA)), 16) >= 0


def test_fields_added_later_with_the_old_behavior_as_default_keep_every_id() -> None:
    assert identify(LaterRunSpec.from_dict(LORA)) == identify(RunSpec.from_dict(LORA))
    assert identify(LaterRunSpec.from_dict(changed(train__beta2=0.95))) != identify(RunSpec.from_dict(LORA))


def test_a_default_said_aloud_is_the_same_run() -> None:
    said = changed(location="both", train__batch_size=16, eval__split="test", method__lora_alpha=32)
    assert identify(RunSpec.from_dict(said)) == identify(RunSpec.from_dict(LORA))


def test_a_whole_number_where_a_fraction_is_meant_is_the_same_run() -> None:
    whole = changed(train__num_steps=None, train__num_epochs=3)
    fraction = changed(train__num_steps=None, train__num_epochs=3.0)
    assert identify(RunSpec.from_dict(whole)) == identify(RunSpec.from_dict(fraction))


def test_an_id_changes_with_every_setting_the_task_version_and_the_base() -> None:
    variations = [
        changed(model="tiny-llava"),
        changed(task="mini-okvqa"),
        changed(method__r=8),
        changed(location="mlp"),
        changed(connector__learning_rate=1.0e-4),
        changed(train__max_length=128),
        changed(eval__split="dev"),
        changed(seed=2),
        changed(track__every_epochs=1),
    ]
    ids = {identify(RunSpec.from_dict(fields)) for fields in [LORA, *variations]}
    ids |= {
        identify(RunSpec.from_dict(LORA), task_version=2),
        identify(RunSpec.from_dict(LORA), fingerprint="g"),
    }
    assert len(ids) == len(variations) + 3


def test_released_ids_stay_as_they_are() -> None:
    """If this fails, a released default has changed: every committed record would lose its run."""
    assert {name: identify(simplest(name)) for name in METHODS} == RELEASED


def test_the_canonical_form_holds_what_is_not_default_and_the_methods_name() -> None:
    assert RunSpec.from_dict(LORA).canonical() == LORA
    assert simplest("zero-shot").canonical() == {
        "model": "toy",
        "task": "mini-vqav2",
        "method": {"name": "zero-shot"},
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_spec_written_out_in_full_reads_back_as_itself(method: str) -> None:
    spec = simplest(method)
    assert RunSpec.from_dict(spec.model_dump()) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json(), strict=True) == spec


def test_a_spec_can_be_built_from_its_parts() -> None:
    built = RunSpec(
        model="toy",
        task="mini-vqav2",
        method=Lora(r=4),
        connector=ConnectorSpec(tuned=True, learning_rate=2.0e-4),
        train=TrainSpec(num_steps=3, learning_rate=1.0e-3),
        eval=EvalSpec(),
        seed=1,
    )
    assert built == RunSpec.from_dict(LORA)


def test_the_connector_method_tunes_the_connector_without_being_told() -> None:
    assert simplest("connector").connector.tuned
    with pytest.raises(ValidationError, match="set it to true"):
        RunSpec(
            model="toy",
            task="mini-vqav2",
            method=Connector(),
            connector=ConnectorSpec(tuned=False),
            train=TrainSpec(num_steps=1),
        )


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunSpec.from_dict(LORA).seed = 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            changed(train__lerning_rate=0.1),
            ["train", "'lerning_rate'", "Did you mean 'learning_rate'?", "num_steps"],
        ),
        (changed(sead=1), ["'sead'", "Did you mean 'seed'?"]),
        (changed(method__rank=4), ["method", "'rank'", "lora_alpha"]),
        (changed(method__name="lorra"), ["method 'lorra'", "Did you mean 'lora'?", "prefix"]),
        (changed(method__name=None), ["method.name", "missing", "lora"]),
        (changed(method="lora"), ["method", "'name: value'", "'lora'"]),
        (changed(task=None), ["task", "missing"]),
        (changed(location="attn"), ["location 'attn'", "attention, both, mlp"]),
        (changed(eval__split="tets"), ["eval.split 'tets'", "Did you mean 'test'?"]),
        (changed(method__r="4"), ["method.r", "text"]),
        (changed(method__r=4.5), ["method.r", "valid integer", "4.5"]),
        (changed(train__batch_size=0), ["train.batch_size", "greater than 0"]),
        (changed(train__learning_rate=float("nan")), ["train.learning_rate", "finite"]),
        (changed(train__learning_rate=None), ["train.learning_rate", "'lora' needs one"]),
        (changed(train__num_epochs=1), ["train.num_epochs", "train.num_steps", "exactly one"]),
        (changed(train__num_steps=None), ["train.num_epochs", "train.num_steps", "exactly one"]),
        (changed(connector__learning_rate=None), ["connector.learning_rate", "needs one"]),
        (changed(connector__tuned=False), ["connector.learning_rate", "frozen"]),
        (changed(method={"name": "prefix"}, location="mlp"), ["location", "'prefix'", "remove 'mlp'"]),
        (changed(method={"name": "zero-shot"}), ["connector.tuned", "'zero-shot' trains nothing"]),
        (
            changed(method={"name": "zero-shot"}, connector=None),
            ["train.num_steps, train.learning_rate, seed", "trains nothing", "remove"],
        ),
        (
            changed(method={"name": "connector"}),
            ["train.learning_rate", "connector.learning_rate", "remove it"],
        ),
    ],
)
def test_a_mistake_is_named_with_its_field_and_its_remedy(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MmpeftError) as caught:
        RunSpec.from_dict(fields)
    assert [word for word in words if word not in str(caught.value)] == []


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(MmpeftError) as caught:
        RunSpec.from_dict(changed(sead=1, train__batch_size=0, method__r="4"))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("written", ["1e-4", "5E-4", "1e4", "2.5e3", "1"])
def test_a_number_that_yaml_reads_as_text_is_explained_and_the_advice_works(written: str) -> None:
    rate = written if isinstance(yaml.safe_load(written), str) else f"'{written}'"
    with pytest.raises(MmpeftError, match=r"^train\.learning_rate: .* is text.* write ") as caught:
        RunSpec.from_dict(changed(train__learning_rate=yaml.safe_load(rate)))
    advice = str(caught.value).split("write ")[1].split()[0].rstrip(".")
    mended = RunSpec.from_dict(changed(train__learning_rate=yaml.safe_load(advice)))
    assert mended.train.learning_rate == float(written)


def test_how_a_run_is_computed_leaves_the_old_ids_alone() -> None:
    """Ids are of the fields that differ from their defaults; the defaults of these are what was always done."""
    spec = RunSpec.from_dict(
        {"model": "toy", "task": "mini-vqav2", "method": {"name": "lora"}, "train": {"num_steps": 3, "learning_rate": 0.1}}
    )
    assert spec.canonical()["train"] == {"num_steps": 3, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("method", "train", "words"),
    [
        ("prefix", {"gradient_checkpointing": True}, r"train\.gradient_checkpointing: 'prefix' cannot"),
        ("lora", {"gradient_accumulation_steps": 3}, r"train\.gradient_accumulation_steps: 3 do not divide a batch of 16"),
        ("lora", {"attention_implementation": "flash"}, r"attention_implementation.*Did you mean|unknown"),
    ],
)
def test_what_cannot_be_computed_is_refused(method: str, train: dict[str, Any], words: str) -> None:
    fields = {"model": "toy", "task": "mini-vqav2", "method": {"name": method}}
    with pytest.raises(MmpeftError, match=words):
        RunSpec.from_dict({**fields, "train": {"num_steps": 3, "learning_rate": 0.1, **train}})
