"""Answers: each example once, in order, whoever of a run's processes wrote it; batches made ahead of the model."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmpeft import evaluate
from mmpeft.batches import Encoder, ahead
from mmpeft.models import load
from mmpeft.run import encoder_for
from mmpeft.tasks import TASKS

torch.set_num_threads(1)
TASK = TASKS["mini-vqav2"]
EXAMPLES = TASK.examples("test", 7)


class Counting(Encoder):
    """Notes which examples it was asked for."""

    def prompt_batch(self, examples: Any) -> dict[str, torch.Tensor]:
        self.__dict__.setdefault("asked", []).extend(example.example_id for example in examples)
        return super().prompt_batch(examples)


def test_the_processes_of_a_run_share_the_questions_and_all_get_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("toy")
    encoder = encoder_for(loaded, TASK, EXAMPLES, 256)
    alone = evaluate.generate(loaded.model, encoder, EXAMPLES, 3, 2)
    parts: list[dict[int, str]] = []
    asked: list[list[str]] = []
    for rank in (0, 1):  # the second gets what the first has written, as it would from the other process
        counting = Counting(loaded, encoder.features, 256)
        monkeypatch.setattr(evaluate, "PartialState", lambda rank=rank: SimpleNamespace(process_index=rank, num_processes=2))
        monkeypatch.setattr(evaluate, "gather_object", lambda mine: parts.append(dict(mine[0])) or [*parts])
        if rank:
            assert evaluate.generate(loaded.model, counting, EXAMPLES, 3, 2) == alone
        else:
            with pytest.raises(KeyError):  # the other's answers are missing
                evaluate.generate(loaded.model, counting, EXAMPLES, 3, 2)
        asked.append(counting.__dict__["asked"])
    assert sorted(asked[0] + asked[1]) == sorted(example.example_id for example in EXAMPLES)
    assert 0 < len(asked[1]) < len(EXAMPLES)
    assert not set(parts[0]) & set(parts[1])


def test_what_is_made_ahead_comes_in_order_and_one_at_a_time() -> None:
    made: list[int] = []

    def making() -> Iterator[int]:
        for number in range(1, 6):
            made.append(number)
            yield number

    seen = []
    for number in ahead(making()):
        seen.append(number)
        assert len(made) <= number + 1
    assert seen == made == [1, 2, 3, 4, 5]


def test_what_fails_ahead_fails_where_it_is_used() -> None:
    def making() -> Iterator[int]:
        yield 1
        raise OSError("no such picture")

    coming = ahead(making())
    assert next(coming) == 1
    with pytest.raises(OSError, match="no such picture"):
        next(coming)


def test_whoever_stops_early_leaves_no_thread() -> None:
    import threading

    before = threading.active_count()
    coming = ahead(iter(range(1, 100)))
    assert next(coming) == 1
    coming.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
