"""Does a model say what is there? Yes/no questions under three parsers, and captions against a list of things.

    POPE    «is there a dog in the image?»    accuracy, precision, recall, F1, how often it says yes
    CHAIR   «a dog next to a cat»             which of the things it names are not in the picture

Pure functions of text. Every rate is a fraction 0–1 and comes with one value an example, so that paired tests apply.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmpeft.errors import MmpeftError

# --------------------------------------------------------------------------------------------------
# Yes or no
# --------------------------------------------------------------------------------------------------


def parse_pope(text: str) -> str:
    """POPE's own rule: ``no`` if the first sentence holds the word No, no or not, else ``yes``, whatever it says.

    It reads every text: an empty answer is a yes, and so is «there isn't one».

    Source: evaluate.py of github.com/RUCAIBox/POPE (Li et al. 2023, arXiv:2305.10355), which LLaVA's eval_pope.py repeats.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def parse_beginning(text: str) -> str | None:
    """MME's rule: what the first four characters hold in lower case, first ``yes``, then ``no``; None if neither.

    «Yes, it is» and «no.» are read, «there is none» is not; «none» and «nothing» are read as no.

    Source: parse_pred_ans of MME's calculation.py (Fu et al. 2023, arXiv:2306.13394).
    """
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def parse_exact(text: str) -> str | None:
    """lmms-eval's rule: the answer is ``yes`` or ``no`` but for outer spaces and case, else None.

    «Yes.» is not read.

    Source: pope_process_results of lmms-eval's POPE task (Zhang et al. 2024, arXiv:2407.12772).
    """
    word = text.lower().strip()
    return word if word in ("yes", "no") else None


PARSERS: dict[str, Callable[[str], str | None]] = {"POPE": parse_pope, "MME": parse_beginning, "lmms-eval": parse_exact}
"""The rules by the name of the benchmark code they come from, from the most forgiving to the strictest."""


