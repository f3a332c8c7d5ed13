"""Prints how long scoring takes: VQA soft accuracy of 200,000 predictions and CIDEr-D of 5,000 captions.

Run with ``python benchmarks/score_vqa.py``: seconds of one core, whatever else the machine does; no model; made-up
text with few repetitions, so that the caches of normalized text help little.
"""

import random
import time

from mmpeft.metrics import cider_d, vqa_soft

NUM_PREDICTIONS = 200_000
NUM_CAPTIONS = 5_000
NUM_WORDS = 5_000


def made_up_questions(num_questions: int, rng: random.Random) -> list[tuple[str, list[str]]]:
    """Predictions with ten answers each, of one or two words, some with marks and articles."""
    words = [f"word{number}" for number in range(NUM_WORDS)]
    shapes = ("{0}", "{0}", "{0} {1}", "The {0}.", "two {0}-{1}", "{0}, {1}")
    return [
        (
            rng.choice(shapes).format(*rng.sample(words, 2)),
            [rng.choice(shapes).format(*rng.sample(words, 2)) for _ in range(2)] * 5,
        )
        for _ in range(num_questions)
    ]


def made_up_captions(num_captions: int, rng: random.Random) -> list[str]:
    """Captions of 6 to 14 words from a vocabulary of 500, a few of which are very common."""
    words = [f"word{number}" for number in range(500)]
    weights = [1 / (rank + 1) for rank in range(500)]
    return [" ".join(rng.choices(words, weights, k=rng.randint(6, 14))) for _ in range(num_captions)]


def main() -> None:
    """Print one line for each metric: what was scored, seconds, and items a second."""
    rng = random.Random(0)
    questions = made_up_questions(NUM_PREDICTIONS, rng)
    for variant in ("default", "official", "evalai"):
        start = time.process_time()
        for prediction, answers in questions:
            vqa_soft(prediction, answers, variant)
        report(f"vqa_soft {variant}", NUM_PREDICTIONS, time.process_time() - start)
    predictions = made_up_captions(NUM_CAPTIONS, rng)
    references = [made_up_captions(5, rng) for _ in range(NUM_CAPTIONS)]
    start = time.process_time()
    cider_d(predictions, references)
    report("cider_d", NUM_CAPTIONS, time.process_time() - start)


def report(name: str, num_items: int, seconds: float) -> None:
    """Print one line."""
    print(f"{name:18s} {num_items:7,d} items  {seconds:6.2f} s  {num_items / seconds:9,.0f} a second")


if __name__ == "__main__":
    main()
