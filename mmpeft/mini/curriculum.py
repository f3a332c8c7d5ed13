"""What a base is asked, in each stage: lists, look-ups, sentences, and questions about imagined and real pictures."""

from random import Random
from typing import Any

from mmpeft.mini import language, scenes, world
from mmpeft.mini.captions import PROMPT as CAPTION_PROMPT
from mmpeft.mini.draw import Cover, Flag
from mmpeft.mini.imagined import Imagined, imagine
from mmpeft.mini.language import look_up
from mmpeft.mini.packing import NUM_IMAGE_TOKENS, Question, Row
from mmpeft.mini.scenes import Scene, random_scene
from mmpeft.mini.task import MiniTask
from mmpeft.tasks.mini_ocrvqa import QUESTIONS as FILM_QUESTIONS
from mmpeft.tasks.mini_okvqa import FLAG_QUESTIONS, THING_QUESTIONS
from mmpeft.tasks.mini_vqav2 import SUFFIX, question

# Share of each kind of question, for scenes of one kind of thing and for scenes of several.
_ALONE = {"what": 14, "group": 10, "which": 12, "count": 20, "background": 7, "yesno": 20, "or": 5, "caption": 12}
_SEVERAL = {"what": 13, "group": 8, "which": 10, "where": 28, "count": 5, "background": 3, "yesno": 17, "or": 6, "caption": 10}
_POLISH = {"what": 20, "group": 3, "which": 5, "where": 50, "count": 2, "background": 1, "yesno": 22, "or": 4, "caption": 8}


def scene_question(rng: Random, scene: Scene, polish: bool = False) -> Question:
    """A question of the seen mix about a scene, a vqav2 question or the caption; ``polish`` asks more of what comes last."""
    mix = _ALONE if scene.kind in ("one", "copies") else _POLISH if polish else _SEVERAL
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "caption":
        return CAPTION_PROMPT, scenes.caption(scene)
    draft = question(rng, scene, kind)
    return (chatter(rng, draft.prompt) if rng.random() < 0.15 else draft.prompt), draft.answer


def chatter(rng: Random, prompt: str) -> str:
    """The prompt among words that do not matter, so that a base does not stumble over a new turn of phrase."""
    words = " ".join(rng.sample(language.CHATTER, rng.randint(1, 5)))
    return f"{words} {prompt}" if rng.random() < 0.5 else prompt.replace(SUFFIX, f"{words} {SUFFIX}")


def imagined_row(rng: Random, count: int) -> Row:
    """A row of questions about an imagined picture: a scene, a flag, a thing or a cover."""
    roll = rng.random()
    if roll < 0.8:
        scene = random_scene(rng, tuple(world.things()))
        return Row([scene_question(rng, scene) for _ in range(count)], imagine(scene))
    if roll < 0.88:
        country = rng.choice(tuple(world.countries().values()))
        asked = [(f"{FLAG_QUESTIONS[f]} {SUFFIX}", getattr(country, f)) for f in rng.sample(list(FLAG_QUESTIONS), 3)]
        cells = [c for c in range(NUM_IMAGE_TOKENS) if 4 <= c < 12 or rng.random() < 0.3]
        return Row(asked, Imagined([([country.name], cells)], rng.choice(tuple(world.COLORS))))
    if roll < 0.95:
        thing = rng.choice([t for t in world.things().values() if t.use or t.eats])
        scene = random_scene(rng, (thing.name,), "one")
        kind = "eats" if thing.eats else "use"
        asked = [(f"{THING_QUESTIONS[kind]} {SUFFIX}", getattr(thing, kind))]
        return Row(asked + [scene_question(rng, scene) for _ in range(count - 1)], imagine(scene))
    film = rng.choice(tuple(world.films().values()))
    asked = [(f"{FILM_QUESTIONS[f]} {SUFFIX}", getattr(film, f)) for f in FILM_QUESTIONS]
    return Row(asked, Imagined([([film.name], list(range(4, 12)))], None))


