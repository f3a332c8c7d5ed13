"""What is known of a model or a task without loading it: a base's fingerprint and sizes, a task's version."""

from functools import cache

from mmpeft.entry import Dims
from mmpeft.errors import unknown
from mmpeft.models import MODELS, Seeded, known
from mmpeft.models.base import DATA
from mmpeft.task import Task

RANDOM = {name for name, model in MODELS.items() if isinstance(model.source, Seeded)}
"""Models made from a seed, about which no run says anything."""


def fingerprint(model: str) -> str:
    """What stands for the model's weights in a run_id: their hash, or the place on the hub that they come from.

    Raises:
        MmpeftError: There is no model of this name.
    """
    return known(model).fingerprint


def evaluation_only(task: str) -> bool:
    """Whether the task is there to ask models, not to train them.

    Raises:
        MmpeftError: There is no task of this name.
    """
    return known_task(task).evaluation_only


def packaged(task: str) -> bool:
    """Whether the package holds the task's data, so that its pictures are drawn; else they are downloaded.

    Raises:
        MmpeftError: There is no task of this name.
    """
    from mmpeft.tasks import MINI

    return known_task(task).name in MINI


def task_version(task: str) -> int:
    """The version of the task's data, prompt and metric.

    Raises:
        MmpeftError: There is no task of this name.
    """
    return known_task(task).version


def known_task(name: str) -> Task:
    """The task of this name.

    Raises:
        MmpeftError: There is none.
    """
    from mmpeft.tasks import TASKS

    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


@cache
def known_dims(model: str) -> Dims | None:
    """The sizes of a model's decoder, by its published configuration; None for a model that comes without one."""
    return MODELS[model].dims if model in MODELS else None


__all__ = ["DATA", "RANDOM", "evaluation_only", "fingerprint", "known_dims", "known_task", "packaged", "task_version"]
