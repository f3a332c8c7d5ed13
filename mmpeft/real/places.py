"""Places: where the rows of a real dataset come from. A split names several; the first that can be read is taken.

    Folder   the files that the dataset's authors hand out, below $MMPEFT_DATA
    Hub      a repository of the Hugging Face hub, or a copy of it at $MMPEFT_DATA/<owner>/<name>

Rows are streamed, pictures are passed on as the bytes they are stored in: nothing is decoded, nothing is kept in memory.
Whatever goes wrong becomes one sentence with a remedy.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpeft.errors import MmpeftError
from mmpeft.reach import Trouble, trouble

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One question of a real dataset, before it has a prompt.

    Attributes:
        item_id: Unique in its dataset, the same from every place; left empty it is made of the content.
        picture_id: The same for the same picture in every dataset that names it; left empty it is made of the bytes.
        question: As it is asked.
        answers: The references, in the order of the annotators.
        choices: The options, where there are any.
        kind: What is asked, for error pages.
        hint: What is said beside the question.
        things: What can be seen, by name.
        picture: The encoded picture, or its file; None when only the question was wanted.
    """

    item_id: str
    picture_id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    kind: str = ""
    hint: str = ""
    things: tuple[str, ...] = ()
    picture: bytes | Path | None = None


class Unreadable(Exception):
    """A place that cannot be read: its sentence says why, and what would help."""


class Place(ABC):
    """Somewhere a split can be read from."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is said of it in records and messages."""

    @abstractmethod
    def items(self, pictures: bool = True) -> Iterator[Item]:
        """The questions, one after another.

        Args:
            pictures: Whether the pictures are wanted too; without them a pass over a large set is short.

        Raises:
            Unreadable: With what would help.
        """


def data_folder() -> Path | None:
    """The user's folder of datasets, ``$MMPEFT_DATA``; None where none is named."""
    named = os.environ.get("MMPEFT_DATA")
    return Path(named).expanduser() if named else None


@dataclass(frozen=True)
class Folder(Place):
    """Files in the layout in which the authors of a dataset hand them out.

    Attributes:
        needs: What must be there, below ``$MMPEFT_DATA``.
        read: From that folder to questions whose pictures are files.
    """

    needs: tuple[str, ...]
    read: Callable[[Path], Iterable[Item]]

    @property
    def name(self) -> str:
        """The folder's files."""
        return f"$MMPEFT_DATA/{self.needs[0]}"

    def items(self, pictures: bool = True) -> Iterator[Item]:
        """The questions of the folder."""
        root = data_folder()
        if root is None:
            raise Unreadable(f"{', '.join(self.needs)}: set MMPEFT_DATA to the folder that holds them")
        missing = [name for name in self.needs if not (root / name).exists()]
        if missing:
            raise Unreadable(f"{', '.join(missing)}: not in MMPEFT_DATA ({root}); download and unpack there")
        try:
            yield from self.read(root)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Unreadable(f"{self.name}: not in the official layout ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Hub(Place):
    """A repository of parquet files.

    Attributes:
        repo: ``owner/name``.
        split: What the hub calls the split.
        columns: What ``read`` needs, pictures apart.
        read: From one row to its questions, without pictures.
        image: The column of the picture.
        config: The hub's subset.
        data_files: A pattern of files, where the dataset's card hides the split.
        revision: A commit, where one is known to be good; otherwise the newest, and the record says which it was.
    """

    repo: str
    split: str
    columns: tuple[str, ...]
    read: Callable[[Row], Iterable[Item]]
    image: str = "image"
    config: str | None = None
    data_files: str | None = None
    revision: str | None = None
    _read_at: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The repository, and once it was read: at which commit, or that it was a local copy."""
        part = "/".join(word for word in (self.config, self.data_files or self.split) if word)
        at = self._read_at.get("commit") or self.revision
        return f"{self.repo}{'@' + at if at else ''}:{part}"

    def items(self, pictures: bool = True) -> Iterator[Item]:
        """The questions of the repository."""
        try:
            import datasets
        except ImportError:
            raise Unreadable("the package 'datasets' is missing: pip install datasets") from None

        rows = self._told(self._open, datasets)
        found = rows.column_names or []
        wanted = [*self.columns, self.image]
        if missing := [column for column in wanted if column not in found]:
            raise Unreadable(
                f"{self.repo}: its columns have changed: no {', '.join(missing)} among {', '.join(found) or 'none'}; "
                "pin an older revision in the dataset's file, or use its official files"
            )
        if pictures:
            rows = rows.select_columns(wanted).cast_column(self.image, datasets.Image(decode=False))
        else:
            rows = self._told(self._open, datasets, columns=list(self.columns))
        stream = iter(rows)
        while (row := self._told(next, stream, None)) is not None:
            stored = row.get(self.image)
            if pictures and not (stored and stored["bytes"]):
                continue  # a question without a picture is no question for these models
            for item in self._told(lambda row=row: list(self.read(row))):
                yield replace(item, picture=stored["bytes"]) if pictures else item

    def _open(self, datasets: Any, **options: Any) -> Any:
        """The stream of rows: from a local copy where there is one, else from the hub, at one commit."""
        root = data_folder()
        copy = root / self.repo if root else None
        if self.data_files:
            options["data_files"] = {self.split: self.data_files}
        if copy and copy.is_dir():
            self._read_at["commit"] = "local copy"
            return datasets.load_dataset(str(copy), self.config, split=self.split, streaming=True, **options)
        if self._read_at.get("commit", "local copy") == "local copy":
            from huggingface_hub import HfApi

            self._read_at["commit"] = HfApi().dataset_info(self.repo, revision=self.revision).sha or "main"
        commit = self._read_at["commit"]
        return datasets.load_dataset(self.repo, self.config, split=self.split, streaming=True, revision=commit, **options)

    def _told(self, do: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What ``do`` returns; its failures in the words of a user."""
        try:
            return do(*args, **options)
        except Exception as error:
            raise Unreadable(f"{self.repo}: {_reason(error, self.repo)}") from error


def _reason(error: Exception, repo: str) -> str:
    """Why a dataset cannot be read, and what would help."""
    said = " ".join(str(error).split())
    if "scripts are no longer supported" in said:
        return "only a loading script, which datasets no longer runs; use another place"
    if isinstance(error, ValueError) and ("Unknown split" in said or "Bad split" in said):
        return f"the split is not listed on its card ({said[:120]})"
    reasons: dict[Trouble, str] = {
        "gated": "gated: accept its terms on its page, then log in (hf auth login) and try again",
        "no revision": "the pinned revision is gone; look up a newer one and give the task a new version",
        "no repository": "not on the hub, or moved; look up its new name and add it to the dataset's file",
        "unreached": f"no network; connect, or put a copy of the repository at $MMPEFT_DATA/{repo}",
        "other": f"cannot be read ({type(error).__name__}: {said[:200]})",
    }
    return reasons[trouble(error)]


def first_readable(what: str, places: Iterable[Place], use: Callable[[Place], Any]) -> Any:
    """What ``use`` makes of the first place that can be read.

    Raises:
        MmpeftError: None can; one line each.
    """
    reasons = []
    for place in places:
        try:
            return use(place)
        except Unreadable as reason:
            reasons.append(str(reason))
    raise MmpeftError("\n".join([f"{what}: no place could be read.", *(f"  - {reason}." for reason in reasons)]))
