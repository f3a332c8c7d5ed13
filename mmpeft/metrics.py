"""The official scoring rules of the eight columns, as pure functions of text.

Every score is a fraction 0–1, with one exception: CIDEr-D lives on its own 0–10 scale (papers print it times
100, so their "85" is 0.85 here) and can exceed 1. A parser returns ``None`` for text it cannot read, so that
a report can tell *unparsed* apart from *wrong*.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmpeft.errors import MmpeftError, unknown

# --------------------------------------------------------------------------------------------------
# VQA: normalization
# --------------------------------------------------------------------------------------------------

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset(("a", "an", "the"))
# The look-behind of the official pattern is mistyped, `(?!<=\d)`, and therefore always true: what remains is
# "a period that no digit follows". re.UNICODE (= 32) stands where `count` belongs, so at most 32 periods go.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
_OFFICIAL_COMMA = re.compile(r"\d,\d")
_EVALAI_COMMA = re.compile(r"(?<=\d),+(?=\d)")

# Contractions the official script puts an apostrophe back into: it lists each form with any one apostrophe
# missing. Left out because they never fire on lower-cased text or change nothing: I'd've, I'm, I've, let's,
# she's.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round


@lru_cache(maxsize=1 << 17)
def vqa_normalize(text: str) -> str:
    r"""The text as VQA's official script compares it: no punctuation, no articles, small numbers as digits.

    1. Newlines and tabs become spaces; the ends are stripped.
    2. Each of ``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` is deleted where the text holds it beside a space
       or holds digit-comma-digit, and replaced by a space otherwise (``t-shirt`` → ``t shirt``, ``1,000`` →
       ``1000``); then every period that no digit follows is deleted, at most 32 of them.
    3. Lower case; none, zero … ten → 0 … 10; a, an, the dropped; ``dont`` → ``don't``.

    Apostrophes, ``$ : & %`` stay. The quirks are the script's own.

    Source: ``processPunctuation`` and ``processDigitArticle`` of vqaEval.py, github.com/GT-Vision-Lab/VQA.
    """
    text = _spaces(text).strip()
    return _digits_and_articles(_strip_punctuation(text, _OFFICIAL_COMMA))


@lru_cache(maxsize=1 << 17)
def evalai_normalize(text: str) -> str:
    """The text as EvalAI, m4c and LLaVA compare it: lower case, no commas, ``'s`` apart, then VQA's rules.

    Differs from :func:`vqa_normalize` on possessives: ``St. John's`` → ``st john 's``, there ``st john's``.

    Source: ``EvalAIAnswerProcessor`` of m4c_evaluator.py, github.com/haotian-liu/LLaVA (from
    facebookresearch/mmf).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _digits_and_articles(_strip_punctuation(_spaces(text).strip(), _EVALAI_COMMA))


def _spaces(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ")


def _strip_punctuation(text: str, comma: re.Pattern[str]) -> str:
    number_with_comma = comma.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        if mark in text:
            delete = number_with_comma or f"{mark} " in text or f" {mark}" in text
            stripped = stripped.replace(mark, "" if delete else " ")
    return _PERIOD.sub("", stripped, count=_MAX_PERIODS)


def _digits_and_articles(text: str) -> str:
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


# --------------------------------------------------------------------------------------------------
# VQA: soft accuracy
# --------------------------------------------------------------------------------------------------

VqaVariant = Literal["default", "official", "evalai"]


def vqa_soft(prediction: str, answers: Sequence[str], variant: VqaVariant = "default") -> float:
    """VQA soft accuracy of one prediction, 0–1: how many of the ten annotators agree, each left out once.

    With n of N answers equal to the prediction, the mean over the N leave-one-out sets of min(1, matches / 3)
    is ``(n * min(1, (n - 1) / 3) + (N - n) * min(1, n / 3)) / N``: for N = 10 and n = 0, 1, 2, 3, ≥ 4 it is
    0, .3, .6, .9, 1.

    Args:
        prediction: What the model wrote.
        answers: The annotators' answers, usually ten; at least four, below which nothing can score 1.
        variant: ``default`` normalizes both sides with :func:`vqa_normalize` (as lmms-eval and VLMEvalKit
            do); ``official`` is VQA's own script, which compares both sides as written (line breaks and outer
            spaces apart) when all answers are identical, so "Yes." against ten "yes" scores 0; ``evalai``
            normalizes both sides with :func:`evalai_normalize` (as LLaVA does).

    Raises:
        MmpeftError: Fewer than four answers, or an unknown variant.

    Source: Goyal et al. 2017, arXiv:1612.00837; vqaEval.py, github.com/GT-Vision-Lab/VQA. Answers are left
    out by position; the script leaves them out by equality, which goes wrong without an ``answer_id``.
    """
    if len(answers) < 4:
        raise MmpeftError(
            f"answers: VQA soft accuracy needs at least 4 annotators, got {len(answers)}; below that even a "
            "right answer scores under 1. Repeat a single reference ten times."
        )
    normalize = _normalizer(variant, answers)
    wanted = normalize(prediction)
    matches = sum(normalize(answer) == wanted for answer in answers)
    others = len(answers) - matches
    return (matches * min(1.0, (matches - 1) / 3) + others * min(1.0, matches / 3)) / len(answers)


def _normalizer(variant: str, answers: Sequence[str]) -> Callable[[str], str]:
    if variant == "default":
        return vqa_normalize
    if variant == "evalai":
        return evalai_normalize
    if variant != "official":
        raise unknown("VQA variant", variant, ("default", "official", "evalai"))
    unanimous = len({_trimmed(answer) for answer in answers}) == 1
    return _trimmed if unanimous else vqa_normalize


def _trimmed(text: str) -> str:
    return _spaces(text).strip()


# --------------------------------------------------------------------------------------------------
# OCR-VQA, IconQA, ScienceQA
# --------------------------------------------------------------------------------------------------


def ocrvqa_match(prediction: str, answer: str) -> float:
    """1.0 when prediction and answer are equal without outer spaces and case, else 0.0.

    Nothing else is forgiven: a final period makes it wrong.

    Source: OCRVQA accuracy of VLMEvalKit; big_vision's OCR-VQA transfer.
    """
    return float(prediction.strip().lower() == answer.strip().lower())


def iconqa_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that a generated answer names, or None when it names none, or two.

    IconQA's own models are classifiers and its official accuracy compares indices; for generated text this
    project's rule is, first hit wins:

    1. *text*: equal to exactly one choice; then equal to exactly one without outer spaces, case, repeated
       spaces and a final period.
    2. *letter*: ``B``, ``b``, ``(B)``, ``B.``, ``B)``, ``B:``, alone or before more text (with one of the
       marks), unless that text names another choice. Not read when a choice is itself a single letter.
    3. *index*: ``0``-based as in IconQA's data files. Not read when a choice is itself an integer: "2" is
       then an answer, and a wrong one.

    Source: Lu et al. 2021, arXiv:2110.13214, for the task; the rule is ours, as no official one exists.
    """
    named = _named_choice(prediction, choices)
    if named is not None:
        return named
    folded = _folded(prediction)
    if not any(len(_folded(choice)) == 1 and choice.strip().isalpha() for choice in choices):
        label = re.fullmatch(r"\(?([a-z])(?:[.):]+(?:\s(.*))?)?", folded, re.DOTALL)
        if label is not None:
            index = ord(label[1]) - ord("a")
            rest = _named_choice(label[2] or "", choices)
            return index if index < len(choices) and rest in (None, index) else None
    if re.fullmatch(r"[0-9]+", folded) and not any(re.fullmatch(r"[+-]?[0-9]+", _folded(c)) for c in choices):
        return int(folded) if int(folded) < len(choices) else None
    return None


def _named_choice(text: str, choices: Sequence[str]) -> int | None:
    for fold in (str, _folded):
        hits = [index for index, choice in enumerate(choices) if fold(choice) == fold(text)]
        if len(hits) == 1:
            return hits[0]
    return None


def _folded(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def iconqa_blank_match(prediction: str, answer: str) -> float:
    """1.0 when the strings are equal, case included, without outer spaces, else 0.0.

    "five" is not "5" and "5." is not "5": the official rule is string equality (``str(ans) == str(label)``).

    Source: IconQA's fill-in-the-blank evaluation, github.com/lupantech/IconQA; outer spaces are forgiven
    because a tokenizer writes them.
    """
    return float(prediction.strip() == answer.strip())


_SCIENCEQA_OPTIONS = "ABCDE"


def scienceqa_letter(prediction: str, num_choices: int) -> int | None:
    """The index of the option that an answer names by LLaVA's ScienceQA rules, or None when they find none.

    After outer spaces are stripped, the first that holds decides:

    1. the whole text is one of ``A`` … ``E``;
    2. it begins with such a letter, a period and a space: ``B. because …``;
    3. the pattern ``The answer is ([A-Z]).`` occurs exactly once. Its period is unescaped, so any character
       will do, but there must be one: "The answer is B" at the very end is *not* read.

    Lower-case letters are not read; a letter beyond ``num_choices`` counts as unread (officially index -1).

    Raises:
        MmpeftError: ``num_choices`` outside 1–5, ScienceQA's range.

    Source: eval_science_qa.py, github.com/haotian-liu/LLaVA.
    """
    if not 1 <= num_choices <= len(_SCIENCEQA_OPTIONS):
        raise MmpeftError(f"num_choices: ScienceQA's rules know 1 to 5 options (A–E), got {num_choices}.")
    text = prediction.strip()
    if text and text in tuple(_SCIENCEQA_OPTIONS):
        letter = text
    elif text[:1] in tuple(_SCIENCEQA_OPTIONS) and text[1:3] == ". ":
        letter = text[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", text)
        letter = found[0] if len(found) == 1 else ""
    options = _SCIENCEQA_OPTIONS[:num_choices]
    return options.index(letter) if letter and letter in options else None


# --------------------------------------------------------------------------------------------------
# Captions: CIDEr-D
# --------------------------------------------------------------------------------------------------

_MAX_N = 4
_SIGMA = 6.0
_TYPOGRAPHY = str.maketrans(
    {"’": "'", "‘": " ", "“": " ", "”": " ", "–": " ", "—": " ", "…": " "}
    | {
        # The official list drops "-LRB-" and its kin, but the tokenizer has lower-cased them by then: they
        # count as words.
        "(": " -lrb- ",
        ")": " -rrb- ",
        "[": " -lsb- ",
        "]": " -rsb- ",
        "{": " -lcb- ",
        "}": " -rcb- ",
    }
)
_CLITIC = re.compile(r"(?<=[^\W_])(n't|'(?:s|m|d|re|ve|ll))(?![^\W_])")
_FUSED = re.compile(r"\b(can(?=not\b)|(?:gon|wan)(?=na\b)|gim(?=me\b))")
_TOKEN = re.compile(
    r"""
    -[lr][rsc]b-                                      # a bracket, as PTB writes it
    | (?:[^\W\d_]\.){2,}(?![^\W_])                    # u.s.  a.m.
    | (?:mr|mrs|ms|dr|st|jr|sr|prof|vs|etc)\.(?!\w)   # abbreviations keep their period
    | n't(?![^\W_]) | '(?:s|m|d|re|ve|ll)(?![^\W_])   # clitics
    | \d+(?:[.,:]\d+)+(?![^\W_])                      # 1,000  3.5  10:30
    | [^\W_]+(?:[-/&.'][^\W_]+)*                      # words: t-shirt, black/white, o'clock
    | [?!]{2,}                                        # only single marks are in the official drop list
    | [$%&\#*+=@~^|\\<>_]
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=1 << 16)
def cider_tokenize(caption: str) -> tuple[str, ...]:
    """The tokens of a caption, as Stanford's PTB tokenizer and the official punctuation list leave them.

    Lower case; clitics split (``isn't`` → ``is n't``, ``man's`` → ``man 's``); hyphenated words and numbers
    whole; quotes, dashes and ``. ? ! , : ;`` dropped; brackets kept as ``-lrb-`` and the like. The original
    needs Java; this regular expression differs from it on rare text (``rock'n'roll``, URLs, most
    abbreviations), so name the tokenizer beside a score and never mix two in one table.

    Source: ptbtokenizer.py, github.com/tylin/coco-caption, with stanford-corenlp 3.4.1 (-lowerCase).
    """
    text = caption.lower().translate(_TYPOGRAPHY)
    text = _CLITIC.sub(r" \1", _FUSED.sub(r"\1 ", text))
    return tuple(_TOKEN.findall(text))


def cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Callable[[str], tuple[str, ...]] = cider_tokenize,
) -> tuple[float, NDArray[np.float64]]:
    """Mean CIDEr-D of a set of captions, and each caption's own, on the 0–10 scale (0.85: papers print 85).

    With g(c) the tf-idf vector of a caption's n-grams (raw counts times ``log N - log max(1, df)``) and l its
    length::

        CIDEr-D_n(c, r) = exp(-(l(c) - l(r))² / (2 · 6²)) · Σ min(g(c), g(r)) · g(r) / (|g(c)| |g(r)|)
        CIDEr-D(c)      = 10 · mean over references of mean over n = 1…4 of CIDEr-D_n

    Quirks of the official code, kept: l counts *bigrams* (words - 1, at least 0); df is the number of the N
    evaluated pictures with the n-gram in some reference, so a score depends on the set it was computed with
    and must never be averaged over batches; one picture alone scores 0 (log 1); a caption under four words
    cannot reach 10 (an identical one of three words scores 7.5).

    Args:
        predictions: One caption for each of N pictures.
        references: The references of each picture, same order, at least one each.
        tokenize: Caption → tokens.

    Returns:
        The mean, and the N scores.

    Raises:
        MmpeftError: Nothing to score, lengths that differ, or a picture without references.

    Source: Vedantam et al. 2015, arXiv:1411.5726; cider_scorer.py, github.com/tylin/coco-caption.
    """
    if not predictions or len(predictions) != len(references):
        raise MmpeftError(
            "predictions: CIDEr-D needs one caption for each set of references, got "
            f"{len(predictions)} captions and {len(references)} sets."
        )
    bare = [index for index, refs in enumerate(references) if not refs or isinstance(refs, str)]
    if bare:
        raise MmpeftError(
            f"references: item {bare[0]} needs a list with at least one caption, got {references[bare[0]]!r}."
        )
    reference_ngrams = [[_ngrams(tokenize(caption)) for caption in refs] for refs in references]
    idf = _inverse_document_frequency(reference_ngrams)
    unseen = math.log(len(predictions))
    scores = np.array(
        [
            _caption_score(_ngrams(tokenize(prediction)), refs, idf, unseen)
            for prediction, refs in zip(predictions, reference_ngrams, strict=True)
        ]
    )
    return float(scores.mean()), scores


_Gram = tuple[str, ...]
_Ngrams = tuple[Counter[_Gram], ...]  # n = 1…4
_Vector = tuple[dict[_Gram, float], float]  # tf-idf weights and their norm


@lru_cache(maxsize=1 << 14)
def _ngrams(tokens: tuple[str, ...]) -> _Ngrams:
    """Counts of the n-grams of one caption, n = 1…4."""
    lengths = range(1, _MAX_N + 1)
    return tuple(Counter(tokens[i : i + n] for i in range(len(tokens) - n + 1)) for n in lengths)


def _inverse_document_frequency(references: list[list[_Ngrams]]) -> dict[_Gram, float]:
    frequency: Counter[_Gram] = Counter()
    for refs in references:
        frequency.update({gram for ngrams in refs for counts in ngrams for gram in counts})
    log_num_pictures = math.log(len(references))
    return {gram: log_num_pictures - math.log(count) for gram, count in frequency.items()}


def _caption_score(
    prediction: _Ngrams, references: list[_Ngrams], idf: dict[_Gram, float], unseen: float
) -> float:
    mine = _tf_idf(prediction, idf, unseen)
    total = 0.0
    for reference in references:
        length_difference = prediction[1].total() - reference[1].total()  # in bigrams
        theirs = _tf_idf(reference, idf, unseen)
        similarity = sum(map(_clipped_cosine, mine, theirs))
        total += math.exp(-(length_difference**2) / (2 * _SIGMA**2)) * similarity
    return 10 * total / (_MAX_N * len(references))


def _tf_idf(ngrams: _Ngrams, idf: dict[_Gram, float], unseen: float) -> list[_Vector]:
    weights = ({gram: count * idf.get(gram, unseen) for gram, count in counts.items()} for counts in ngrams)
    return [(vector, math.hypot(*vector.values())) for vector in weights]


def _clipped_cosine(mine: _Vector, theirs: _Vector) -> float:
    (my_weights, my_norm), (their_weights, their_norm) = mine, theirs
    if not my_norm or not their_norm:
        return 0.0
    shared = my_weights.keys() & their_weights.keys()
    overlap = sum(min(my_weights[gram], their_weights[gram]) * their_weights[gram] for gram in shared)
    return overlap / (my_norm * their_norm)
