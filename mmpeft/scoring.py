"""One metric over a list of predictions, as a task scores them; the rules of single answers are in `metrics`.

The miniature tasks and the real datasets are scored by the same functions. An alternative rule never takes the place of the
score: it stands beside it under a name of its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import get_args

from mmpeft import metrics, ptb
from mmpeft.faithfulness import PARSERS, judge_yes_no, parse_beginning
from mmpeft.task import Example, Scored

Predictions = Sequence[str]

LETTERS = "ABCDE"


def vqa(examples: Sequence[Example], predictions: Predictions, also: Sequence[metrics.VqaVariant] = ("official",)) -> Scored:
    """VQA soft accuracy with both sides always normalized; an empty prediction is unparsed.

    Args:
        examples: Each with its annotators' answers.
        predictions: One an example.
        also: Other variants, under ``vqa_<variant>``.
    """
    assert set(also) <= set(get_args(metrics.VqaVariant))
    further = {f"vqa_{variant}": mean(_soft(examples, predictions, variant)) for variant in also}
    return _scored(_soft(examples, predictions, "default"), filled(predictions), further)


def _soft(examples: Sequence[Example], predictions: Predictions, variant: metrics.VqaVariant) -> list[float]:
    return [metrics.vqa_soft(p, e.answers, variant) for e, p in zip(examples, predictions, strict=True)]


def matched(examples: Sequence[Example], predictions: Predictions, match: Callable[[str, str], float]) -> Scored:
    """The share of predictions that match the answer; an empty prediction is unparsed."""
    per_item = [float(match(p, e.answer)) for e, p in zip(examples, predictions, strict=True)]
    return _scored(per_item, filled(predictions))


def letters(examples: Sequence[Example], predictions: Predictions) -> Scored:
    """Accuracy of the option's letter by LLaVA's ScienceQA rules; no readable letter is unparsed and wrong."""
    found = [metrics.scienceqa_letter(p, len(e.choices)) for e, p in zip(examples, predictions, strict=True)]
    right = [f is not None and LETTERS[f] == e.answers[0] for e, f in zip(examples, found, strict=True)]
    return _scored([float(one) for one in right], [f is not None for f in found])


def choices(examples: Sequence[Example], predictions: Predictions) -> Scored:
    """Accuracy of the choice that is named by text, letter or index; what names none is unparsed and wrong."""
    found = [metrics.iconqa_choice(p, e.choices) for e, p in zip(examples, predictions, strict=True)]
    right = [f is not None and e.choices[f] == e.answers[0] for e, f in zip(examples, found, strict=True)]
    return _scored([float(one) for one in right], [f is not None for f in found])


def captions(examples: Sequence[Example], predictions: Predictions, java: bool = False) -> Scored:
    """CIDEr-D with document frequencies from the evaluated references; an empty caption is unparsed.

    Args:
        examples: Each with its references.
        predictions: One an example.
        java: Whether to add ``cider_d_ptb``, the same with Stanford's own tokenizer, where this machine has it. The score
            itself always takes the regular expression, so that it does not depend on the machine.
    """
    references = [list(e.answers) for e in examples]
    mean_score, per_item = metrics.cider_d(list(predictions), references)
    further = {}
    if java and ptb.available():
        tokens = ptb.tokenize([*predictions, *(text for five in references for text in five)])
        further["cider_d_ptb"] = metrics.cider_d(list(predictions), references, tokens.__getitem__)[0]
    return Scored(float(mean_score), [float(v) for v in per_item], filled(predictions), further)


def yes_no(examples: Sequence[Example], predictions: Predictions, parsers: bool = False) -> Scored:
    """Accuracy of what the beginning of the answer says (MME's rule), and ``yes_share`` beside it.

    Args:
        examples: Each answered yes or no.
        predictions: One an example.
        parsers: Whether to add accuracy, precision, recall, F1 and share of yes under each of the three parsers, as
            ``<parser>_<rate>``; a rate that has nothing to divide by is left out.
    """
    answers = [e.answer for e in examples]
    read = [parse_beginning(p) for p in predictions]
    per_item = [float(one == answer) for one, answer in zip(read, answers, strict=True)]
    judged = judge_yes_no(read, answers)
    further = {"yes_share": judged.yes_share}
    if parsers:
        for name, parse in PARSERS.items():
            rates = judge_yes_no([parse(p) for p in predictions], answers)._asdict()
            further |= {
                f"{name.lower()}_{rate}": value
                for rate, value in rates.items()
                if rate in ("accuracy", "precision", "recall", "f1", "yes_share") and not math.isnan(value)
            }
    return Scored(judged.accuracy, per_item, [one is not None for one in read], further)


def answered(predictions: Predictions) -> Scored:
    """The share of predictions that say anything, and their length in words: no score where only a judge has one."""
    said = filled(predictions)
    return _scored([float(one) for one in said], said, {"num_words": mean([len(p.split()) for p in predictions])})


def filled(predictions: Predictions) -> list[bool]:
    """Whether each prediction says anything."""
    return [bool(p.strip()) for p in predictions]


def mean(values: Sequence[float]) -> float:
    """Their mean; 0 of none."""
    return sum(values) / max(1, len(values))


def _scored(per_item: list[float], parsed: list[bool], further: dict[str, float] | None = None) -> Scored:
    return Scored(mean(per_item), per_item, parsed, further or {})
