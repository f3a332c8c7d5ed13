"""Every task keeps its promises: sizes, splits, scoring, words the base knows, the same on every machine."""

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mmpeft.errors import MmpeftError
from mmpeft.mini.scenes import Scene
from mmpeft.mini.task import MiniTask
from mmpeft.tasks import COLUMNS, Example
from mmpeft.tasks import MINI as TASKS

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "dev", "test")
SIZES = {"train": 4000, "dev": 500, "test": 1000}
CAPTIONS = "mini-flickr30k"
LETTERS = "mini-scienceqa"
CHOICES = ("mini-scienceqa", "mini-iconqa-txt", "mini-pope")
SAME_VOCABULARY = ("mini-okvqa", "mini-ocrvqa", "mini-vqav2")

def task_of(name: str) -> MiniTask:
    task = TASKS[name]
    assert isinstance(task, MiniTask)
    return task


def splits_of(name: str) -> list[str]:
    """The splits a task has for the study; one for evaluation only has none to train on."""
    return [split for split in SPLITS if split in task_of(name).num_pictures]


every_task = pytest.mark.parametrize("name", TASKS)
every_split = pytest.mark.parametrize(("name", "split"), [(name, split) for name in TASKS for split in splits_of(name)])


@cache
def shown(name: str, split: str) -> list[Any]:
    """What the pictures of a split show, before they are drawn."""
    task = task_of(name)
    return [task.composed(split, index)[0] for index in range(task.num_pictures[split])]


def wrong(task: MiniTask, example: Example) -> str:
    """A readable answer that is not the right one."""
    if task.name == LETTERS:
        return next(letter for letter in "AB" if letter != example.answer)
    if example.choices:
        return next(choice for choice in example.choices if choice != example.answer)
    return "xyzzy"


def test_the_columns_are_the_eight_of_the_paper() -> None:
    columns = ["Flickr30k", "IconQA-blank", "IconQA-txt", "OCRVQA", "OKVQA", "ScienceQA", "VQAv2", "VizWiz"]
    assert sorted(task.column for task in COLUMNS.values()) == columns
    assert sorted(name for name, task in TASKS.items() if task.seen) == sorted(SAME_VOCABULARY)


