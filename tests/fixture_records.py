"""Records that no run made: scores drawn from a rule, for tests of tables, figures and pages."""

import zlib
from collections.abc import Callable

import numpy as np

from mmpeft.plan import Planned, Question
from mmpeft.records import Record, Store
from mmpeft.spec import RunSpec
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
    return Question.from_parameters({**own, **parameters, **changes})


def fill(store: Store, planned: list[Planned], rule: Rule = by_size, *, missing: float = 0.0, failed: float = 0.0) -> Store:
    """The store with a record of every planned run, but for the shares that are missing or have failed."""
    for run in planned:
        luck = np.random.default_rng(zlib.crc32(run.run_id.encode())).random()
        if luck < failed:
            store.save(Record.failure(run, "TrainingDiverged: the loss is <nan> at step 3", "2026-11-22T00:00:00+00:00"))
        elif luck >= failed + missing:
            store.save(_record(run), _predictions(run.spec, rule(run.spec)))
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
