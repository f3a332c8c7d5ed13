"""Hand-done truth tables for every metric; CIDEr-D figures so marked come from the official scorer."""

import math

import numpy as np
import pytest

from mmpeft import metrics
from mmpeft.errors import MmpeftError

# --------------------------------------------------------------------------------------------------
# VQA
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Yes.", "yes"),
        ("t-shirt", "t shirt"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("TEN", "10"),
        ("black/white", "black white"),
        ("black /white", "black white"),
        ("The cat and a dog", "cat and dog"),
        ("dont know", "don't know"),
        ("oclock", "o'clock"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("St. John's", "st john's"),
        (" new\nline\tand tab ", "new line and tab"),
        ("$5 & 50% at 10:30", "$5 & 50% at 10:30"),
        # digit-comma-digit anywhere switches every mark from "becomes a space" to "disappears"
        ("1,000 t-shirts", "1000 tshirts"),
        # so does the mark standing beside a space, for all its occurrences
        ("a-b -c", "ab c"),
        # an upper-case contraction key of the official table can never match lower-cased text
        ("Ive", "ive"),
        ("?", ""),
        ("the", ""),
        ("", ""),
    ],
)
def test_vqa_normalize_follows_the_official_script(text, normalized):
    assert metrics.vqa_normalize(text) == normalized


def test_at_most_32_periods_are_deleted_as_the_official_script_passes_a_flag_as_count():
    assert metrics.vqa_normalize("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("St. John's", "st john 's"),
        ("Yes, sir?", "yes sir"),
        ("1,000 t-shirts", "1000 t shirts"),
        ("Two DOGS.", "2 dogs"),
        ("dont", "don't"),
    ],
)
def test_evalai_normalize_splits_possessives_and_drops_commas_first(text, normalized):
    assert metrics.evalai_normalize(text) == normalized


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
@pytest.mark.parametrize("variant", ["default", "official", "evalai"])
def test_vqa_soft_leaves_each_annotator_out_once(matches, score, variant):
    answers = ["yes"] * matches + [f"other {n}" for n in range(10 - matches)]
    assert metrics.vqa_soft("yes", answers, variant) == pytest.approx(score)


@pytest.mark.parametrize("num_answers", [4, 5, 10])
def test_vqa_soft_equals_the_leave_one_out_mean_by_brute_force(num_answers):
    for matches in range(num_answers + 1):
        answers = ["cat"] * matches + ["dog"] * (num_answers - matches)
        left_out = [answers[:i] + answers[i + 1 :] for i in range(num_answers)]
        expected = np.mean([min(1, rest.count("cat") / 3) for rest in left_out])
        assert metrics.vqa_soft("cat", answers) == pytest.approx(expected)


def test_official_vqa_skips_normalization_of_both_sides_when_all_answers_are_identical():
    for prediction in ("Yes.", "Yes", "yes."):
        assert metrics.vqa_soft(prediction, ["yes"] * 10) == 1.0
        assert metrics.vqa_soft(prediction, ["yes"] * 10, "official") == 0.0
    assert metrics.vqa_soft(" yes\n", ["yes"] * 10, "official") == 1.0
    assert metrics.vqa_soft("2", ["two"] * 10, "official") == 0.0
    assert metrics.vqa_soft("two", ["two"] * 10, "official") == 1.0


def test_official_vqa_normalizes_as_soon_as_one_answer_differs():
    assert metrics.vqa_soft("Yes.", ["yes"] * 9 + ["no"], "official") == 1.0
    assert metrics.vqa_soft("Yes.", ["yes"] * 9 + ["Yes"], "official") == 1.0


def test_vqa_soft_refuses_too_few_annotators_and_unknown_variants():
    with pytest.raises(MmpeftError, match="at least 4 annotators, got 1"):
        metrics.vqa_soft("yes", ["yes"])
    with pytest.raises(MmpeftError, match="Did you mean 'official'"):
        metrics.vqa_soft("yes", ["yes"] * 10, "oficial")


