"""Parsers, yes/no scores, CHAIR and McNemar's test against truth tables made by hand."""

import math

import numpy as np
import pytest

from mmpeft.errors import MmpeftError
from mmpeft.faithfulness import PARSERS, chair, judge_yes_no, mcnemar, mentions, ratio_scores

NAMES = {"dog": "dog", "puppy": "dog", "cat": "cat", "hot-dog": "hot-dog", "glass": "glass", "tree": "tree"}

READ = [
    # text, POPE, MME, lmms-eval
    ("yes", "yes", "yes", "yes"),
    ("no", "no", "no", "no"),
    (" Yes ", "yes", "yes", "yes"),
    ("Yes.", "yes", "yes", None),
    ("No, there is no dog.", "no", "no", None),
    ("There is no dog in the image.", "no", None, None),
    ("There isn't a dog.", "yes", None, None),
    ("It is not there", "no", None, None),
    ("Yes. But no cat.", "yes", "yes", None),
    ("nothing", "yes", "no", None),
    ("dog", "yes", None, None),
    ("", "yes", None, None),
    ("NO", "yes", "no", "no"),
]


@pytest.mark.parametrize(("text", "pope", "mme", "lmms"), READ)
def test_each_parser_reads_as_its_source_does(text: str, pope: str, mme: str | None, lmms: str | None) -> None:
    assert {name: parse(text) for name, parse in PARSERS.items()} == {"POPE": pope, "MME": mme, "lmms-eval": lmms}


def test_yes_no_scores_follow_from_the_table_of_four() -> None:
    # 3 hits, 1 miss, 1 false alarm, 2 right rejections, 1 unread positive, 1 unread negative
    read = ["yes", "yes", "yes", "no", "yes", "no", "no", None, None]
    answers = ["yes", "yes", "yes", "yes", "no", "no", "no", "yes", "no"]
    judged = judge_yes_no(read, answers)
    assert judged.accuracy == pytest.approx(5 / 9)
    assert judged.precision == pytest.approx(3 / 4)
    assert judged.recall == pytest.approx(3 / 5)
    assert judged.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert judged.yes_share == pytest.approx(4 / 9)
    assert judged.unparsed == pytest.approx(2 / 9)
    assert judged.num_questions == 9


def test_what_has_nothing_below_the_line_is_not_a_number() -> None:
    judged = judge_yes_no(["no", None], ["no", "no"])
    assert math.isnan(judged.precision) and math.isnan(judged.recall) and math.isnan(judged.f1)
    assert (judged.accuracy, judged.unparsed) == (0.5, 0.5)
    with pytest.raises(MmpeftError, match="each 'yes' or 'no'"):
        judge_yes_no(["yes"], ["maybe"])


@pytest.mark.parametrize(
    ("caption", "things", "right", "invented"),
    [
        ("a dog next to a cat", ["dog", "cat"], ("dog", "cat"), ()),
        ("a dog next to a cat", ["dog"], ("dog",), ("cat",)),
        ("A Dog, a dog.", ["cat"], (), ("dog", "dog")),
        ("a puppy", ["dog"], ("dog",), ()),
        ("2 dogs", ["dog"], ("dog",), ()),
        ("a glass", ["glass"], ("glass",), ()),
        ("a hot-dog", ["dog"], (), ("hot-dog",)),
        ("something red", ["dog"], (), ()),
        ("", ["dog"], (), ()),
        ("a dog", ["puppy"], ("dog",), ()),
    ],
)
def test_mentions_are_told_apart_from_inventions(
    caption: str, things: list[str], right: tuple[str, ...], invented: tuple[str, ...]
) -> None:
    found = mentions(caption, things, NAMES)
    assert (found.right, found.invented) == (right, invented)
    assert found.num_words == len(caption.split())


def test_chair_counts_mentions_captions_recall_and_words() -> None:
    captions = [("a dog and a cat", ["dog"]), ("a dog", ["dog", "cat"]), ("a tree and a tree", ["cat"]), ("red", ["dog"])]
    rates = chair([mentions(text, things, NAMES) for text, things in captions])
    assert rates.per_thing == pytest.approx(3 / 5)  # invented: cat, tree, tree; right: dog, dog
    assert rates.per_caption == pytest.approx(2 / 4)
    assert rates.recall == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert rates.num_words == pytest.approx((5 + 2 + 5 + 1) / 4)


def test_a_picture_without_things_does_not_count_in_the_recall() -> None:
    found = [mentions("a dog", ["dog", "cat"], NAMES), mentions("a dog", [], NAMES)]
    assert chair(found).recall == pytest.approx(0.5)
    assert chair(found).per_caption == pytest.approx(0.5)
    assert math.isnan(chair(found[1:]).recall)


def test_captions_that_name_nothing_have_no_rate_per_thing() -> None:
    assert math.isnan(chair([mentions("red", ["dog"], NAMES)]).per_thing)
    with pytest.raises(MmpeftError, match="at least one"):
        chair([])


def test_the_mean_of_ratio_scores_is_the_ratio_and_their_error_is_that_of_the_ratio() -> None:
    rng = np.random.default_rng(0)
    wholes = rng.integers(0, 5, 400).astype(float)
    parts = rng.binomial(wholes.astype(int), 0.3).astype(float)
    values = ratio_scores(parts, wholes)
    assert values.mean() == pytest.approx(parts.sum() / wholes.sum())
    draws = rng.integers(400, size=(4000, 400))
    bootstrapped = parts[draws].sum(axis=1) / wholes[draws].sum(axis=1)
    assert values.std() / 20 == pytest.approx(bootstrapped.std(), rel=0.05)
    assert not ratio_scores([0.0, 0.0], [0.0, 0.0]).any()


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (4, 1, 12 / 32), (1, 1, 1.0), (8, 2, 2 * (1 + 10 + 45) / 1024)],
)
def test_mcnemar_is_the_sign_test_on_what_differs(only_a: int, only_b: int, p: float) -> None:
    a = [True] * only_a + [False] * only_b + [True, False] * 3
    b = [False] * only_a + [True] * only_b + [True, False] * 3
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(p))
    with pytest.raises(MmpeftError, match="same ones"):
        mcnemar([True], [True, False])