class YesNo(NamedTuple):
    """How yes/no questions were answered; the positive class is yes.

    Attributes:
        accuracy: Share of right answers; an unread one is not right.
        precision: Of the answers read as yes, the share that should be; nan if there is none.
        recall: Of the questions to be answered yes, the share that was; nan if there is none.
        f1: 2 TP / (2 TP + FP + FN), an unread answer to such a question counted as FN; nan if all three are 0.
        yes_share: Share of all answers read as yes.
        unparsed: Share of all answers that could not be read.
        num_questions: All of them.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_share: float
    unparsed: float
    num_questions: int


def judge_yes_no(read: Sequence[str | None], answers: Sequence[str]) -> YesNo:
    """The scores of answers that a parser has read.

    Args:
        read: ``yes``, ``no`` or None for each question.
        answers: ``yes`` or ``no``.

    Raises:
        MmpeftError: No question, or another right answer than yes and no.
    """
    if not answers or not set(answers) <= {"yes", "no"}:
        raise MmpeftError(f"answers: need at least one, each 'yes' or 'no'; got {sorted(set(answers))}.")
    pairs = list(zip(read, answers, strict=True))
    hits, false_alarms = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    positives = sum(answer == "yes" for answer in answers)
    said, count = hits + false_alarms, len(pairs)
    return YesNo(
        accuracy=sum(one == answer for one, answer in pairs) / count,
        precision=_ratio(hits, said),
        recall=_ratio(hits, positives),
        f1=_ratio(2 * hits, said + positives),
        yes_share=said / count,
        unparsed=sum(one is None for one in read) / count,
        num_questions=count,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


# --------------------------------------------------------------------------------------------------
# Captions
# --------------------------------------------------------------------------------------------------


class Mentions(NamedTuple):
    """What one caption names.

    Attributes:
        right: Mentions of things that are in the picture, in order.
        invented: Mentions of things that are not.
        num_things: How many different things are in the picture.
        num_words: Length of the caption.
    """

    right: tuple[str, ...]
    invented: tuple[str, ...]
    num_things: int
    num_words: int

    @property
    def num_mentions(self) -> int:
        """How often it names a thing at all."""
        return len(self.right) + len(self.invented)

    @property
    def recall(self) -> float:
        """The share of the things in the picture that it names; nan if there is none."""
        return _ratio(len(set(self.right)), self.num_things)


class Word(NamedTuple):
    """One word of a caption, or the several words of one name.

    Attributes:
        text: As it stands there.
        thing: What it names; None for a word that names no thing.
        invented: Whether that is not in the picture.
    """

    text: str
    thing: str | None
    invented: bool


def words_of(caption: str, things: Collection[str], names: Mapping[str, str]) -> list[Word]:
    """The words of a caption, and whether what they name is there; see :func:`mentions`.

    Where ``names`` has names of several words the longest that fits is taken: a «hot dog» is no dog.
    """
    there = {names.get(thing, thing) for thing in things}
    texts = caption.split()
    words = [text.lower().strip('.,:;!?"()') for text in texts]
    longest = max((name.count(" ") for name in names), default=0) + 1
    found, start = [], 0
    while start < len(texts):
        runs = ((size, " ".join(words[start : start + size])) for size in range(min(longest, len(texts) - start), 0, -1))
        named = ((size, names.get(run) or names.get(run.removesuffix("s"))) for size, run in runs)
        size, thing = next(((size, thing) for size, thing in named if thing), (1, None))
        text = " ".join(texts[start : start + size])
        found.append(Word(text, thing, thing is not None and thing not in there))
        start += size
    return found


def mentions(caption: str, things: Collection[str], names: Mapping[str, str]) -> Mentions:
    """What a caption names, and whether it is there.

    Every mention counts, as in the official code: «a dog and a dog» has two. A word that is not in ``names`` is looked up
    again without a final s. Words outside ``names`` (colors, positions, kinds of things) are not judged.

    Args:
        caption: The text.
        things: What is in the picture, by the names that ``names`` gives.
        names: Words → the thing they name, lower case; several words may name one thing.

    Source: Rohrbach et al. 2018, arXiv:1809.02156; chair.py of github.com/LisaAnne/Hallucination.
    """
    words = words_of(caption, things, names)
    right = tuple(word.thing for word in words if word.thing and not word.invented)
    invented = tuple(word.thing for word in words if word.thing and word.invented)
    return Mentions(right, invented, len({names.get(thing, thing) for thing in things}), len(caption.split()))


class Chair(NamedTuple):
    """How much a set of captions invents.

    Attributes:
        per_thing: CHAIR_i, of all mentions of things the share that is invented; nan without a mention.
        per_caption: CHAIR_s, the share of captions that invent at least one.
        recall: Mean share of a picture's things that its caption names, over the pictures that have any; nan if none has.
        num_words: Mean length of a caption.
    """

    per_thing: float
    per_caption: float
    recall: float
    num_words: float


def chair(found: Sequence[Mentions]) -> Chair:
    """The rates over captions, from what each of them names.

    Raises:
        MmpeftError: No caption.
    """
    if not found:
        raise MmpeftError("captions: CHAIR needs at least one.")
    invented = sum(len(one.invented) for one in found)
    recalls = [one.recall for one in found if one.num_things]
    return Chair(
        per_thing=_ratio(invented, sum(one.num_mentions for one in found)),
        per_caption=sum(bool(one.invented) for one in found) / len(found),
        recall=_ratio(sum(recalls), len(recalls)),
        num_words=sum(one.num_words for one in found) / len(found),
    )


# --------------------------------------------------------------------------------------------------
# Tests
# --------------------------------------------------------------------------------------------------


def ratio_scores(parts: ArrayLike, wholes: ArrayLike) -> NDArray[np.float64]:
    """One value an item whose mean is Σ parts / Σ wholes, so that the bootstrap of a mean serves a ratio of sums.

    With R that ratio, R + (part − R · whole) / mean(whole): what each item adds to the ratio to first order. Where nothing
    stands below the line every value is 0.

    Args:
        parts: For example invented mentions, any shape.
        wholes: For example all mentions, of the same shape.

    Source: Cochran 1977, Sampling Techniques, ch. 6 (the variance of a ratio).
    """
    part, whole = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    if not whole.sum():
        return np.zeros_like(part)
    ratio = part.sum() / whole.sum()
    values: NDArray[np.float64] = ratio + (part - ratio * whole) / whole.mean()
    return values


class McNemar(NamedTuple):
    """Two models on the same items.

    Attributes:
        only_a: Items where the first alone has the property.
        only_b: Items where the second alone has it.
        p: Two-sided probability of a split at least as uneven if both were alike.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's exact test of two models on the same items: the sign test on the items where they differ.

    Args:
        a: (I,) whether each item has the property under the first model.
        b: (I,) the same under the second.

    Raises:
        MmpeftError: Not the same number of items.

    Source: McNemar 1947, doi:10.1007/BF02295996; exact by the binomial distribution.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise MmpeftError(f"items: the two models need the same ones, got {first.shape} and {second.shape}.")
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_a + only_b
    p = float(stats.binomtest(only_a, differing, 0.5).pvalue) if differing else 1.0
    return McNemar(only_a, only_b, p)
