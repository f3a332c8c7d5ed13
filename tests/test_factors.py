"""A method and a connector, alone and together: the effects add up, and the sentences follow them."""

import re

import pytest
from made_results import asked, results_of

from mmpeft.spec import RunSpec
from mmpeft.study import comparison, factors
from mmpeft.study.comparison import Results

ASKED = asked("connector", columns=["ScienceQA", "OKVQA"])
ALONE = {"zero-shot": 0.0, "connector": 0.0, "lora": 0.3, "ia3": 0.02, "adapter": 0.2, "prefix": 0.1, "full": 0.4}


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "NUM_DRAWS", 400)
        yield patch


def results(shared: float, noise: float = 0.0) -> Results:
    """The connector brings 0.25; beside a method, that much less of it as they share."""

    def rule(spec: RunSpec) -> float:
        alone, tuned = ALONE[spec.method.name], spec.connector.tuned
        return 0.2 + alone + (0.25 - shared * (alone > 0) if tuned else 0.0)

    return results_of(ASKED, rule, noise=noise)


def test_the_effects_are_those_that_were_put_in_and_add_up() -> None:
    found = {name: factors.effect(results(0.1), "LoRA", name, "unseen") for name in factors.EFFECTS}
    means = {name: round(e.mean, 9) if e else None for name, e in found.items()}
    assert means == {
        "method alone": 0.3,
        "connector alone": 0.25,
        "both": 0.45,
        "connector beside the method": 0.15,
        "method beside the connector": 0.2,
        "more than the sum": -0.1,
    }


def test_the_one_run_of_the_base_stands_against_every_seed() -> None:
    e = factors.effect(results(0.0, noise=0.2), "LoRA", "both", "unseen")
    assert e is not None and e.num_seeds == 5


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (0.25, ["adds something of its own", "brings less beside LoRA"]),
        (0.0, ["adds something of its own", "as much beside LoRA as it does alone, within 2 points"]),
        (-0.1, ["adds something of its own", "brings more beside LoRA"]),
        (0.4, ["the connector does better by itself", "brings less beside LoRA"]),
        (0.305, ["So the method changes the score by less than 2 points.", "brings less beside LoRA"]),
    ],
)
def test_the_control_says_whose_the_gain_is(shared: float, words: list[str]) -> None:
    said = factors.control(results(shared, noise=0.02), "LoRA", "unseen")
    assert [word for word in words if word not in said] == []


def test_a_gain_that_is_the_connectors_alone_is_called_so() -> None:
    said = factors.control(results(0.02, noise=0.2), "(IA)³", "unseen")
    assert "may be the connector's alone" in said and "of what it scores with a frozen one" in said


def test_the_gain_as_a_share_is_that_of_the_averages_and_has_an_interval() -> None:
    said = factors.control(results(0.0), "LoRA", "unseen")  # from 0.5 to 0.75
    share = re.search(r", \+([\d.]+) % \(\+([\d.]+) to \+([\d.]+)\) of what it scores with a frozen one;", said)
    assert share is not None
    mean, low, high = (float(part) for part in share.groups())
    assert mean == 50 and 40 < low < 50 < high < 60


def test_tables_and_sentences_hold_every_method_once() -> None:
    found = results(0.1, noise=0.02)
    assert factors.labels(found) == ["Full fine-tuning", "LoRA", "(IA)³", "Adapter", "Prefix"]
    table = factors.effects_table(found, "seen")
    assert table.frame.index.tolist() == factors.labels(found) and "four times in five" in table.html
    assert "less than the sum of each alone for Full fine-tuning" in factors.sums(found, "unseen")
    assert factors.controls(found).count("\n- ") == 9


def test_without_the_control_nothing_is_claimed() -> None:
    found = results_of(ASKED, lambda spec: 0.5, keep=lambda spec: spec.method.name != "connector")
    assert "not known yet" in factors.control(found, "(IA)³", "unseen")
    assert "not known yet" in factors.sums(found, "unseen")
    assert factors.effects_table(found, "unseen").frame["both", "mean"].notna().all()
