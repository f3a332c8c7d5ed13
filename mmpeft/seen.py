"""An example as a model sees it: the text with its image tokens, and the labels decoded back."""

from dataclasses import dataclass
from itertools import groupby

from mmpeft.batches import IGNORED
from mmpeft.models import load
from mmpeft.run import encoder_for
from mmpeft.task import Task


@dataclass(frozen=True)
class Seen:
    """One example between the dataset and the model.

    Attributes:
        example_id: Which one.
        picture: Width and height in pixels.
        text: What goes in, decoded from the token ids; runs of image tokens are counted.
        labels: What is learned, decoded from the labels.
        num_tokens: Length of the sequence.
        num_unknown: Tokens that stand for words the tokenizer does not know.
    """

    example_id: str
    picture: tuple[int, int]
    text: str
    labels: str
    num_tokens: int
    num_unknown: int


def first_example(task: Task, model: str, split: str, max_length: int = 2048) -> Seen:
    """The first example of a split, taken from the very batch that training would see.

    Raises:
        MmpeftError: The model or the split does not exist, or no place of the dataset can be read.
    """
    loaded = load(model)
    example = task.all_examples(split)[0]
    batch = encoder_for(loaded, task, [example], max_length).training_batch([example])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    tokenizer, image = loaded.tokenizer, loaded.model.config.image_token_id
    parts = []
    for is_image, run in groupby(ids, key=lambda token: token == image):
        tokens = list(run)
        parts.append(f"<image>×{len(tokens)}" if is_image else tokenizer.decode(tokens))
    return Seen(
        example_id=example.example_id,
        picture=task.picture(example.picture_id).size,
        text="".join(parts),
        labels=tokenizer.decode([token for token in labels if token != IGNORED]),
        num_tokens=len(ids),
        num_unknown=sum(token == tokenizer.unk_token_id for token in ids),
    )