@every_task
def test_a_task_says_what_it_is(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.version >= 1
    assert task.max_new_tokens >= 1
    assert task.metric and task.about.endswith(".") and task.sources


@every_split
def test_a_split_has_its_size_and_ids_of_its_own(name: str, split: str) -> None:
    examples = TASKS[name].examples(split)
    assert len(examples) >= SIZES[split]
    assert len({example.example_id for example in examples}) == len(examples)


@every_task
def test_splits_share_no_picture(name: str) -> None:
    task = task_of(name)
    splits = [*splits_of(name), *(split for split in ("base",) if split in task.num_pictures)]
    pictures = [set(shown(name, split)) for split in splits]
    assert len(set.union(*pictures)) == sum(map(len, pictures))
    ids = [{example.picture_id for example in task.examples(split)} for split in splits_of(name)]
    assert len(set.union(*ids)) == sum(map(len, ids))


@pytest.mark.parametrize("name", [name for name in TASKS if name not in SAME_VOCABULARY])
def test_splits_of_an_unseen_task_share_no_thing(name: str) -> None:
    things = [{thing for scene in shown(name, split) for thing in scene.names} for split in splits_of(name)]
    assert all(len(each) >= 15 for each in things)
    assert len(set.union(*things)) == sum(map(len, things))


@every_task
def test_the_right_answer_scores_one(name: str) -> None:
    task = TASKS[name]
    examples = task.examples("test", 200)
    scored = task.score(examples, [example.answer for example in examples])
    assert all(scored.parsed)
    if name == CAPTIONS:
        assert scored.score > 1.0
    else:
        assert scored.per_item == [1.0] * len(examples)
        assert scored.score == 1.0


@every_task
def test_a_wrong_answer_scores_nothing_and_is_read(name: str) -> None:
    task = task_of(name)
    examples = task.examples("test", 200)
    scored = task.score(examples, [wrong(task, example) for example in examples])
    assert scored.per_item == [0.0] * len(examples)
    assert scored.score == 0.0
    assert all(scored.parsed)


@every_task
def test_an_answer_that_cannot_be_read_is_unparsed_and_scores_nothing(name: str) -> None:
    task = TASKS[name]
    examples = task.examples("test", 50)
    for nonsense in ("", "xyzzy" if name in CHOICES else " "):
        scored = task.score(examples, [nonsense] * len(examples))
        assert not any(scored.parsed)
        assert scored.score == 0.0


@every_task
def test_the_mean_of_the_items_is_the_score(name: str) -> None:
    task = TASKS[name]
    examples = task.examples("dev", 60)
    said = [example.answer if i % 3 else "xyzzy" for i, example in enumerate(examples)]
    scored = task.score(examples, said)
    assert scored.score == pytest.approx(sum(scored.per_item) / len(examples))
    assert scored.score > 0


@every_task
def test_guessing_is_far_from_right(name: str) -> None:
    baselines = TASKS[name].baselines(300)
    assert set(baselines) == {"majority", "chance"}
    assert all(0.0 <= score < 0.6 for score in baselines.values())


@every_task
def test_answers_are_words_that_the_base_knows(name: str) -> None:
    from mmpeft.mini.language import LETTERS as KNOWN_LETTERS
    from mmpeft.mini.language import words
    from mmpeft.models import load

    tokenizer = load("toy").tokenizer
    answers = {text for split in splits_of(name) for e in TASKS[name].examples(split) for text in (e.answer, *e.choices)}
    answers |= {text for e in TASKS[name].examples("test") for text in e.answers}
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers}
    assert not [text for text, tokens in ids.items() if tokenizer.unk_token_id in tokens]
    assert not [text for text, tokens in ids.items() if tokenizer.decode(tokens).strip() != text]
    if name != CAPTIONS:
        assert answers <= {*words(), *KNOWN_LETTERS}
        assert not [text for text, tokens in ids.items() if len(tokens) != 1]


@every_task
def test_prompts_hold_no_unknown_token(name: str) -> None:
    from mmpeft.models import load

    tokenizer = load("toy").tokenizer
    for example in TASKS[name].examples("test", 300):
        assert tokenizer.unk_token_id not in tokenizer(example.prompt)["input_ids"], example.prompt


@every_task
def test_the_longest_example_fits_the_default_length(name: str) -> None:
    from mmpeft.models import load
    from mmpeft.spec import TrainSpec

    tokenizer = load("toy").tokenizer
    texts = [f"{e.prompt} {e.answer}" for e in TASKS[name].examples(splits_of(name)[0])]
    longest = max(len(tokens) for tokens in tokenizer(texts)["input_ids"])
    assert longest + 16 + 4 <= TrainSpec().max_length


@every_task
def test_pictures_are_drawn_alike_each_time(name: str) -> None:
    task = TASKS[name]
    picture_id = task.examples("test")[0].picture_id
    picture = task.picture(picture_id)
    assert picture.mode == "RGB" and picture.size == (128, 128)
    assert picture.tobytes() == task.picture(picture_id).tobytes()
    assert len(picture.getcolors(2**14) or [0, 0]) > 1


@every_task
def test_a_question_about_two_pictures_sees_two_pictures(name: str) -> None:
    task = TASKS[name]
    first, second = dict.fromkeys(e.picture_id for e in task.examples("dev", 40)), set()
    for picture_id in list(first)[:4]:
        second.add(task.picture(picture_id).tobytes())
    assert len(second) == 4


@every_task
def test_smaller_subsets_lie_inside_larger_ones(name: str) -> None:
    task = TASKS[name]
    split = splits_of(name)[0]
    small, large = task.examples(split, 50, subset_seed=1), task.examples(split, 200, subset_seed=1)
    assert large[:50] == small
    assert len({e.example_id for e in large}) == 200
    assert task.examples(split, 50, subset_seed=2) != small


