"""What only a judge can score: a run's answers to MMHal-Bench as requests for one, and its replies read back.

No judge is called. A request carries its whole text under ``prompt``, a reply is a line with the request's ``id``. The scale is
that of the authors, 0 to 6 with what is below 3 invented; the words are ours, so scores stand beside those of other judges
and other prompts only with care.

Source: Sun et al. 2023, arXiv:2309.14525; their judge is MMHal-Bench-eval/eval_gpt4.py of github.com/llava-rlhf/LLaVA-RLHF.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from mmpeft.errors import MmpeftError
from mmpeft.files import write_whole
from mmpeft.records import Store
from mmpeft.scoring import mean
from mmpeft.tasks import REAL

TASK = "mmhal"
INVENTED_BELOW = 3

PROMPT = """\
A program was shown a picture and asked about it. Grade what it said.

You cannot see the picture. Two things tell you what is on it: names of what somebody marked there, and an answer by a person \
who saw it. Both leave things out, so a detail that neither has is not wrong for that. Count as invented what contradicts them, \
what is hardly possible beside them, and a thing that the question only pretends is there when the program goes along with \
it. Do not count what follows from the picture by common knowledge, and do not count «that cannot be told from here».

Grades, without anything invented:
6: answers fully, with a sound explanation
5: answers fully
4: answers in part
3: hardly answers
With something invented:
2: answers fully otherwise
1: answers in part otherwise
0: hardly answers

[marked on the picture]
{contents}

[question]
{question}

[answer by a person]
{reference}

[what the program said]
{answer}