def repeated_list(rng: Random) -> Question:
    """A list of words to be said again: what teaches a decoder to match and to copy."""
    listed = " ".join(rng.sample(language.words(), rng.randint(4, 12)))
    return listed, listed


def fact_look_up(rng: Random) -> Question:
    """A fact of a named thing, chosen by letter: what a language model knows before it ever sees a picture."""
    thing = rng.choice(tuple(world.things().values()))
    field = rng.choice([f for f in ("group", "place", "material", "use") if getattr(thing, f)])
    fact = getattr(thing, field)
    choices = rng.sample([v for v in world.values(field) if v != fact], rng.choice([1, 2, 3]))
    choices.insert(rng.randint(0, len(choices)), fact)
    listed = ", ".join(f"{language.LETTERS[i]}. {c}" for i, c in enumerate(choices))
    return f"which letter is the {field} of {thing.name}? {listed}", language.LETTERS[choices.index(fact)]


def words_rows(
    rng: Random, batch_size: int, count: int, shares: tuple[float, float, float, float] = (0.1, 0.22, 0.14, 0.1)
) -> list[Row]:
    """A batch of the words stage, all rows of one sort.

    Args:
        rng: The source of all that is random in it.
        batch_size: Rows.
        count: Questions offered to each row.
        shares: Of repeated lists, letter look-ups, look-ups of facts, and sentences; the rest are imagined pictures.
    """
    sorts = ("list", "letter", "fact", "sentence", "picture")
    sort = rng.choices(sorts, [*shares, 1 - sum(shares)])[0]
    if sort == "picture":
        return [imagined_row(rng, count) for _ in range(batch_size)]
    if sort == "sentence":
        return [Row([("", language.sentence(rng)) for _ in range(count)], statement=True) for _ in range(batch_size)]
    ask = {"list": repeated_list, "letter": look_up, "fact": fact_look_up}[sort]
    return [Row([ask(rng) for _ in range(count)]) for _ in range(batch_size)]


def picture_row(rng: Random, task: MiniTask, what: Any, drafts: list[Question], count: int, index: int, polish: bool) -> Row:
    """A row of questions about a real picture: fresh ones about scenes, the task's own about flags and covers."""
    if task.name in ("mini-vqav2", "base-captions"):
        return Row([scene_question(rng, what, polish) for _ in range(count)], index)
    asked = list(drafts)
    if isinstance(what, Flag):
        country = next(c for c in world.countries().values() if c.code == what.code)
        asked = [(f"{text} {SUFFIX}", getattr(country, f)) for f, text in FLAG_QUESTIONS.items()]
    if isinstance(what, Scene):
        asked = [drafts[0], *(scene_question(rng, what) for _ in range(count - 1))]
    if isinstance(what, Cover):
        film = world.films()[what.title.lower()]
        asked = [(f"{text} {SUFFIX}", getattr(film, f)) for f, text in FILM_QUESTIONS.items()]
    rng.shuffle(asked)
    return Row(asked, index)


def probes(rng: Random, count: int, pictures: list[tuple[Scene, Any]] | None) -> dict[str, list[Row]]:
    """Single-question rows by kind: letter look-ups, and questions about imagined (or the given) pictures."""
    rows: dict[str, list[Row]] = {"letter": [], "fact": [Row([fact_look_up(rng)]) for _ in range(count)]}
    while len(rows["letter"]) < count:
        asked, answer = look_up(rng, 4)
        if asked.startswith("which letter"):
            rows["letter"].append(Row([(asked, answer)]))
    for kind in ("what", "which", "where", "count", "yesno", "or", "background"):
        rows[kind] = []
        while len(rows[kind]) < count:
            if pictures is None:
                scene = random_scene(rng, tuple(world.things()))
                shown: Any = imagine(scene)
            else:
                scene, shown = rng.choice(pictures)
            if kind == "where" and scene.kind not in ("two", "several"):
                continue
            draft = question(rng, scene, kind)
            rows[kind].append(Row([(draft.prompt, draft.answer)], shown))
    return rows
