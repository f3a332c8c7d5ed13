"""Records that no run made: scores drawn from a rule, for tests of tables, figures and pages."""

import zlib
from collections.abc import Callable

import numpy as np

from mmpeft.monitor import asked_on_the_way, due
from mmpeft.plan import Planned, Question
from mmpeft.records import Checkpoint, Record, Store
from mmpeft.spec import RunSpec
from mmpeft.study.comparison import full_marks
from mmpeft.task import Example, Task
from mmpeft.tasks import TASKS

NUM_EXAMPLES = 60
SIZES = {"zero-shot": 0, "connector": 300, "full": 9000, "lora": 1400, "ia3": 90, "adapter": 900, "prefix": 200}

Rule = Callable[[RunSpec], float]
"""The share of right answers that a run is given."""


def by_size(spec: RunSpec) -> float:
    """On unseen tasks more parameters and a tuned connector help; on seen tasks nothing does anything."""
    if TASKS[spec.task].seen:
        return 0.8
    return 0.1 + 0.06 * np.log1p(SIZES[spec.method.name]) + 0.15 * spec.connector.tuned


def question(name: str = "method", **changes: object) -> Question:
    """A question of params at the scale tiny, about the random model and on few examples."""
    parameters = {"question": name, "scale": "tiny", "model": "toy", "eval": {"num_examples": NUM_EXAMPLES}}
    own = Question.load(f"params/{name}.yaml", "params/scales/tiny.yaml").model_dump(exclude={"model", "eval", "store"})
    few = {"seeds": [0, 1, 2]} if name == "method" else {}  # the page that most tests invent runs for
    return Question.from_parameters({**own, **few, **parameters, **changes})


def fill(store: Store, planned: list[Planned], rule: Rule = by_size, *, missing: float = 0.0, failed: float = 0.0) -> Store:
    """The store with a record of every planned run, but for the shares that are missing or have failed."""
    for run in planned:
        luck = np.random.default_rng(zlib.crc32(run.run_id.encode())).random()
        if luck < failed:
            store.save(Record.failure(run, "TrainingDiverged: the loss is <nan> at step 3", "2026-11-22T00:00:00+00:00"))
        elif luck >= failed + missing:
            checkpoints, tracked = _tracked(run.spec)
            record = _record(run).model_copy(update={"track": checkpoints})
            store.save(record, _predictions(run.spec, rule(run.spec)), tracked)
    return store


def _predictions(spec: RunSpec, share: float) -> list[dict[str, object]]:
    """Answers to items of unlike difficulty, the same items for every run of a task."""
    difficulty = np.random.default_rng(zlib.crc32(spec.task.encode())).random(NUM_EXAMPLES)
    luck = np.random.default_rng(spec.seed).random(NUM_EXAMPLES)
    unit = 7.0 if TASKS[spec.task].metric == "CIDEr-D" else 1.0
    right = 0.8 * difficulty + 0.2 * luck < share
    return [
        {
            "example_id": f"{spec.task}/{i}",
            "picture_id": f"picture {i}",
            "prediction": "yes",
            "answers": ["yes"],
            "score": unit * float(score),
            "parsed": True,
        }
        for i, score in enumerate(right)
    ]


def forgetful(spec: RunSpec, task: str, epoch: int) -> float:
    """The share of right answers on the way: the source rises, the others fall, the Adapter's least and Prefix's most."""
    if spec.method.name == "zero-shot" or epoch == 0:
        return 0.55
    worth = {"adapter": 1.0, "lora": 0.7, "ia3": 0.75, "prefix": 0.0}.get(spec.method.name, 0.5)
    return 0.9 if task == spec.task else 0.55 - 0.05 * epoch * (1 - worth)


def _tracked(spec: RunSpec) -> tuple[list[Checkpoint], list[dict[str, object]]]:
    """What a run might have said on the way: answers to the tasks' own examples; dev loss is least at epoch 4."""
    asked = asked_on_the_way(spec)
    epochs = sorted(due(spec, spec.train.num_examples or 0).values()) if asked else []
    lines: list[dict[str, object]] = []
    checkpoints = []
    for one in asked:
        difficulty = np.random.default_rng(zlib.crc32(one.task.name.encode())).random(len(one.examples))
        luck = np.random.default_rng(spec.seed + 1).random(len(one.examples))
        right = [0.8 * difficulty + 0.2 * luck < forgetful(spec, one.task.name, epoch) for epoch in epochs]
        for i, example in enumerate(one.examples):
            said = [_said(one.task, example, bool(marks[i])) for marks in right]
            unit = full_marks(one.task.name)
            names = {"task": one.task.name, "example_id": example.example_id, "picture_id": example.picture_id}
            lines.append({**names, "predictions": said, "scores": [0.7 * unit * float(marks[i]) for marks in right]})
        for epoch, marks in zip(epochs, right, strict=True):
            scores = {"score": float(np.mean(marks)), "unparsed": 0.0}
            scores |= {"loss": 1.0 + 0.1 * abs(epoch - 4)} if one.own else {}
            made = {"epoch": epoch, "step": 50 * epoch, "task": one.task.name, "split": one.split}
            checkpoints.append(Checkpoint(**made, num_examples=len(one.examples), scores=scores))
    order = {(point.epoch, point.task): point for point in checkpoints}
    return [order[epoch, one.task.name] for epoch in epochs for one in asked], lines


def _said(task: Task, example: Example, right: bool) -> str:
    """The right answer, or a wrong one: of captions, one that names a thing which is hardly there."""
    if right:
        return example.answer
    if task.metric == "CIDEr-D":
        return "a dog next to a <b>cat</b>"
    return {"yes": "no.", "no": "Yes, there is."}.get(example.answer, "xyzzy")


def _record(run: Planned) -> Record:
    return Record(
        run_id=run.run_id,
        status="ok",
        spec=run.spec,
        task_version=run.task_version,
        fingerprint=run.fingerprint,
        scores={"score": 0.5, "unparsed": 0.0},
        cost={"trainable_params": SIZES[run.spec.method.name] + 10 * run.spec.connector.tuned, "train_seconds": 1.0},
        environment={"device": "cpu test", "git_commit": "0123456789ab"},
        started_at="2026-11-22T00:00:00+00:00",
    )