def test_nonsense_scores_zero_in_every_vqa_variant():
    for variant in ("default", "official", "evalai"):
        assert metrics.vqa_soft("qwertz uiop", ["yes"] * 6 + ["no"] * 4, variant) == 0.0
        assert metrics.vqa_soft("", ["yes"] * 6 + ["no"] * 4, variant) == 0.0


# --------------------------------------------------------------------------------------------------
# OCR-VQA, IconQA, ScienceQA
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("The Hobbit", "the hobbit", 1.0),
        (" Comics ", "Comics", 1.0),
        ("Comics.", "Comics", 0.0),
        ("Comic", "Comics", 0.0),
        ("", "Comics", 0.0),
    ],
)
def test_ocrvqa_forgives_case_and_outer_spaces_alone(prediction, answer, score):
    assert metrics.ocrvqa_match(prediction, answer) == score


@pytest.mark.parametrize(
    ("prediction", "choices", "index"),
    [
        ("square", ("circle", "square"), 1),
        (" Square. ", ("circle", "square"), 1),
        ("red  ball", ("red ball", "ball"), 0),
        ("B", ("circle", "square"), 1),
        ("b", ("circle", "square"), 1),
        ("(B)", ("circle", "square"), 1),
        ("B. square", ("circle", "square"), 1),
        ("b) the square one", ("circle", "square"), 1),
        ("B. circle", ("circle", "square"), None),
        ("C", ("circle", "square"), None),
        ("1", ("circle", "square"), 1),
        ("2", ("circle", "square"), None),
        # numbers among the choices: a number is an answer, never an index
        ("5", ("3", "5", "8"), 1),
        ("2", ("3", "5", "8"), None),
        # letters among the choices: a letter is an answer, never a label
        ("B", ("b", "a"), 0),
        ("C", ("b", "a", "x"), None),
        # case decides where it must
        ("A", ("a", "A"), 1),
        ("A.", ("a", "A"), None),
        ("same", ("same", "same"), None),
        ("circle or square", ("circle", "square"), None),
        ("triangle", ("circle", "square"), None),
        ("e.g. this", ("v", "w", "x", "y", "z"), None),
        ("", ("circle", "square"), None),
        ("qwertz uiop", ("circle", "square"), None),
    ],
)
def test_iconqa_choice_reads_text_then_letter_then_index(prediction, choices, index):
    assert metrics.iconqa_choice(prediction, choices) == index


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("5", "5", 1.0),
        (" 5\n", "5", 1.0),
        ("5.", "5", 0.0),
        ("five", "5", 0.0),
        ("A", "a", 0.0),
        ("", "5", 0.0),
    ],
)
def test_iconqa_blank_is_string_equality(prediction, answer, score):
    assert metrics.iconqa_blank_match(prediction, answer) == score


@pytest.mark.parametrize(
    ("prediction", "num_choices", "index"),
    [
        ("A", 4, 0),
        (" D\n", 4, 3),
        ("B. because it is warm", 4, 1),
        ("B. ", 4, None),  # stripped to "B.", which is neither a letter nor letter-period-space
        ("B.", 4, None),
        ("B) warm", 4, None),
        ("The answer is C.", 4, 2),
        ("So warm. The answer is C. Done", 4, 2),
        ("The answer is C, as said", 4, 2),
        ("The answer is C", 4, None),
        ("The answer is A. The answer is B.", 4, None),
        ("The answer is Z.", 4, None),
        ("the answer is C.", 4, None),
        ("a", 4, None),
        ("E", 4, None),
        ("E", 5, 4),
        ("D. no", 3, None),
        ("AB", 4, None),
        ("", 4, None),
        ("qwertz uiop", 4, None),
    ],
)
def test_scienceqa_letter_follows_llava(prediction, num_choices, index):
    assert metrics.scienceqa_letter(prediction, num_choices) == index


