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

_KINDS = {  # share of each kind of question, for scenes of one kind of thing and for scenes of several
    True: {"what": 0.2, "count": 0.25, "background": 0.1, "yesno": 0.25, "or": 0.05, "caption": 0.15},
    False: {"what": 0.15, "where": 0.35, "count": 0.05, "background": 0.03, "yesno": 0.22, "or": 0.05, "caption": 0.15},
}


def scene_question(rng: Random, scene: Scene) -> Question:
    """A question of the seen mix about a scene: a vqav2 question or the caption."""
    mix = _KINDS[scene.kind in ("one", "copies")]
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "caption":
        return CAPTION_PROMPT, scenes.caption(scene)
    draft = question(rng, scene, kind)
    return draft.prompt, draft.answer


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


def words_rows(
    rng: Random, batch_size: int, count: int, letters: float = 0.3, sentences: float = 0.08, lists: float = 0.12
) -> list[Row]:
    """A batch of the words stage: repeated lists, letter look-ups, sentences, or imagined pictures."""
    roll = rng.random()
    if roll > 1 - lists:
        return [Row([repeated_list(rng) for _ in range(count)]) for _ in range(batch_size)]
    if roll < letters:
        return [Row([look_up(rng) for _ in range(count)]) for _ in range(batch_size)]
    if roll < letters + sentences:
        return [Row([("", language.sentence(rng)) for _ in range(count)], statement=True) for _ in range(batch_size)]
    return [imagined_row(rng, count) for _ in range(batch_size)]


def picture_row(rng: Random, task: MiniTask, what: Any, drafts: list[Question], count: int, index: int) -> Row:
    """A row of questions about a real picture: fresh ones about scenes, the task's own about flags and covers."""
    if task.name in ("mini-vqav2", "base-captions"):
        return Row([scene_question(rng, what) for _ in range(count)], index)
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
    rows: dict[str, list[Row]] = {"letter": []}
    while len(rows["letter"]) < count:
        asked, answer = look_up(rng, 4)
        if asked.startswith("which letter"):
            rows["letter"].append(Row([(asked, answer)]))
    for kind in ("what", "where", "count", "yesno", "or", "background"):
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
