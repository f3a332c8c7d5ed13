"""The decision guide for readers: a table, a fold for each situation, and the sentences of the landing page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.study import guide
from mmpeft.study.claims import SEED_SD, Ledger, load_ledger
from mmpeft.study.guide import Advice, advise
from mmpeft.study.ledger import MARKS, asking
from mmpeft.study.report import DASH, RANDOM_ANSWER, THIN, Prose, Table, listed, percent, to_html
from mmpeft.study.situations import RATIOS, STORED, Guide, load_guide
from mmpeft.study.verdicts import Judged, Outcome, judge

PLAIN = {METHODS["zero-shot"].label: "the untrained base", METHODS["connector"].label: "the connector alone"}
"""How a sentence calls what needs none of the methods."""

STRENGTH = {guide.SURE: 3, guide.NO_MATTER: 3, guide.CANNOT_TELL: 1, guide.NOT_FAIR: 1, guide.NOT_YET: 0}
STRENGTH |= dict.fromkeys((guide.LITTLE, guide.LIKELY, guide.ONE_OF), 2)
"""How many of three dots a degree of sureness gets, so that no color is needed."""

MOST_NAMED = 3
"""So many candidates are named in a line; of more, the best and the number of the others."""

SHOWN = {"recall": "things named", "num_words": "words a caption"}
"""How a sentence and a column call a measure that is shown beside what decides."""


@dataclass(frozen=True, eq=False)
class Advised:
    """The advice of each situation, with the verdicts on the claims that speak about the same.

    Attributes:
        found: One each.
        verdicts: By the id of the claim.
        headlines: The situations that the landing page opens with.
        margin: A difference up to this counts as none.
    """

    found: tuple[Advice, ...]
    verdicts: Mapping[str, Judged]
    headlines: tuple[str, ...]
    margin: float

    def of(self, name: str) -> Advice:
        """The advice of the situation of a name.

        Raises:
            MmpeftError: There is no such situation.
        """
        known = {one.situation.id: one for one in self.found}
        if name not in known:
            raise unknown("situation", name, known)
        return known[name]


def advised(
    scale: str | None = None, store: str | None = None, situations: Guide | None = None, ledger: Ledger | None = None
) -> Advised:
    """The advice of every situation from recorded runs.

    Args:
        scale: A scale other than the questions' own.
        store: A folder of records other than the scale's.
        situations: Others than those of ``params/guide.yaml``.
        ledger: Another ledger than that of ``params/claims.yaml``.

    Raises:
        MmpeftError: A situation names a claim that the ledger does not have, or rows that its question does not have.
    """
    ledger, situations, ask, strict = ledger or load_ledger(), situations or load_guide(), asking(scale, store), scale is None
    claims = {claim.id: claim for claim in ledger.claims}
    named = dict.fromkeys(name for one in situations.situations for name in one.claims)
    for name in named:
        if name not in claims:
            raise unknown("claim", name, claims)
    judged = judge(Ledger(margin=ledger.margin, claims=[claims[name] for name in named]), ask, strict=strict) if named else []
    found = advise(situations, ask, ledger.margin, strict=strict)
    return Advised(tuple(found), {one.claim.id: one for one in judged}, tuple(situations.headlines), ledger.margin)


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------


def taken(advice: Advice) -> str:
    """What to take, in words: ``LoRA, connector tuned or connector frozen``."""
    if advice.instead:
        return f"none of them: {PLAIN[advice.instead]}"
    if advice.below_chance:
        return "none is above a random answer"
    if advice.sureness == guide.NOT_FAIR:
        return "cannot be said"
    if advice.sureness == guide.NOT_YET:
        return f"so far {advice.ranking[0].name}" if len(advice.ranking) > 1 else "not known yet"
    if advice.sureness in (guide.CANNOT_TELL, guide.NO_MATTER):
        return "any of them"
    if len(advice.kept) > MOST_NAMED:
        return f"{advice.kept[0]}, or one of {len(advice.kept) - 1} others"
    by_method: dict[str, list[str]] = {}
    for name in advice.kept:
        method, _, words = name.partition(", ")
        by_method.setdefault(method, []).append(words)
    return " or ".join(", ".join(filter(None, (name, " or ".join(words)))) for name, words in by_method.items())


def how_sure(advice: Advice) -> str:
    """``one of these``; before all runs are there, ``so far: one of these``."""
    interim = advice.num_runs < advice.num_planned and advice.sureness != guide.NOT_YET
    return f"so far: {advice.sureness}" if interim else advice.sureness


def why(advice: Advice) -> str:
    """The numbers behind an advice, in a few short sentences."""
    if _nothing_to_compare(advice):
        return reason(advice)
    best = advice.ranking[0]
    return f"{best.name}: {_amount(advice, best.value)}. {_told(advice, _ahead(advice), list(advice.over))}"


def reason(advice: Advice) -> str:
    """The comparison that decided, and what counts beside it, in a sentence or two."""
    if _nothing_to_compare(advice):
        few = "Fewer than two candidates at this scale."
        return f"Not enough runs yet: {_few(advice.waiting)}." if advice.waiting else few
    if advice.instead:
        text = f"{advice.ranking[0].name}, the best of them, against it: {_points(advice.over[advice.instead], 1)}."
        return _told(advice, text, [])
    beside = [METHODS[row["method"]].label for row in advice.situation.beside]
    return _told(advice, _ahead(advice), [name for name in beside if name in advice.over])


def _nothing_to_compare(advice: Advice) -> bool:
    return not advice.ranking or len(advice.ranking) + len(advice.left_out) < 2


def _told(advice: Advice, comparison: str, over: Sequence[str]) -> str:
    """A comparison, and around it what else has to be known: who is left out, chance, doing without, what makes it less sure."""
    sign = 1 if advice.situation.better == "higher" else -1
    named = f"{advice.ranking[0].name} " if advice.ranking else ""
    gains = "; ".join(f"against {PLAIN[name]} {_points(advice.over[name], sign)}" for name in over)
    reservations = _sentence("; ".join(advice.caveats)) if advice.caveats else ""
    comparison = "" if advice.sureness == guide.NOT_FAIR else comparison
    return " ".join(filter(None, (_kept(advice), _chance(advice), comparison, gains and _sentence(named + gains), reservations)))


def _chance(advice: Advice) -> str:
    """That no candidate scores more than a random answer, where that is so."""
    chance = advice.references.get(RANDOM_ANSWER)
    if chance is None or advice.ranking[0].value > chance:
        return ""
    return f"None scores more than a random answer ({_amount(advice, chance)})."


def _kept(advice: Advice) -> str:
    """Which candidates do not keep what they had to, and what each measure beside says; nothing if all keep it."""
    if not advice.left_out:
        return ""
    base, noun = METHODS[advice.situation.beside[0]["method"]].label, SHOWN.get(advice.situation.keeps, advice.situation.keeps)
    numbers = "; ".join(
        f"{SHOWN.get(measure, measure)} {_range([by[name] for name in advice.left_out if name in by], measure)}, "
        f"{PLAIN[base]} {_range([by[base]], measure)}"
        for measure, by in advice.shown.items()
        if base in by
    )
    if advice.sureness == guide.NOT_FAIR:
        return f"Each says less than {PLAIN[base]}, so a lower share is no better description: {numbers}."
    return f"Left out for less of «{noun}» than {PLAIN[base]}: {listed(advice.left_out)} ({numbers})."


def _range(values: Sequence[float], measure: str) -> str:
    """``37.1 to 46.0 %``; words are plain numbers."""
    words = [f"{value:.1f}" if measure == "num_words" else percent(value) for value in sorted(values)]
    ends = words[0] if words[0] == words[-1] else f"{words[0]} to {words[-1]}"
    return ends if measure == "num_words" else f"{ends}{THIN}%"


def _ahead(advice: Advice) -> str:
    """How the other candidates stand to the best one."""
    others = advice.ranking[1:]
    if not others:
        return f"{advice.ranking[0].name} alone is left."
    apart = [one for one in others if one.told_apart]
    one = apart[0] if apart else others[-1]
    which = "" if len(others) == 1 else "the nearest " if apart else "the farthest "
    many = f"{len(apart) or 'none'} of {len(others)} others {'are' if len(apart) > 1 else 'is'}"
    if len(apart) == len(others) or len(others) == 1:
        many = "the other is" if len(others) == 1 else f"all {len(others)} others are"
        many += "" if apart else " not"
    text = _sentence(f"{many} clearly worse, {which}{_behind(advice, one.behind)}: {one.name}")
    text += f" By score it lies {_points(advice.price[1])} behind {advice.price[0]}." if advice.price else ""
    return text + (f" Not enough runs yet: {_few(advice.waiting)}." if advice.waiting else "")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _few(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= MOST_NAMED else f"{names[0]} and {len(names) - 1} others"


def _amount(advice: Advice, value: float) -> str:
    if advice.situation.measure == STORED:
        return f"{value:,.0f} bytes"
    return f"an SD of {percent(value)} points" if advice.situation.measure == SEED_SD else f"{percent(value)}{THIN}%"


def _behind(advice: Advice, outcome: Outcome | None) -> str:
    """How far a candidate lies behind the best one: ``by 6.1 points (4.9 to 7.4)``, ``with 7.7 times as much``."""
    if advice.situation.measure not in RATIOS:
        return f"by {_points(outcome)}"
    if outcome is None or outcome.mean is None or outcome.low is None or outcome.high is None:
        return "by an unknown factor"
    mean, low, high = (f"{math.exp(min(end, 50)):.1f}" for end in (outcome.mean, outcome.low, outcome.high))
    return f"with {mean} times as much" + (f" ({low} to {high})" if low != high else "")


def _points(outcome: Outcome | None, sign: int = 0) -> str:
    """``6.1 points (4.9 to 7.4)``; with a sign of 1 or -1 as a signed difference, turned round by -1."""
    if outcome is None or outcome.mean is None or outcome.low is None or outcome.high is None:
        return "an unknown number of points"
    ends = (outcome.mean, outcome.low, outcome.high) if sign >= 0 else (-outcome.mean, -outcome.high, -outcome.low)
    mean, low, high = (percent(end, sign=sign != 0) for end in ends)
    return f"{mean} points ({low} to {high})"


def cheapest(advice: Advice) -> str | None:
    """Of several candidates that are not told apart, the one whose file is smallest; None without a choice or without files."""
    known = {name: advice.stored[name] for name in advice.kept if name in advice.stored}
    return min(known, key=lambda name: known[name]) if len(known) > 1 and len(known) == len(advice.kept) else None


def none_of_them(found: Advised) -> Prose:
    """In which situations no method gains more than the margin over doing without, or none reaches chance, and what is open."""
    asked = [one for one in found.found if one.situation.against]
    known = [one for one in asked if one.over and not one.waiting]
    if not known:
        return Prose("Whether any of the methods is worth its training is not known yet.")
    needless = [one for one in known if one.instead]
    blind = [one for one in known if one.below_chance and not one.instead]
    others = [one for one in known if one not in (*needless, *blind)]
    unclear = [one for one in others if any(not o.low or o.low <= 0 for o in _asked_against(one))]
    little = f"surely not more than {percent(found.margin, 0)} points above"
    parts = [f"{_quoted(one)}: the best of them is {little} {PLAIN[str(one.instead)]}." for one in needless]
    parts += [f"{_quoted(one)}: none of them is above a random answer." for one in blind]
    text = " ".join(parts) or f"In none of {len(known)} situations is doing without them as good."
    return Prose(f"{text} Not settled: {listed(map(_quoted, unclear))}." if unclear else text)


def _asked_against(advice: Advice) -> list[Outcome]:
    names = [METHODS[row["method"]].label for row in advice.situation.against]
    return [advice.over[name] for name in names if name in advice.over]


def _quoted(advice: Advice) -> str:
    return f"«{advice.situation.situation.rstrip('.')}»"


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------


def in_short(found: Advised, pages: str = "") -> Table:
    """The situations that the landing page opens with, and when to use none of the methods, a few lines each.

    Args:
        found: From :func:`advised`.
        pages: Where the questions' pages are, seen from the page that shows it.
    """
    rows = [(found.of(name), f"Take {taken(found.of(name))}.") for name in found.headlines]
    frame = pd.DataFrame([(one.situation.situation, text, why(one)) for one, text in rows], columns=["situation", "take", "why"])
    lines = [
        f"<p>{escape(one.situation.situation)} <b>{escape(text)}</b> {_dots(one.sureness)} {escape(how_sure(one))}. "
        f"{escape(why(one))}"
        f"<small>{_links(found, one, pages)}</small></p>"
        for one, text in rows
    ]
    lines.append(f"<p><b>When to use none of them.</b> {escape(none_of_them(found))}</p>")
    return Table(frame, f'<div class="answers">{"".join(lines)}</div>')


def table(found: Advised, pages: str = "") -> Table:
    """The guide: a row a situation with what to take, how sure that is, and why.

    Args:
        found: From :func:`advised`.
        pages: Where the questions' pages are, seen from the page that shows the table.
    """
    rows = [
        (one.situation.situation, taken(one), how_sure(one), reason(one), one.num_runs, one.num_planned) for one in found.found
    ]
    heads = ["situation", "take", "how sure", "why", "runs", "planned"]
    frame = pd.DataFrame(rows, columns=heads, index=[one.situation.id for one in found.found])
    body = "".join(_row(found, one, pages) for one in found.found)
    head = "".join(f"<th>{name}</th>" for name in heads[:4])
    return Table(frame, f'<table class="guide"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _row(found: Advised, advice: Advice, pages: str) -> str:
    cells = {
        "situation": escape(advice.situation.situation),
        "take": f"<b>{escape(taken(advice))}</b>{_small_file(advice)}",
        "how sure": f"{_dots(advice.sureness)} {escape(how_sure(advice))}",
        "why": f"{escape(reason(advice))}<small>{_links(found, advice, pages)}</small>",
    }
    told = "".join(f'<td data-label="{name}">{text}</td>' for name, text in cells.items())
    return f"<tr>{told}</tr>"


def _small_file(advice: Advice) -> str:
    name = None if advice.instead else cheapest(advice)
    return f"<small>smallest file: {escape(name)}</small>" if name else ""


def _dots(sureness: str) -> str:
    return f'<span class="dots" aria-hidden="true">{"●" * STRENGTH[sureness]}{"○" * (3 - STRENGTH[sureness])}</span>'


def _links(found: Advised, advice: Advice, pages: str) -> str:
    """The page with the runs, how many there are, and the entries of the ledger."""
    one = advice.situation
    links = [f'<a href="{pages}{one.question}.html">{one.question}</a>, {advice.num_runs} of {advice.num_planned} runs']
    for name in one.claims:
        verdict = found.verdicts[name].verdict
        links.append(f'<a href="{pages}claims.html#{name}" title="{verdict}">{MARKS[verdict]} {escape(name)}</a>')
    return " · ".join(links)


def legend() -> Table:
    """What each degree of sureness means."""
    rows = [(_dots(word), word, says) for word, says in guide.HOW_SURE.items()]
    frame = pd.DataFrame(rows, columns=["", "how sure", "means"])
    return Table(frame, to_html(frame, index=False))


def details(found: Advised) -> Table:
    """Every situation with all of its candidates, in a fold of its own."""
    rows = [(o.situation.id, one.name, one.value, one.told_apart) for o in found.found for one in o.ranking]
    frame = pd.DataFrame(rows, columns=["situation", "candidate", "value", "told apart"])
    return Table(frame, "".join(_fold(found, one) for one in found.found))


def _fold(found: Advised, advice: Advice) -> str:
    one = advice.situation
    direction = {"higher": "The highest is the best.", "lower": "The lowest is the best."}[one.better]
    absent = f"<p>Not at this scale: {escape(listed(advice.absent))}.</p>" if advice.absent else ""
    return (
        f'<details id="{one.id}"><summary>{escape(one.situation)} <b>{escape(taken(advice))}</b> ({escape(how_sure(advice))})'
        f"</summary><p>What decides: {escape(one.decides)}. {direction} {escape(why(advice))}</p>"
        f"{_ranking(advice)}{absent}<p>{_links(found, advice, '')}, scale {advice.scale}.</p></details>"
    )


def _ranking(advice: Advice) -> str:
    rows = [
        {
            "candidate": escape(one.name),
            escape(advice.situation.decides): _amount(advice, one.value),
            "behind the best": DASH if one.behind is None else _behind(advice, one.behind),
            "clearly worse": DASH if one.behind is None else "yes" if one.told_apart else "no",
            "stored bytes": f"{advice.stored[one.name]:,.0f}" if one.name in advice.stored else DASH,
        }
        for one in advice.ranking
    ]
    for name, value in advice.references.items():
        rows.append({"candidate": f"<i>{escape(name)}</i>", escape(advice.situation.decides): _amount(advice, value)})
    names = [*(one.name for one in advice.ranking), *advice.references]
    for row, name in zip(rows, names, strict=True):
        row |= {SHOWN.get(k, k): _range([by[name]], k) if name in by else DASH for k, by in advice.shown.items()}
    page = pd.DataFrame(rows).fillna(DASH)
    return f'<div class="wide-table">{to_html(page, index=False)}</div>' if rows else ""