[your task]
Say in a sentence or two what, if anything, is invented and how much of the question is answered. Then write a last line \
that has the word Score, a colon and one whole number from 0 to 6, and nothing else.
"""

_SCORE = re.compile(r"^[\s*_#>-]*score[\s*_]*:[\s*_]*([0-6])(?:\s*/\s*6)?[\s*_.]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """One answer to be judged.

    Attributes:
        id: Run, epoch where it was asked on the way, and example.
        question_type: One of the benchmark's eight.
        question: As it was asked.
        image_contents: What is marked on the picture, by name.
        reference: What a person answered.
        answer: What the run answered.
        prompt: All of it in words for the judge.
    """

    id: str
    question_type: str
    question: str
    image_contents: tuple[str, ...]
    reference: str
    answer: str
    prompt: str


@dataclass(frozen=True)
class Row:
    """What a judge said about some questions.

    Attributes:
        questions: Which: a type, or all.
        asked: How many.
        scored: Of how many a score was read.
        score: Their mean, 0–6; None without any.
        hallucination: The share of them below 3; None without any.
        unread: Replies that no score could be read from.
        missing: Requests without a reply.
    """

    questions: str
    asked: int
    scored: int
    score: float | None
    hallucination: float | None
    unread: int
    missing: int


@dataclass(frozen=True)
class Judged:
    """What a judge said about a run: a row a type and one for all, and the ids of what has no score."""

    rows: tuple[Row, ...]
    unread: tuple[str, ...]
    missing: tuple[str, ...]


def requests(store: Store, run_id: str, epoch: int | None = None) -> list[Request]:
    """A request for each question that the run was asked, by id.

    Args:
        store: Where its record is.
        run_id: A run on mmhal itself, or one that was asked it on the way.
        epoch: Of the latter; None takes the last.

    Raises:
        MmpeftError: There is no such run, it was not asked, not at that epoch, or other questions than are on the shelf.
    """
    record = store.load(run_id)
    if record is None:
        raise MmpeftError(f"run: '{run_id}' has left no record in {store.path}; name another --store, or a run of this one.")
    if record.spec.task == TASK:
        if epoch is not None:
            raise MmpeftError(f"epoch: run {run_id} was asked {TASK} at its end alone; leave --epoch out.")
        name, said = run_id, store.predictions(run_id)
    elif TASK in record.spec.track.tasks:
        name, said = _on_the_way(store.tracked(run_id), run_id, epoch)
    else:
        asked = ", ".join((record.spec.task, *record.spec.track.tasks))
        raise MmpeftError(f"run: {run_id} was asked {asked}, not {TASK}; take one with task: {TASK}, or {TASK} in track.tasks.")
    answers = dict(zip(said["example_id"], said["prediction"], strict=True))
    items = {item.item_id: item for item in REAL[TASK].split("test").items}
    if strange := sorted(set(answers) - set(items)):
        raise MmpeftError(f"run: {run_id} was asked {strange[0]}, which is not in the {TASK} of this machine; use the same data.")
    made = []
    for key in sorted(answers):
        item, answer = items[key], answers[key]
        contents, reference = item.things, item.answers[0]
        shown = PROMPT.format(contents=", ".join(contents), question=item.question, reference=reference, answer=answer)
        made.append(Request(f"{name}/{key}", item.kind, item.question, contents, reference, answer, shown))
    return made


def _on_the_way(tracked: pd.DataFrame, run_id: str, epoch: int | None) -> tuple[str, pd.DataFrame]:
    mine = tracked[tracked["task"] == TASK]
    epochs = sorted(set(mine["epoch"]))
    if epoch is not None and epoch not in epochs:
        raise MmpeftError(f"epoch: run {run_id} was not asked at {epoch}; valid: {', '.join(map(str, epochs))}.")
    epoch = epochs[-1] if epoch is None else epoch
    return f"{run_id}/{epoch}", mine[mine["epoch"] == epoch]


def write_requests(path: Path, asked: Sequence[Request]) -> None:
    """Write them, one JSON a line."""
    write_whole(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in asked).encode())


def read_replies(path: Path) -> dict[str, str]:
    """The judge's replies by the id of their request.

    Raises:
        MmpeftError: A line is not a reply, or an id comes twice.
    """
    if not path.is_file():
        raise MmpeftError(f"replies: {path} is not a file.")
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            reply = json.loads(line)
            name, text = reply["id"], reply["reply"]
        except (ValueError, TypeError, KeyError):
            name = text = None
        if not isinstance(name, str) or not isinstance(text, str):
            raise MmpeftError(f'replies: line {number} of {path} is not {{"id": "…", "reply": "…"}} with two texts; mend it.')
        if name in found:
            raise MmpeftError(f"replies: {name} has a second reply in line {number} of {path}; keep one.")
        found[name] = text
    return found


def score_of(reply: str) -> int | None:
    """The score that a reply gives on a line of its own, 0–6; None where there is none, or more than one."""
    found = {match[1] for line in reply.splitlines() if (match := _SCORE.match(line))}
    return int(found.pop()) if len(found) == 1 else None


def judged(asked: Sequence[Request], replies: Mapping[str, str]) -> Judged:
    """What the replies say, by question type. What has no score is counted and named, and is in no mean.

    Where there is such, a last row gives it 0 and counts it as invented, as the authors' code does with what it cannot read.

    Raises:
        MmpeftError: A reply is to none of these requests.
    """
    if strange := sorted(set(replies) - {one.id for one in asked}):
        raise MmpeftError(f"replies: {strange[0]} is none of this run's requests; name the run and the epoch they were made of.")
    scores = {name: score_of(text) for name, text in replies.items()}
    kinds = sorted({one.question_type for one in asked})
    rows = [_row(kind, [one.id for one in asked if one.question_type == kind], scores) for kind in kinds]
    ids = [one.id for one in asked]
    rows.append(_row("all", ids, scores))
    if rows[-1].scored < len(ids):
        rows.append(_row("all, 0 where there is no score", ids, {one: scores.get(one) or 0 for one in ids}))
    unread = tuple(one for one in ids if one in scores and scores[one] is None)
    return Judged(tuple(rows), unread, tuple(one for one in ids if one not in scores))


def _row(questions: str, ids: Sequence[str], scores: Mapping[str, int | None]) -> Row:
    read = [score for one in ids if (score := scores.get(one)) is not None]
    missing = sum(one not in scores for one in ids)
    invented = [float(score < INVENTED_BELOW) for score in read]
    means = (mean(read), mean(invented)) if read else (None, None)
    return Row(questions, len(ids), len(read), *means, unread=len(ids) - len(read) - missing, missing=missing)
