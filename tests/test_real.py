"""The real datasets on four rows each: hub and authors' files give the same examples, and what fails says why."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_fixture
import pytest
from PIL import Image

from mmpeft.errors import MmpeftError
from mmpeft.monitor import provenance
from mmpeft.real import shelf
from mmpeft.real.overlap import overlaps
from mmpeft.real.places import Folder, Hub, Item, Unreadable, first_readable
from mmpeft.real.task import RealTask, in_dev
from mmpeft.spec import RunSpec
from mmpeft.tasks import REAL
from mmpeft.tasks.okvqa import OKVQA
from mmpeft.tasks.vqav2 import VQAv2

ON_THE_HUB = [name for name in REAL if not name.startswith("coco-captions")]
OFFICIAL_ONLY = {("iconqa-txt", "train"), ("iconqa-blank", "train"), ("coco-captions", "test")}
"""What no copy on the hub has."""

CELLS = [("hub", name) for name in ON_THE_HUB] + [("official", name) for name in REAL]
every_cell = pytest.mark.parametrize(("where", "name"), CELLS, indirect=["where"])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both fixtures, written once."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    folder = tmp_path_factory.mktemp("data")
    hub_fixture.write_hub(folder / "hub")
    hub_fixture.write_official(folder / "official")
    return folder


@pytest.fixture(params=["hub", "official"])
def where(request: pytest.FixtureRequest, data: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either fixture as the user's folder of datasets."""
    monkeypatch.setenv("MMPEFT_DATA", str(data / request.param))
    return str(request.param)


