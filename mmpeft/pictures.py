"""The pictures that a plan needs, and their vision features computed ahead of the runs: several processes, one bar.

A run computes what is missing by itself; ahead of a sweep it is quicker, and no two runs compute the same picture.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from mmpeft.models import known
from mmpeft.plan import Planned

if TYPE_CHECKING:
    from mmpeft.features import FeatureStore
    from mmpeft.task import Task

FEW = 256
"""So many pictures are computed sooner than processes start."""


def pictures_of(planned: Sequence[Planned]) -> dict[str, list[tuple["Task", list[str]]]]:
    """Picture ids by model and task, each once, in the order of the plan."""
    from mmpeft.monitor import asked_on_the_way
    from mmpeft.run import examples_of
    from mmpeft.tasks import TASKS

    found: dict[str, dict[str, dict[str, None]]] = {}
    for spec in (one.spec for one in planned):
        training, judged = examples_of(spec, TASKS[spec.task])
        wanted = [(spec.task, [*training, *judged])] + [(each.task.name, each.examples) for each in asked_on_the_way(spec)]
        for task, examples in wanted:
            ids = found.setdefault(spec.model, {}).setdefault(task, {})
            ids.update(dict.fromkeys(example.picture_id for example in examples))
    return {model: [(TASKS[name], list(ids)) for name, ids in tasks.items()] for model, tasks in found.items()}


def prepare_features(planned: Sequence[Planned], workers: int) -> int:
    """How many pictures' features were computed; those in the cache are left as they are.

    Args:
        planned: The runs whose pictures are wanted.
        workers: Processes, one thread each.

    Raises:
        MmpeftError: A model or a data package is missing.
    """
    from mmpeft.features import prepare

    return sum(
        prepare(partial(_feature_store, model), wanted, workers)
        for model, wanted in pictures_of([one for one in planned if known(one.spec.model).caches_features]).items()
        if sum(len(ids) for _, ids in wanted) > FEW
    )


def _feature_store(model: str) -> "FeatureStore":
    """The feature cache of a model; processes import this by name."""
    from mmpeft.models import load

    return cast("FeatureStore", load(model).features())
