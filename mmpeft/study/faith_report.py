"""Tables about what models invent: captions against what is on the pictures, and yes/no questions under three parsers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from mmpeft.decide import ERROR_RATE, holm
from mmpeft.faithfulness import PARSERS, McNemar, YesNo, judge_yes_no, mcnemar
from mmpeft.methods import METHODS
from mmpeft.study.comparison import Variant
from mmpeft.study.differences import Cells, below, compared, counted, framed, smallest
from mmpeft.study.report import DASH, Prose, Table, cell, listed, percent, to_html
from mmpeft.study.track_report import leads
from mmpeft.study.tracks import GROUPS, Track, Tracks, change, estimate, mentioned, places, right_answers
from mmpeft.tasks import TASKS

# --------------------------------------------------------------------------------------------------
# Captions
# --------------------------------------------------------------------------------------------------


def inventions_table(tracks: Tracks, moment: int | str = "last") -> Table:
    """CHAIR of each method's captions at a moment: per thing, per caption, recall, words; the base in the first row.

    Low rates with low recall or few words are bought by saying less.
    """
    rows, shown = {}, {}
    for row in tracks.rows:
        found = {name: estimate(tracks, row, "captions", moment, name) for name in ("chair_i", "chair_s", "recall", "num_words")}
        rows[row.label] = {name: e.mean if e else np.nan for name, e in found.items()}
        shown[row.label] = {
            "invented, per thing": cell(found["chair_i"]),
            "captions that invent": cell(found["chair_s"]),
            "things named": cell(found["recall"]),
            "words": cell(found["num_words"], plain=True),
        }
    table = framed(rows, shown, "No run has left anything yet.", tracks.results)
    told = [
        f"{head.capitalize()}, the highest row over each other one. {text}"
        for name, head in (("chair_i", "invented, per thing"), ("chair_s", "captions that invent"), ("recall", "things named"))
        for text in smallest(leads(tracks, "captions", (moment,), name))
    ]
    return below(table, *told)


def mcnemar_table(tracks: Tracks, method: str, moment: int | str = "last") -> Table:
    """One method's captions against each other method's, seed by seed: how many only one of the two gets wrong.

    The test is exact and takes the pictures alone as random: it speaks about these two trained models. Its p-values are
    one family, corrected after Holm. The interval beside it takes the seeds in and speaks about the methods.
    """
    label = METHODS[method].label
    mine = next((row for row in tracks.trained if row.label == label), None)
    others = [row for row in tracks.trained if mine and row != mine]
    tests = {other.label: found for other in others if mine and (found := _discordant(tracks, mine, other, moment))}
    adjusted = iter(holm([one.p for found in tests.values() for one in found]))
    rows: Cells = {}
    shown: Cells = {}
    for other in (row for row in others if row.label in tests):
        assert mine is not None
        found = tests[other.label]
        p = [float(next(adjusted)) for _ in found]
        e = change(tracks, mine, other, "captions", moment, moment, "chair_s")
        rows[other.label] = {
            "seeds": len(found),
            f"only {label} invents": sum(one.only_a for one in found),
            "only the other invents": sum(one.only_b for one in found),
            "smallest corrected p of a seed": min(p),
            "seeds with corrected p < .05": sum(each < ERROR_RATE for each in p),
        }
        shown[other.label] = {**rows[other.label], "smallest corrected p of a seed": f"{min(p):.3f}", "difference, points": e}
        rows[other.label] |= {"difference, points": e.mean if e else np.nan}
    table = compared(rows, shown, "No pair of runs is complete.", tracks.results)
    number = sum(map(len, tests.values()))
    return below(table, f"The {number} p-values of this table are corrected after Holm as one family.") if rows else table


def _discordant(tracks: Tracks, a: Variant, b: Variant, moment: int | str) -> list[McNemar]:
    """McNemar's test of two rows' captions for each seed that both have, source by source."""
    found = []
    for source in tracks.sources:
        for task in (name for name in tracks.asked if name != source and GROUPS["captions"](name, tracks.sources)):
            first, second = (_invents(tracks.found.get((row, source, task)), moment) for row in (a, b))
            found += [mcnemar(first[seed], second[seed]) for seed in first if seed in second]
    return found


def _invents(track: Track | None, moment: int | str) -> dict[int, list[bool]]:
    """For each seed, whether each of its captions invents a thing."""
    if track is None:
        return {}
    found = {}
    for seed, place, answers in zip(track.seeds, places(track, moment), track.answers, strict=True):
        if place >= 0:
            said = zip(track.pictures, answers[place], strict=True)
            found[int(seed)] = [bool(mentioned(track.task, picture, text).invented) for picture, text in said]
    return found


def most_invented(tracks: Tracks, moment: int | str = "last", top: int = 5) -> Table:
    """Which things each method invents most often, and how many of its captions were looked at."""
    rows = []
    for row in tracks.rows:
        counts: dict[str, int] = {}
        captions = 0
        for track in _tracks_of(tracks, row, "captions"):
            for picture, said in _all_said(track, moment):
                captions += 1
                for thing in mentioned(track.task, picture, said).invented:
                    counts[thing] = counts.get(thing, 0) + 1
        first = sorted(counts, key=lambda thing: (-counts[thing], thing))[:top]
        rows.append((row.label, captions, ", ".join(f"{thing} ({counts[thing]})" for thing in first) or DASH))
    frame = pd.DataFrame(rows, columns=["method", "captions", "invented most often"])
    return counted(Table(frame, to_html(frame, index=False)), tracks.results)


def _tracks_of(tracks: Tracks, row: Variant, group: str) -> list[Track]:
    """What a row was asked of a group of tasks, from every source."""
    pairs = ((source, task) for source in tracks.sources for task in tracks.asked if source != task)
    keys = [(row, *pair) for pair in pairs if GROUPS[group](pair[1], tracks.sources)]
    return [tracks.found[key] for key in keys if key in tracks.found]


def _all_said(track: Track, moment: int | str) -> list[tuple[str, str]]:
    """Picture and answer, of every seed that has the moment."""
    return [
        (picture, said)
        for place, answers in zip(places(track, moment), track.answers, strict=True)
        if place >= 0
        for picture, said in zip(track.pictures, answers[place], strict=True)
    ]


# --------------------------------------------------------------------------------------------------
# Yes or no
# --------------------------------------------------------------------------------------------------


def judged(tracks: Tracks, row: Variant, parser: str, moment: int | str = "last", kind: str | None = None) -> YesNo | None:
    """How a row answered the questions about what is there, all seeds and sources together; None if it was not asked.

    Args:
        tracks: From tracks.read.
        row: A row.
        parser: One of faithfulness.PARSERS.
        moment: An epoch, or a name of one.
        kind: Only questions of this kind, for example ``adversarial``.
    """
    read, wanted = [], []
    for track in _tracks_of(of_kind(tracks, kind) if kind else tracks, row, "presence"):
        right = right_answers(track)
        for place, answers in zip(places(track, moment), track.answers, strict=True):
            for said, answer in zip(answers[place], right, strict=True) if place >= 0 else ():
                if answer:
                    read.append(PARSERS[parser](said))
                    wanted.append(answer)
    return judge_yes_no(read, wanted) if wanted else None


@cache
def of_kind(tracks: Tracks, kind: str) -> Tracks:
    """What was asked about what is there, questions of one kind alone."""
    found = {}
    for key, track in tracks.found.items():
        if GROUPS["presence"](track.task, tracks.sources):
            examples = [example for split in ("test", "dev") for example in TASKS[track.task].examples(split)]
            mine = {example.example_id for example in examples if example.kind == kind}
            kept = np.array([name in mine for name in track.examples])
            asked = {name: getattr(track, name)[..., kept] for name in ("examples", "pictures", "scores", "answers")}
            found[key] = replace(track, **asked)
    return Tracks(tracks.results, found)


def parsers_table(tracks: Tracks, moment: int | str = "last") -> Table:
    """The same answers read by each parser: accuracy, precision, recall, F1, share of yes with intervals; unread ones."""
    rows, shown = [], []
    for row in tracks.rows:
        for parser in PARSERS:
            found = judged(tracks, row, parser, moment)
            if found is None:
                continue
            rows.append({"method": row.label, "parser": parser, **found._asdict()})
            cells = _cells(tracks, row, parser, moment, found, ("accuracy", "precision", "recall", "f1"))
            rest = {"not read": percent(found.unparsed), **_cells(tracks, row, parser, moment, found, ("yes_share",))}
            shown.append({"method": row.label, "parser": parser, **cells, **rest})
    if not rows:
        return Table(pd.DataFrame(), "<p>No run was asked yet.</p>")
    table = Table(pd.DataFrame(rows), to_html(pd.DataFrame(shown), index=False))
    gaps = [e for parser in PARSERS for e in leads(tracks, "presence", (moment,), f"accuracy, {parser}")]
    told = [f"Accuracy under each parser, the best row over each other one. {text}" for text in smallest(gaps)]
    return below(counted(table, tracks.results), *told)


def kinds_table(tracks: Tracks, parser: str = "MME", moment: int | str = "last") -> Table:
    """For each kind of absent thing: accuracy, F1 and share of yes of each method with intervals, one parser."""
    rows: Cells = {}
    shown: Cells = {}
    for row in tracks.rows:
        for kind in _kinds(tracks):
            found = judged(tracks, row, parser, moment, kind)
            if found:
                numbers = {"accuracy": found.accuracy, "F1": found.f1, "says yes": found.yes_share}
                cells = _cells(of_kind(tracks, kind), row, parser, moment, found, ("accuracy", "f1", "yes_share"))
                rows.setdefault(row.label, {}).update({(kind, name): value for name, value in numbers.items()})
                shown.setdefault(row.label, {}).update({(kind, name): text for name, text in cells.items()})
    return framed(rows, shown, "No run was asked yet.", tracks.results)


HEADS = {"f1": "F1", "yes_share": "says yes"}
MEASURED = {"yes_share": "yes"}
"""Where a field of YesNo and the measure of tracks have other names."""


def _cells(tracks: Tracks, row: Variant, parser: str, moment: int | str, found: YesNo, fields: Sequence[str]) -> dict[str, str]:
    """Cells of some fields of a row's scores by their heads: a dash for a ratio of nothing, one picture without an interval."""
    few = any(len(set(track.pictures.tolist())) < 2 for track in _tracks_of(tracks, row, "presence"))
    cells = {}
    for name in fields:
        value = getattr(found, name)
        e = None if few else estimate(tracks, row, "presence", moment, f"{MEASURED.get(name, name)}, {parser}")
        cells[HEADS.get(name, name)] = DASH if np.isnan(value) else cell(e) if e else percent(value)
    return cells


def _kinds(tracks: Tracks) -> list[str]:
    tasks = [task for task in tracks.asked if GROUPS["presence"](task, tracks.sources)]
    return list(dict.fromkeys(example.kind for task in tasks for example in TASKS[task].examples("test")))


def rankings(tracks: Tracks, moment: int | str = "last") -> Prose:
    """Whether the order of the methods is the same under every parser."""
    orders = {}
    for parser in PARSERS:
        found = {row.label: one.accuracy for row in tracks.trained if (one := judged(tracks, row, parser, moment))}
        if len(found) < 2:
            return Prose("Which parser ranks the methods how is not known yet: too few runs have a record.")
        ranks = sorted({round(accuracy, 9) for accuracy in found.values()}, reverse=True)
        orders[parser] = tuple(" = ".join(n for n in found if round(found[n], 9) == accuracy) for accuracy in ranks)
    if len(set(orders.values())) == 1:
        return Prose(f"Every parser puts the methods in the same order by accuracy: {listed(next(iter(orders.values())))}.")
    told = "; ".join(f"{parser}: {listed(order)}" for parser, order in orders.items())
    return Prose(f"The order of the methods by accuracy depends on the parser. {told}.")