@pytest.fixture
def official(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPEFT_DATA", str(data / "official"))


@pytest.fixture
def own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own."""
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def splits_in(task: RealTask, where: str) -> list[str]:
    return [name for name in task.splits if where == "official" or (task.dataset, name) not in OFFICIAL_ONLY]


def wrong(task: RealTask, examples: list[Any]) -> list[str]:
    """Readable answers that are not the right ones."""
    if task.dataset == "scienceqa":
        return [next(letter for letter in "AB" if letter != e.answer) for e in examples]
    return [next((c for c in e.choices if c != e.answers[0]), "xyzzy") for e in examples]


@every_cell
def test_the_right_answer_scores_one_a_wrong_one_nothing_and_nonsense_is_unparsed(name: str, where: str) -> None:
    task = REAL[name]
    for split in splits_in(task, where):
        examples = task.examples(split)
        right = task.score(examples, [e.answer for e in examples])
        assert all(right.parsed)
        if task.metric == "CIDEr-D":
            assert right.score > 1.0 or len(examples) == 1
            assert task.score(examples, ["qwertz uiop"] * len(examples)).score == 0.0
        else:
            assert right.per_item == [1.0] * len(examples) and right.score == 1.0
            off = task.score(examples, wrong(task, examples))
            said = 1.0 if task.dataset == "mmhal" else 0.0  # there only a judge tells right from wrong
            assert off.score == said and all(off.parsed)
        nonsense = task.score(examples, ["xyzzy" if examples[0].choices else " "] * len(examples))
        assert nonsense.score == 0.0 and not any(nonsense.parsed)


@every_cell
def test_splits_share_no_picture_and_every_picture_opens(name: str, where: str) -> None:
    task = REAL[name]
    seen: list[str] = []
    for split in splits_in(task, where):
        ids = {example.picture_id for example in task.examples(split)}
        assert all(task.picture(p).mode == "RGB" and task.picture(p).size == (32, 32) for p in ids)
        seen += ids
    assert len(set(seen)) == len(seen) >= 4


@pytest.mark.parametrize("name", [name for name in REAL if not name.endswith("-llava")])
def test_the_hub_and_the_authors_files_give_the_same_examples(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, found = REAL[name], {}
    for where in ("hub", "official"):
        monkeypatch.setenv("MMPEFT_DATA", str(data / where))
        for split in splits_in(task, "hub"):
            examples = [(e.example_id, e.picture_id, e.prompt, e.answer, e.answers, e.choices) for e in task.examples(split)]
            found[where, split] = (examples, task.split(split).manifest.ids_sha256)
    for split in splits_in(task, "hub"):
        assert found["hub", split] == found["official", split]


@pytest.mark.parametrize("name", REAL)
def test_a_real_task_says_what_it_is(name: str) -> None:
    task = REAL[name]
    assert task.name == name and task.version >= 1 and task.about.endswith(".")
    assert task.licence and task.homepage.startswith("https://") and task.official
    assert task.seen == (task.column in ("OKVQA", "OCRVQA", "VQAv2"))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("scienceqa", "which thing is this? A. dog, B. cat, C. apple"),
        (
            "scienceqa-llava",
            "which thing is this?\nA. dog\nB. cat\nC. apple\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "vizwiz",
            'Question: what is this? When the information is insufficient, respond with "Unanswerable". '
            "Answer the question using a single word or phrase.",
        ),
        (
            "vizwiz-llava",
            "what is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
            "Answer the question using a single word or phrase.",
        ),
        (
            "iconqa-txt",
            "what is on the left? Choices: dog, cat, apple, bus. Choose an option from the choices to answer the question.",
        ),
        (
            "iconqa-txt-llava",
            "Given a set of images and a question, please provide the answer to the question.\n"
            "Question: what is on the left?.\nOptions:\nA. dog\nB. cat, apple\nC. bus\n"
            "Please answer with the option letter from the given choices directly.",
        ),
        ("iconqa-blank", "what is on the left? Fill in the blanks in () or answer this question."),
        ("flickr30k-llava", "Provide a one-sentence caption for the provided image."),
        ("okvqa", "what is on the picture? Answer the question using a single word or phrase."),
        ("okvqa-llava", "what is on the picture?\nAnswer the question using a single word or phrase."),
    ],
)
def test_each_wording_is_that_of_its_source(name: str, prompt: str, official: None) -> None:
    assert prompt in {example.prompt for example in REAL[name].examples("test")}


def test_a_context_stands_before_the_question_only_where_there_is_one() -> None:
    task = REAL["scienceqa-llava"]
    item = Item("1", "p", "why?", ("A",), ("a", "b"), hint="It rains.")
    assert task.prompt(item).startswith("Context: It rains.\nwhy?\nA. a\nB. b\n")


def test_what_is_learned_follows_the_wording(official: None) -> None:
    texts, letters = REAL["iconqa-txt"].examples("train"), REAL["iconqa-txt-llava"].examples("train")
    assert {e.answer for e in texts} == {"dog", "cat, apple", "bus"} and {e.answer for e in letters} == {"A", "B", "C"}
    assert [e.answers for e in texts] == [e.answers for e in letters]


def test_a_choice_with_a_comma_stays_whole(where: str) -> None:
    assert REAL["iconqa-txt"].examples("test")[0].choices == ("dog", "cat, apple", "bus")


def test_a_question_without_a_picture_is_left_out(where: str) -> None:
    assert len(REAL["scienceqa"].examples("train")) == 3


# --------------------------------------------------------------------------------------------------
# Draws, dev, the shelf
# --------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[Item]:
    stored = hub_fixture.picture(1)
    return [Item(f"q{n}", f"coco/{n}", "what?", ("a",) * 10, picture=stored) for n in range(count)]


class Listed(Folder):
    """A place that lists these questions."""

    def __init__(self, items: list[Item]) -> None:
        object.__setattr__(self, "needs", ("listed",))
        object.__setattr__(self, "listed", items)

    def items(self, pictures: bool = True) -> Iterator[Item]:
        yield from self.listed  # type: ignore[attr-defined]


def test_a_draw_has_its_size_is_written_out_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    items = numbered(300)
    first = shelf.write(tmp_path / "set-v1" / "train", Listed(items), lambda item: True, 50, 0)
    again = shelf.write(tmp_path / "other" / "set-v1" / "train", Listed(items[::-1]), lambda item: True, 50, 0)
    assert first.manifest == again.manifest
    assert (first.manifest.num_examples, first.manifest.drawn) == (50, "50 of 300, seed 0")
    ids = (first.folder / "ids.txt").read_text().split()
    assert ids == [item.item_id for item in first.items] and len(set(ids)) == 50
    assert shelf.drawn([f"q{n}" for n in range(300)], 20, "set:0") == shelf.drawn(ids, 20, "set:0"), "draws are nested"
    other = shelf.write(tmp_path / "third" / "set-v1" / "train", Listed(items), lambda item: True, 50, 1)
    assert other.manifest.ids_sha256 != first.manifest.ids_sha256


def test_a_draw_takes_every_id_equally_often() -> None:
    ids = [f"q{n}" for n in range(40)]
    counts = dict.fromkeys(ids, 0)
    for seed in range(400):
        for one in shelf.drawn(ids, 10, f"set:{seed}"):
            counts[one] += 1
    expected, spread = 100.0, (400 * 0.25 * 0.75) ** 0.5
    assert max(abs(count - expected) for count in counts.values()) < 4 * spread


def test_a_killed_writer_leaves_no_split(tmp_path: Path) -> None:
    def broken(item: Item) -> bool:
        if item.item_id == "q7":
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        shelf.write(tmp_path / "set-v1" / "train", Listed(numbered(9)), broken, None, 0)
    assert not list((tmp_path / "set-v1").iterdir())


def test_dev_has_a_twentieth_of_the_training_pictures_and_the_same_ones_in_every_dataset() -> None:
    share = sum(in_dev(f"coco/{n}") for n in range(20_000)) / 20_000
    assert share == pytest.approx(0.05, abs=0.006)
    okvqa, vqav2 = OKVQA(), VQAv2()
    for item in numbered(400):
        assert okvqa.belongs(item, "dev") == vqav2.belongs(item, "dev") == (not vqav2.belongs(item, "train"))


def test_pictures_are_decoded_only_when_asked_for(official: None, own_shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    decode = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or decode(file))
    task = VQAv2()
    examples = [example for split in task.splits for example in task.examples(split)]
    assert len(examples) == 8 and not opened
    task.picture(examples[-1].picture_id)
    assert len(opened) == 1


def test_a_dataset_is_read_from_its_place_once(official: None, own_shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OKVQA().examples("test")

    def gone(*_: Any) -> Any:
        raise Unreadable("gone")

    monkeypatch.setattr(Folder, "items", gone)
    assert len(OKVQA().examples("test")) == 4
    with pytest.raises(MmpeftError, match="dataset okvqa, train: no place could be read"):
        OKVQA().examples("train")


def test_another_folder_of_datasets_has_a_shelf_of_its_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for where in (data / "hub", data / "official", None):
        if where:
            monkeypatch.setenv("MMPEFT_DATA", str(where))
        else:
            monkeypatch.delenv("MMPEFT_DATA")
        folders.add(shelf.folder_of("okvqa", 1))
    assert len(folders) == 3


def test_a_record_can_say_where_the_data_came_from(official: None) -> None:
    task = REAL["okvqa"]
    task.examples("test")
    said = task.provenance()["data_test"]
    assert said.startswith("$MMPEFT_DATA/okvqa/") and said.endswith(task.split("test").manifest.ids_sha256[:16])


def test_a_record_says_it_of_every_task_that_its_run_meets(official: None) -> None:
    fields = {"model": "toy", "task": "okvqa", "method": {"name": "zero-shot"}, "track": {"tasks": ["scienceqa", "pope"]}}
    spec = RunSpec.from_dict(fields)
    for task in ("okvqa", "scienceqa", "pope"):
        REAL[task].examples("test")
    said = provenance(spec)
    assert said["data_test"] == REAL["okvqa"].provenance()["data_test"]
    for task in ("scienceqa", "pope"):
        assert said[f"{task}: data_test"] == REAL[task].provenance()["data_test"]


def test_unknown_splits_pictures_and_too_many_examples_are_refused(official: None) -> None:
    with pytest.raises(MmpeftError, match=r"unknown split 'tset'\. Did you mean 'test'"):
        REAL["okvqa"].examples("tset")
    with pytest.raises(MmpeftError, match="unknown split 'train'"):
        REAL["pope"].examples("train")
    with pytest.raises(MmpeftError, match="is not a picture of"):
        REAL["okvqa"].picture("coco/0")
    with pytest.raises(MmpeftError, match="ask for fewer"):
        REAL["okvqa"].examples("test", 5)


def test_what_answers_without_looking_is_known_for_every_column(official: None) -> None:
    for task in REAL.values():
        blind = task.baselines()
        assert set(blind) == {"majority", "chance"} and all(0.0 <= score <= 10.0 for score in blind.values())


# --------------------------------------------------------------------------------------------------
# Shared pictures
# --------------------------------------------------------------------------------------------------


def test_the_fixtures_splits_share_no_picture_within_and_across_datasets(official: None) -> None:
    found = overlaps([REAL["vqav2"], REAL["okvqa"], REAL["pope"]])
    assert len(found) == 2 * 2 + 2 * 3 + 2 * 3
    assert not [one for one in found if one.shared]


def test_a_shared_picture_is_found_by_its_id_and_by_its_file(
    data: Path, tmp_path: Path, own_shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = [hub_fixture.COCO_VAL[1], *hub_fixture.COCO_TRAIN["okvqa"][1:]]
    monkeypatch.setitem(hub_fixture.COCO_TRAIN, "okvqa", leaking)
    monkeypatch.setenv("MMPEFT_DATA", str(hub_fixture.write_official(tmp_path / "leaking")))
    found = {(one.first, one.second): one for one in overlaps([OKVQA(), REAL["pope"]])}
    leak = found["okvqa/train", "pope/test"]
    assert (leak.by_id, leak.by_bytes, leak.num_second, leak.shared) == (1, 1, 4, True)
    assert found["okvqa/train", "okvqa/test"].by_id == 1


def test_the_command_says_what_is_on_the_shelf_shows_an_example_and_looks_for_shared_pictures(where: str) -> None:
    from typer.testing import CliRunner

    from mmpeft.__main__ import app

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["datasets", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})

    assert all(name in run().output for name in REAL)
    shown = run("okvqa", "pope", "--show", "--overlap")
    assert shown.exit_code == 0, shown.output
    assert "okvqa train: 3 examples of 3 pictures" in shown.output
    assert "<image>×4what is on the picture?" in shown.output and "labels: 'clock</s>'" in shown.output
    assert "0 of 5 pairs of splits share a picture" in shown.output
    assert "unknown dataset 'okvqua'. Did you mean 'okvqa'" in run("okvqua").output


# --------------------------------------------------------------------------------------------------
# What goes wrong
# --------------------------------------------------------------------------------------------------


def said_by(error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a user reads when the hub's own library raises this."""
    from huggingface_hub import HfApi

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.delenv("MMPEFT_DATA", raising=False)
    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    place = Hub("owner/name", "test", ("question",), lambda row: [])
    with pytest.raises(MmpeftError) as caught:
        first_readable("dataset x, test", [place], lambda one: list(one.items()))
    return str(caught.value)


def answered(status: int) -> Any:
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/datasets/owner/name"))


def test_a_missing_network_a_gated_set_a_moved_id_and_a_lost_revision_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub import errors

    assert "owner/name: no network; connect, or put a copy" in said_by(httpx.ConnectError("no route"), monkeypatch)
    assert "no network" in said_by(errors.OfflineModeIsEnabled("offline"), monkeypatch)
    gated = errors.GatedRepoError("gated", response=answered(403))
    assert "gated: accept its terms on its page, then log in" in said_by(gated, monkeypatch)
    moved = errors.RepositoryNotFoundError("404", response=answered(404))
    assert "not on the hub, or moved; look up its new name" in said_by(moved, monkeypatch)
    lost = errors.RevisionNotFoundError("404", response=answered(404))
    assert "the pinned revision is gone" in said_by(lost, monkeypatch)
    script = RuntimeError("Dataset scripts are no longer supported, but found x.py")
    assert "only a loading script" in said_by(script, monkeypatch)


@pytest.mark.parametrize("setting", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "refused"])
def test_a_hub_that_is_not_reached_says_so_itself(setting: dict[str, str]) -> None:
    """No double at all: the library's own offline mode and a refused connection, in a process of its own."""
    import subprocess
    import sys

    program = "from mmpeft.tasks import REAL; REAL['pope'].examples('test')"
    environment = {**os.environ, **setting}
    environment.pop("MMPEFT_DATA", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "MmpeftError: dataset pope, test: no place could be read." in done.stderr
    assert "lmms-lab-encoder/POPE: no network" in done.stderr and "lmms-lab/POPE: no network" in done.stderr


def test_a_changed_column_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPEFT_DATA", str(data / "hub"))
    place = Hub("lmms-lab-encoder/POPE", "test", ("question", "label"), lambda row: [])
    with pytest.raises(Unreadable, match=r"its columns have changed: no label among id, question_id, question.*pin an older"):
        list(place.items())


def test_a_hidden_split_is_said_and_its_files_are_read_all_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPEFT_DATA", str(data / "hub"))
    listed = Hub("lmms-lab-encoder/ScienceQA", "train", ("question",), lambda row: [], config="ScienceQA-IMG")
    with pytest.raises(Unreadable, match="the split is not listed on its card"):
        list(listed.items())
    assert len(REAL["scienceqa"].examples("train")) == 3


def test_missing_files_and_other_layouts_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = OKVQA.places["test"][0]
    monkeypatch.delenv("MMPEFT_DATA", raising=False)
    with pytest.raises(Unreadable, match="set MMPEFT_DATA to the folder"):
        list(place.items())
    monkeypatch.setenv("MMPEFT_DATA", str(tmp_path))
    with pytest.raises(Unreadable, match=r"not in MMPEFT_DATA .*download and unpack there"):
        list(place.items())
    hub_fixture.write_official(tmp_path)
    (tmp_path / "okvqa" / "mscoco_val2014_annotations.json").write_text("{}")
    with pytest.raises(Unreadable, match="not in the official layout"):
        list(place.items())


def test_the_next_place_is_taken_when_one_cannot_be_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPEFT_DATA", str(data / "hub"))
    places = (Folder(("nowhere",), lambda root: []), Hub("lmms-lab-encoder/POPE", "test", ("question",), lambda row: []))
    assert first_readable("x", places, lambda place: (list(place.items()), place.name)[1]).startswith("lmms-lab-encoder/POPE")


# --------------------------------------------------------------------------------------------------
# What captions invent
# --------------------------------------------------------------------------------------------------


def test_what_is_there_is_what_is_marked_and_what_the_references_name(official: None) -> None:
    task = REAL["coco-captions"]
    first = task.examples("test")[0]
    assert task.things(first.picture_id) == ("cat", "dog", "person")  # marked: cat; named: a puppy, a man


def test_a_caption_is_scored_for_what_it_invents(official: None) -> None:
    task = REAL["coco-captions"]
    examples = task.examples("test")
    said = ["a cat and two puppies beside a fire hydrant"] + ["some men"] * 3
    extra = task.score(examples, said).extra
    assert extra["chair_per_thing"] == pytest.approx(1 / 6)  # cat, puppies, hydrant; men three times
    assert extra["chair_per_caption"] == pytest.approx(1 / 4)
    assert extra["chair_recall"] == pytest.approx((2 / 3 + 1 / 3 * 3) / 4)
    assert extra["chair_num_words"] == pytest.approx((9 + 2 * 3) / 4)


@pytest.mark.parametrize(
    ("word", "thing"),
    [
        ("knives", "knife"),
        ("buses", "bus"),
        ("puppies", "dog"),
        ("hot dogs", "hot dog"),
        ("firemen", "person"),
        ("traffic lights", "traffic light"),
        ("toilet seat", "toilet"),
        ("teddy bears", "teddy bear"),
        ("benches", "bench"),
        ("wine glasses", "wine glass"),
    ],
)
def test_words_lead_to_cocos_names(word: str, thing: str) -> None:
    from mmpeft.real import coco

    assert coco.names()[word] == thing


def test_the_list_has_cocos_eighty_things_and_each_word_one_of_them() -> None:
    from mmpeft.real import coco

    assert len(set(coco.names().values())) == 80
    assert all(coco.names()[thing] == thing for thing in coco.names().values())


def test_a_name_of_several_words_is_no_mention_of_its_parts() -> None:
    from mmpeft.faithfulness import mentions
    from mmpeft.real import coco

    found = mentions("A hot dog, a teddy bear and a stop sign.", ("hot dog",), coco.names())
    assert found.right == ("hot dog",) and found.invented == ("teddy bear", "stop sign") and found.num_words == 10


def test_the_authors_list_takes_the_place_of_ours_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpeft.real import coco

    assert coco.words_used() == "mmpeft's coco.csv"
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "synonyms.txt").write_text("motorcycle,  motor bike, chopper\ndog, hound\n")
    monkeypatch.setenv("MMPEFT_DATA", str(tmp_path))
    assert coco.words_used() == "authors' synonyms.txt"
    assert coco.names()["choppers"] == "motorcycle" and coco.names()["motor bike"] == "motorcycle" and "kite" not in coco.names()