@every_task
def test_too_many_examples_and_unknown_splits_are_refused(name: str) -> None:
    with pytest.raises(MmpeftError, match="ask for fewer"):
        TASKS[name].examples("dev", 100_000)
    with pytest.raises(MmpeftError, match=r"unknown split 'tset'\. Did you mean 'test'"):
        TASKS[name].examples("tset")
    with pytest.raises(MmpeftError, match="is not a picture of"):
        TASKS[name].picture("mini/else/0")


EXAMPLES = """
import hashlib
from mmpeft.tasks import MINI
for name, task in MINI.items():
    rows = [repr(e) for split in ("train", "dev", "test") if split in task.num_pictures for e in task.examples(split, 300)]
    print(name, hashlib.sha256("".join(rows).encode()).hexdigest())
"""


def test_examples_do_not_depend_on_the_process() -> None:
    """Sets are ordered by hash, and hashes of texts by the process: none may reach an example."""

    def made(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", EXAMPLES], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert made("1") == made("2")


def test_what_is_for_evaluation_only_has_no_train_split() -> None:
    assert [name for name in TASKS if splits_of(name) != list(SPLITS)] == [name for name in TASKS if name not in COLUMNS]


def test_a_task_for_evaluation_only_is_not_trained_on() -> None:
    from mmpeft.plan import Planned
    from mmpeft.spec import RunSpec

    fields = {"model": "toy", "task": "mini-pope", "method": {"name": "zero-shot"}}
    assert Planned.of(RunSpec.from_dict(fields))
    trained = {**fields, "method": {"name": "lora"}, "train": {"num_steps": 1, "learning_rate": 0.1}}
    with pytest.raises(MmpeftError, match="'mini-pope' is for evaluation only; name it in track"):
        Planned.of(RunSpec.from_dict(trained))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_yes_and_no_are_balanced_in_every_kind_and_true(split: str) -> None:
    task = task_of("mini-pope")
    rows = task.examples(split, 120)
    counts = Counter((row.kind, row.answer) for row in rows)
    assert len(counts) == 6 and set(counts.values()) == {20}
    for row in task.examples(split):
        thing = row.prompt.removeprefix("is there a ").split(" in the image")[0]
        assert (thing in task.things(row.picture_id)) == (row.answer == "yes")


def test_each_kind_of_absent_thing_follows_its_rule() -> None:
    from mmpeft.mini import world
    from mmpeft.tasks.mini_pope import popular

    task, groups = task_of("mini-pope"), {name: thing.group for name, thing in world.things().items()}
    for row in task.examples("test"):
        thing = row.prompt.removeprefix("is there a ").split(" in the image")[0]
        if row.answer == "no" and row.kind == "popular":
            assert thing in popular("test")
        if row.answer == "no" and row.kind == "adversarial":
            assert groups[thing] in {groups[name] for name in task.things(row.picture_id)}


def test_its_pictures_are_those_of_the_captions() -> None:
    captions, asked = task_of(CAPTIONS), task_of("mini-pope")
    assert asked.things("mini-pope/test/7") == captions.things("mini-flickr30k/test/7")
    assert asked.picture("mini-pope/test/7").tobytes() == captions.picture("mini-flickr30k/test/7").tobytes()


def test_every_word_for_a_thing_leads_to_a_name_and_every_thing_is_named() -> None:
    from mmpeft.mini import world

    names = task_of(CAPTIONS).names()
    assert {names[thing] for thing in world.things()} == set(world.things())
    assert set(names.values()) <= {*world.things(), *world.icons()}
    assert all(names[name] == name for name in names.values())
    assert (names["bike"], names["dog"]) == ("bicycle", "dog")


def test_things_have_facts_of_their_own_and_a_split() -> None:
    from mmpeft.mini import world

    things, split = world.things(), world.thing_split()
    assert len(things) >= 300
    assert sorted(name for names in split.values() for name in names) == sorted(things)
    assert all(thing.group and thing.place for thing in things.values())
    groups = {thing.group for thing in things.values()}
    for names in split.values():
        assert {things[name].group for name in names} == groups


def test_a_scene_names_each_thing_once() -> None:
    for scene in shown("mini-vqav2", "dev"):
        assert isinstance(scene, Scene)
        assert len(scene.names) == len(set(scene.names))
