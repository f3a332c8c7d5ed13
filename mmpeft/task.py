"""What a task is: a dataset, its prompt, its metric and its version."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from PIL import Image


@dataclass(frozen=True)
class Example:
    """One question about one picture.

    Attributes:
        example_id: Unique in its task.
        picture_id: Which picture it asks about; examples of one picture are one cluster in the statistics.
        prompt: The user's words, without the image token.
        answer: What the model is trained to say.
        answers: The references it is scored against.
        choices: The options, where there are any.
        kind: What is asked, for error pages (``where``, ``count`` …).
    """

    example_id: str
    picture_id: str
    prompt: str
    answer: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Scored:
    """Scores of a list of predictions.

    Attributes:
        score: The task's metric over all examples, 0–1 (CIDEr-D may exceed 1).
        per_item: One score an example, in order; their mean is ``score``.
        parsed: Whether each prediction could be read as an answer at all.
        extra: Further named scores.
    """

    score: float
    per_item: list[float]
    parsed: list[bool]
    extra: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """A dataset with its prompt, metric and version. Subclasses live one a file beside this one."""

    name: str
    column: ClassVar[str]  # the paper's name of the dataset
    version: ClassVar[int] = 1
    evaluation_only: ClassVar[bool] = False  # there to ask models, not to train them: no train split, no column of its own
    seen: ClassVar[bool]  # whether the base was trained on it (the paper's seen and unseen)
    metric: ClassVar[str]
    max_new_tokens: ClassVar[int]
    about: ClassVar[str]  # one sentence for the book
    sources: ClassVar[tuple[str, ...]]  # names of the packages its pictures and facts come from

    @abstractmethod
    def all_examples(self, split: str) -> list[Example]:
        """All examples of a split, in a fixed order."""

    def size(self, split: str) -> int | None:
        """How many examples a split holds, nearly; None where that is not known before it is read."""
        return None

    def at_hand(self, split: str) -> bool:
        """Whether a split can be looked at now; a downloaded dataset is so once it is on this machine."""
        return True

    def provenance(self) -> dict[str, str]:
        """What a record should say about where the data came from; nothing where the package holds it."""
        return {}

    @abstractmethod
    def picture(self, picture_id: str) -> Image.Image:
        """The picture of that id, RGB."""

    @abstractmethod
    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """The task's metric over predictions, one an example."""

    def things(self, picture_id: str) -> tuple[str, ...]:
        """What can be seen on the picture, by name; empty where nobody has written it down."""
        return ()

    def names(self) -> Mapping[str, str]:
        """The words that name a thing, and the thing; empty where nobody has written them down."""
        return {}

    def examples(self, split: str, num_examples: int | None = None, subset_seed: int = 0) -> list[Example]:
        """Examples of a split, or a subset of it.

        Subsets of one ``subset_seed`` are nested: a larger one holds every smaller one.

        Args:
            split: ``train``, ``dev`` or ``test``.
            num_examples: How many; None for all.
            subset_seed: Which draw.

        Raises:
            MmpeftError: If more are asked for than the split holds.
        """
        from mmpeft.errors import MmpeftError

        rows = self.all_examples(split)
        if num_examples is None:
            return rows
        if num_examples > len(rows):
            raise MmpeftError(
                f"num_examples: {num_examples} asked of {self.name}/{split}, which holds {len(rows)}; ask for fewer."
            )
        return self._in_random_order(rows, Random(f"{self.name}:{split}:{subset_seed}"))[:num_examples]

    def _in_random_order(self, rows: list[Example], rng: Random) -> list[Example]:
        """The order in which subsets take the examples of a split; the first ones make the smaller subsets."""
        order = list(rows)
        rng.shuffle(order)
        return order

    @property
    def blind_split(self) -> str:
        """Where :meth:`baselines` has its answers from."""
        return "dev" if self.evaluation_only else "train"

    def baselines(self, num_examples: int | None = None) -> dict[str, float]:
        """Scores on test that need no picture.

        Returns:
            ``majority``: always the most frequent training answer (for captions: one constant caption).
            ``chance``: a random choice where choices are listed, else a random training answer.
            A task for evaluation only has its answers from dev.
        """
        test = self.examples("test", num_examples)
        answers = [e.answer for e in self.all_examples(self.blind_split)]
        rng = Random(f"{self.name}:chance")
        common = Counter(answers).most_common(1)[0][0]
        draws = [self.guess(e, answers, rng) for e in test]
        return {
            "majority": self.score(test, [common] * len(test)).score,
            "chance": self.score(test, draws).score,
        }

    def guess(self, example: Example, answers: Sequence[str], rng: Random) -> str:
        """A random answer to an example: one of its choices, or one of the training answers."""
        return rng.choice(example.choices) if example.choices else rng.choice(answers)
