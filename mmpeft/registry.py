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
    return _task(task).evaluation_only


def task_version(task: str) -> int:
    """The version of the task's data, prompt and metric.

    Raises:
        MmpeftError: There is no task of this name.
    """
    return _task(task).version


def _task(name: str) -> Task:
    from mmpeft.tasks import TASKS

    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


@cache
def known_dims(model: str) -> Dims | None:
    """The sizes of a model's decoder, by its published configuration; None for a model that comes without one."""
    return MODELS[model].dims if model in MODELS else None


__all__ = ["DATA", "RANDOM", "evaluation_only", "fingerprint", "known_dims", "task_version"]
