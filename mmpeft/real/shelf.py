"""The shelf: splits of real datasets on this machine's disk, so that a dataset is read from its place once.

    <cache>/datasets/<dataset>-v<version>/<split>/
        examples.arrow     one row a question, without a prompt
        pictures.arrow     one row a picture, as the bytes it came in
        ids.txt            one id a line, in order: what a draw drew
        split.json         from which place, how many, the digest of the ids

A split is written under another name and moved into place when it is whole. Pictures lie in a memory-mapped file: one is
decoded when it is asked for, and none is loaded before.
"""

import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mmpeft.errors import MmpeftError
from mmpeft.files import cache_folder
from mmpeft.real.places import Item, Place, Unreadable, data_folder

BATCH = 64
"""Pictures that are in memory at once while a split is written."""

TEXTS = ("item_id", "picture_id", "question", "answers", "choices", "kind", "hint", "things")
"""The fields of an item that are kept beside its picture."""


@dataclass(frozen=True)
class Manifest:
    """What a split on the shelf says about itself.

    Attributes:
        place: Where it was read from; a hub place with its commit.
        num_examples: Questions.
        num_pictures: Different pictures.
        drawn: How many were drawn of how many, ``20000 of 443757, seed 0``; empty where all were taken.
        ids_sha256: Digest of ``ids.txt``: two machines with the same digest hold the same examples.
    """

    place: str
    num_examples: int
    num_pictures: int
    drawn: str
    ids_sha256: str


LISTS = ("answers", "choices", "things")


class Split:
    """A split on the shelf.

    Args:
        folder: Its own folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def manifest(self) -> Manifest:
        """What it says about itself."""
        return Manifest(**json.loads((self.folder / "split.json").read_text(encoding="utf-8")))

    @cached_property
    def items(self) -> list[Item]:
        """All questions, ordered by id, without pictures."""
        rows = _read(self.folder / "examples.arrow").to_pylist()
        return [Item(**row | {name: tuple(row[name]) for name in LISTS}) for row in rows]

    @cached_property
    def _pictures(self) -> Any:
        return _read(self.folder / "pictures.arrow")

    @cached_property
    def picture_ids(self) -> dict[str, int]:
        """Every picture's row."""
        return {name: row for row, name in enumerate(self._pictures.column("picture_id").to_pylist())}

    def stored(self, picture_id: str) -> bytes:
        """The picture as the bytes it came in.

        Raises:
            MmpeftError: It is not one of this split.
        """
        if picture_id not in self.picture_ids:
            raise MmpeftError(f"picture_id: '{picture_id}' is not a picture of {self.folder.parent.name}/{self.folder.name}.")
        stored: bytes = self._pictures.column("stored")[self.picture_ids[picture_id]].as_py()
        return stored

    def picture(self, picture_id: str) -> Image.Image:
        """The picture, RGB, decoded now."""
        return Image.open(BytesIO(self.stored(picture_id))).convert("RGB")


def folder_of(dataset: str, version: int) -> Path:
    """Where the splits of a dataset lie. Whoever names a folder of datasets has a shelf of its own for it."""
    root = data_folder()
    mark = f"-{_digest(str(root.resolve()))[:8]}" if root else ""
    return cache_folder() / "datasets" / f"{dataset}-v{version}{mark}"


def write(folder: Path, place: Place, belongs: Callable[[Item], bool], draw: int | None, seed: int) -> Split:
    """The split, read from its place and written.

    Args:
        folder: The split's own.
        place: Where its questions come from.
        belongs: Whether a question is one of this split.
        draw: How many to draw; None takes all.
        seed: Which draw.

    Raises:
        Unreadable: The place cannot be read, or holds nothing of this split.
    """
    pool, chosen = 0, None
    if draw is not None:
        ids = [item.item_id for item in place.items(pictures=False) if belongs(item)]
        pool, chosen = len(ids), frozenset(drawn(ids, draw, f"{folder.parent.name.split('-v')[0]}:{seed}"))
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        wanted = (item for item in place.items() if belongs(item) and (chosen is None or item.item_id in chosen))
        items = _write_pictures(partial / "pictures.arrow", wanted)
        if not items:
            raise Unreadable(f"{place.name}: holds no question of this split")
        _write_rest(partial, items, place.name, f"{draw} of {pool}, seed {seed}" if draw is not None and draw < pool else "")
        try:
            partial.rename(folder)
        except OSError:  # another worker was quicker
            if not (folder / "split.json").exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Split(folder)


def drawn(ids: list[str], number: int, key: str) -> list[str]:
    """``number`` of the ids, each set of that size as likely as any other; the same from whatever order they come in.

    Each id has a place in a line by the hash of key and id, and the first ones are taken: a larger draw holds every smaller.
    """
    return heapq.nsmallest(number, set(ids), key=lambda one: _digest(f"{key}:{one}"))


def _write_pictures(path: Path, items: Iterator[Item]) -> list[Item]:
    """Each picture once, a few at a time; the items by id, with names for what had none."""
    import pyarrow as pa

    schema = pa.schema([("picture_id", pa.string()), ("stored", pa.large_binary())])
    named: dict[str, Item] = {}
    there: set[str] = set()
    batch: list[dict[str, Any]] = []
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as out:

        def flush() -> None:
            if batch:
                out.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch.clear()

        for item in items:
            stored = _bytes_of(item)
            picture_id = item.picture_id or f"sha256/{hashlib.sha256(stored).hexdigest()[:16]}"
            item_id = item.item_id or _digest(repr((picture_id, item.question, item.choices, item.hint)))[:16]
            if item_id in named:
                continue
            named[item_id] = replace(item, item_id=item_id, picture_id=picture_id, picture=None)
            if picture_id not in there:
                there.add(picture_id)
                batch.append({"picture_id": picture_id, "stored": stored})
            if len(batch) == BATCH:
                flush()
        flush()
    return [named[name] for name in sorted(named)]


def _bytes_of(item: Item) -> bytes:
    if isinstance(item.picture, bytes):
        return item.picture
    try:
        return Path(item.picture or "").read_bytes()
    except OSError:
        raise Unreadable(f"{item.picture}: this picture is missing; unpack the pictures too") from None


def _write_rest(folder: Path, items: list[Item], place: str, how: str) -> None:
    import pyarrow as pa

    texts = [pa.field(name, pa.list_(pa.string()) if name in LISTS else pa.string()) for name in TEXTS]
    schema = pa.schema(texts)
    table = pa.Table.from_pylist([{name: getattr(item, name) for name in TEXTS} for item in items], schema=schema)
    with pa.OSFile(str(folder / "examples.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as out:
        out.write_table(table)
    ids = "".join(f"{item.item_id}\n" for item in items)
    (folder / "ids.txt").write_text(ids, encoding="utf-8")
    manifest = Manifest(place, len(items), len({item.picture_id for item in items}), how, _digest(ids))
    (folder / "split.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