def test_scienceqa_refuses_more_options_than_letters():
    with pytest.raises(MmpeftError, match="num_choices"):
        metrics.scienceqa_letter("A", 6)


# --------------------------------------------------------------------------------------------------
# CIDEr-D
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        # all but the last three as Stanford's tokenizer and the official punctuation list leave them
        ("A man's t-shirt isn't red; it's black/white.", "a man 's t-shirt is n't red it 's black/white"),
        ("Two dogs -- one brown, can't wait...", "two dogs one brown ca n't wait"),
        ('"Hello," she said: \'yes\'!', "hello she said yes"),
        ("1,000 people, 3.5 miles at 10:30 a.m.", "1,000 people 3.5 miles at 10:30 a.m."),
        ("in the U.S. for $5", "in the u.s. for $ 5"),
        ("a cat (sitting) [on] mat ,next", "a cat -lrb- sitting -rrb- -lsb- on -rsb- mat next"),
        ("I cannot go, we've won", "i can not go we 've won"),
        ("“quoted” it’s an em—dash…", "quoted it 's an em dash"),
        ("dogs' ball o'clock", "dogs ball o'clock"),
        ("wow!! what?", "wow !! what"),
        ("one,two three;four", "one two three four"),
        ("half- naïve\n50%", "half naïve 50 %"),
        ("...", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_cider_tokenize_splits_as_the_official_tokenizer(caption, tokens):
    assert metrics.cider_tokenize(caption) == tuple(tokens.split())


OTHERS = ["zebra yak xylophone wolf viper", "umbrella tiger sun rabbit quail"]


@pytest.mark.parametrize(("num_words", "score"), [(1, 2.5), (2, 5.0), (3, 7.5), (4, 10.0), (5, 10.0)])
def test_an_identical_caption_scores_one_quarter_for_each_ngram_length_it_has(num_words, score):
    caption = " ".join(["apple", "bear", "cat", "dog", "egg"][:num_words])
    mean, scores = metrics.cider_d([caption, *OTHERS], [[caption], *([other] for other in OTHERS)])
    assert scores == pytest.approx([score, 10, 10])
    assert mean == pytest.approx(scores.mean())


def test_one_picture_alone_scores_zero_as_every_ngram_is_in_every_document():
    assert metrics.cider_d(["a cat on a mat"], [["a cat on a mat"]])[0] == 0.0


def test_document_frequency_comes_from_the_evaluated_set_so_batches_must_not_be_averaged():
    captions = ["a red cat sits", "a red dog sits", "a blue dog runs", "the blue bird flies"]
    references = [["a red cat sits"], ["a red dog stands"], ["a blue dog runs"], ["a blue bird flies"]]
    together, _ = metrics.cider_d(captions, references)
    halves = [metrics.cider_d(captions[part], references[part])[0] for part in (slice(0, 2), slice(2, 4))]
    assert together != pytest.approx(np.mean(halves), abs=0.05)


def test_length_is_counted_in_bigrams_and_punished_with_sigma_6():
    # Two words against nine, no idf differences: unigram part is the cosine, times exp(-(1 - 8)² / 72).
    reference = "apple bear cat dog egg fox goat hen ibis"
    _, scores = metrics.cider_d(["apple bear", *OTHERS], [[reference], *([other] for other in OTHERS)])
    unigrams = 2 / math.sqrt(2 * 9)
    bigrams = 1 / math.sqrt(1 * 8)
    assert scores[0] == pytest.approx(10 / 4 * math.exp(-(7**2) / 72) * (unigrams + bigrams))


def test_repeating_a_word_is_clipped_at_the_reference_count():
    _, scores = metrics.cider_d(["apple apple apple", *OTHERS], [["apple"], *([o] for o in OTHERS)])
    # unigram: min(3w, w) * w / (3w * w) = 1/3; the lengths in bigrams are 2 and 0
    assert scores[0] == pytest.approx(10 / 4 * math.exp(-(2**2) / 72) / 3)


# pycocoevalcap 1.2, CiderScorer(n=4, sigma=6.0), the captions above split at spaces
OFFICIAL_SCORES = [4.334677906137271, 5.065127135392463, 2.193822720242501]


def test_cider_d_equals_the_official_scorer_on_a_worked_example():
    predictions = ["a man rides a horse", "two dogs play in the grass", "a red bus on the street"]
    references = [
        ["a man riding a brown horse", "a man rides a horse in a field"],
        ["two dogs run through the grass", "dogs play in the grass together"],
        ["a bus drives down the street", "the red bus is on the road"],
    ]
    mean, scores = metrics.cider_d(predictions, references, tokenize=lambda caption: tuple(caption.split()))
    assert scores == pytest.approx(OFFICIAL_SCORES)
    assert mean == pytest.approx(np.mean(OFFICIAL_SCORES))


def test_an_empty_or_foreign_caption_scores_zero_and_never_nan():
    _, scores = metrics.cider_d(["", "qwertz uiop", *OTHERS], [["a cat"], ["a dog"], *([o] for o in OTHERS)])
    assert scores[:2].tolist() == [0.0, 0.0]


def test_cider_d_names_what_is_wrong_with_its_input():
    with pytest.raises(MmpeftError, match="got 1 captions and 2 sets"):
        metrics.cider_d(["a"], [["a"], ["b"]])
    with pytest.raises(MmpeftError, match="item 1 needs a list"):
        metrics.cider_d(["a", "b"], [["a"], []])
    with pytest.raises(MmpeftError, match="item 0 needs a list"):
        metrics.cider_d(["a"], ["a cat"])
    with pytest.raises(MmpeftError, match="got 0 captions"):
        metrics.cider_d([], [])


# --------------------------------------------------------------------------------------------------
# Stanford's tokenizer
# --------------------------------------------------------------------------------------------------


def test_without_java_or_its_jar_the_remedy_is_said(monkeypatch):
    from mmpeft import ptb

    monkeypatch.setenv("MMPEFT_PTB_JAR", "nowhere.jar")
    assert not ptb.available()
    with pytest.raises(MmpeftError, match="install Java and pip install pycocoevalcap"):
        ptb.tokenize(["a dog"])


def test_stanfords_tokens_are_read_line_by_line(tmp_path, monkeypatch):
    """A stand-in for Java that answers as Stanford's tokenizer does on these two lines."""
    from mmpeft import ptb

    (tmp_path / "java").write_text('#!/bin/sh\nfor last; do :; done\ntest "$(wc -l < "$last")" = 1 || exit 3\n'
                                   "printf \"a child 's toy - a `` red '' ball .\\n-lrb- mr. smith -rrb- , no. 5\\n\"\n")
    (tmp_path / "java").chmod(0o755)
    (tmp_path / "a.jar").touch()
    monkeypatch.setenv("MMPEFT_PTB_JAR", str(tmp_path / "a.jar"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    texts = ['A child\'s toy -\n a "red" ball.', "(Mr. Smith), no. 5"]
    assert ptb.tokenize([*texts, texts[0]]) == {
        texts[0]: ("a", "child", "'s", "toy", "a", "red", "ball"),
        texts[1]: ("-lrb-", "mr.", "smith", "-rrb-", "no.", "5"),
    }


@pytest.mark.skipif("not __import__('mmpeft.ptb', fromlist=['ptb']).available()", reason="no Java with Stanford's jar here")
def test_the_regular_expression_agrees_with_stanford_on_plain_captions():
    from mmpeft import ptb

    captions = [
        "A man isn't riding a t-shirt's horse.",
        "Two dogs (black/white) play at 10:30 a.m. in the U.S.",
        'A child\'s toy - a "red" ball; 1,000 pieces!',
        "I can't gonna go, cannot.",
        "A half-eaten sandwich [on a plate]",
    ]
    assert ptb.tokenize(captions) == {caption: metrics.cider_tokenize(caption) for caption in captions}
