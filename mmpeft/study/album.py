"""Pictures with what each method says about them, from stored predictions; what a caption invents is marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from mmpeft.faithfulness import words_of
from mmpeft.study.comparison import Variant
from mmpeft.study.gallery import image_tag
from mmpeft.study.report import listed
from mmpeft.study.tracks import GROUPS, Track, Tracks, mentioned, places
from mmpeft.task import Task
from mmpeft.tasks import TASKS


@dataclass(frozen=True)
class Page:
    """One picture of an album.

    Attributes:
        picture_id: Which one.
        said: (method, caption) pairs.
    """

    picture_id: str
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Album:
    """Pictures and what was said about them.

    Attributes:
        task: Whose pictures.
        pages: What is shown; may be none.
    """

    task: Task | None
    pages: tuple[Page, ...]

    def _repr_html_(self) -> str:
        if self.task is None or not self.pages:
            return "<p>No captions are there yet.</p>"
        return f'<div class="gallery">{"".join(self._card(self.task, page) for page in self.pages)}</div>'

    def __repr__(self) -> str:
        return "\n".join(f"{page.picture_id}: {label}: {said}" for page in self.pages for label, said in page.said)

    def _card(self, task: Task, page: Page) -> str:
        things = listed(task.things(page.picture_id))
        lines = "<br>".join(f"<small>{escape(label)}</small> {self._marked(task, page, said)}" for label, said in page.said)
        return (
            f"<figure>{image_tag(task, page.picture_id, f'a picture of {things}')}"
            f"<figcaption><b>{escape(things)}</b><br>{lines}</figcaption></figure>"
        )

    def _marked(self, task: Task, page: Page, caption: str) -> str:
        """The caption, with a mark around each word for a thing that is not there."""
        words = words_of(caption, task.things(page.picture_id), task.names())
        return " ".join(f"<mark>{escape(word.text)}</mark>" if word.invented else escape(word.text) for word in words) or "…"


def caption_album(tracks: Tracks, n: int = 6, moment: int | str = "last", seed_place: int = 0) -> Album:
    """What each method says about ``n`` pictures after training, beside the base, and what it invents.

    Half of the pictures are those about which the methods differ most (the largest spread between them in the number of
    invented things), the other half are the first ones left in the order of the examples. All are of one source and seed.

    Args:
        tracks: From tracks.read.
        n: How many pictures.
        moment: An epoch, or a name of one.
        seed_place: Which seed, counted from 0 in their order.
    """
    for source in tracks.sources:
        for task in tracks.asked:
            if task == source or not GROUPS["captions"](task, tracks.sources):
                continue
            found = {row: track for row in tracks.rows if (track := tracks.found.get((row, source, task)))}
            if any(row != tracks.base for row in found):
                return _album(TASKS[task], found, n, moment, seed_place)
    return Album(None, ())


def _album(task: Task, found: dict[Variant, Track], n: int, moment: int | str, seed_place: int) -> Album:
    said = {row.label: _captions(track, moment, seed_place) for row, track in found.items()}
    pictures = list(next(iter(found.values())).pictures)
    counts = [[len(mentioned(task.name, p, texts[i]).invented) for texts in said.values()] for i, p in enumerate(pictures)]
    spread = np.ptp(np.array(counts), axis=1)
    disputed = [int(i) for i in np.argsort(-spread, kind="stable")[: (n + 1) // 2] if spread[i] > 0]
    chosen = disputed + [i for i in range(len(pictures)) if i not in disputed][: n - len(disputed)]
    pages = [Page(pictures[i], tuple((label, texts[i]) for label, texts in said.items())) for i in chosen]
    return Album(task, tuple(pages))


def _captions(track: Track, moment: int | str, seed_place: int) -> Sequence[str]:
    """The captions of one seed at a moment; empty ones where it has none."""
    place = min(seed_place, len(track.seeds) - 1)
    epoch = places(track, moment)[place]
    return list(track.answers[place, epoch]) if epoch >= 0 else [""] * len(track.examples)