# --------------------------------------------------------------------------------------------------
# From the data to a record, and to the book
# --------------------------------------------------------------------------------------------------


def test_a_run_on_a_real_dataset_leaves_a_record_that_names_its_data(official: None) -> None:
    from mmpeft.run import run
    from mmpeft.spec import RunSpec

    train = {"num_examples": 3, "num_steps": 2, "batch_size": 2, "learning_rate": 0.01}
    fields = {"model": "toy", "task": "okvqa", "method": {"name": "lora", "r": 2}, "train": train, "eval": {"split": "test"}}
    outcome = run(RunSpec.from_dict(fields))
    assert outcome.record.status == "ok" and len(outcome.predictions) == 4
    assert {"score", "unparsed", "vqa_official", "vqa_evalai"} <= set(outcome.record.scores)
    said = outcome.record.environment
    assert all(said[f"data_{split}"].startswith("$MMPEFT_DATA/okvqa/") for split in ("train", "test"))


def test_pope_is_judged_under_three_parsers(where: str) -> None:
    task = REAL["pope"]
    examples = task.examples("test")
    scored = task.score(examples, ["Yes, there is." for _ in examples])
    assert scored.score == 0.5 and scored.extra["yes_share"] == 1.0
    assert [scored.extra[f"pope_{rate}"] for rate in ("accuracy", "recall", "f1")] == [0.5, 1.0, pytest.approx(2 / 3)]
    assert scored.extra["lmms-eval_accuracy"] == 0.0 and "lmms-eval_precision" not in scored.extra


def test_the_tables_of_the_book_say_sizes_licences_places_and_wordings() -> None:
    from mmpeft.study import dataset_tables

    sizes = dataset_tables.size_table().frame.set_index("dataset")
    assert len(sizes) == len({task.dataset for task in REAL.values()}) == 11
    assert sizes.loc["vqav2", ["train", "test"]].tolist() == ["20,000 drawn of about 421,569", "5,000 drawn of 214,354"]
    assert sizes.loc["pope", "train"] == "–" and sizes.loc["okvqa", "dev"] == "about 450"
    assert all("NC" in sizes.loc[name, "licence"] for name in ("scienceqa", "iconqa-txt", "iconqa-blank"))
    places = dataset_tables.place_table().frame.set_index("dataset")["hub, in this order"]
    assert places["iconqa-txt"].endswith("(not train)") and places["coco-captions"] == "–"
    assert "lmms-lab/flickr30k" not in places["flickr30k"]
    assert len(dataset_tables.wording_table("okvqa").frame) == 2
    with pytest.raises(MmpeftError, match="unknown dataset 'okvqua'"):
        dataset_tables.wording_table("okvqua")
