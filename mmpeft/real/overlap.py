"""Do splits share pictures? Within a dataset and across datasets: VQAv2, OKVQA and POPE all ask about COCO's photographs.

A shared picture between what is trained on and what is tested on makes a score better than it is. Looked at in two ways: by the
picture's id, which datasets over COCO have in common, and by the bytes of the file, which also finds a copy under another name
(not one that was encoded again).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from mmpeft.real.task import RealTask

ORDER = ("train", "dev", "test")


@dataclass(frozen=True)
class Overlap:
    """What two splits of different purpose share.

    Attributes:
        first: ``dataset/split``.
        second: The other.
        by_id: Pictures of the same id.
        by_bytes: Pictures whose files are the same.
        num_second: Pictures of the second.
    """

    first: str
    second: str
    by_id: int
    by_bytes: int
    num_second: int

    @property
    def shared(self) -> bool:
        """Whether they share any picture."""
        return bool(self.by_id or self.by_bytes)


def overlaps(tasks: Sequence[RealTask]) -> list[Overlap]:
    """Every pair of splits of different names among the datasets: train and test, train and dev, dev and test.

    Two test splits may share pictures, and two train splits: nothing is learned for a test there.

    Raises:
        MmpeftError: A split is not on the shelf and no place can be read.
    """
    splits = {(task.dataset, name): task for task in tasks for name in task.splits}
    keys = sorted(splits, key=lambda key: (ORDER.index(key[1]), key[0]))
    looked = {key: _looked_at(splits[key], key[1]) for key in keys}
    return list(_compared(keys, looked))


def _looked_at(task: RealTask, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of a split's pictures and the digests of their files; nothing is decoded."""
    split = task.split(name)
    return frozenset(split.picture_ids), frozenset(hashlib.sha256(split.stored(p)).hexdigest() for p in split.picture_ids)


def _compared(
    keys: list[tuple[str, str]], looked: dict[tuple[str, str], tuple[frozenset[str], frozenset[str]]]
) -> Iterator[Overlap]:
    for first, second in combinations(keys, 2):
        if first[1] != second[1]:
            (ids, files), (other_ids, other_files) = looked[first], looked[second]
            yield Overlap("/".join(first), "/".join(second), len(ids & other_ids), len(files & other_files), len(other_ids))
