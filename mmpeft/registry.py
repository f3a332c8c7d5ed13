"""What a run_id needs to know without loading anything: the base's fingerprint and the task's version."""

from pathlib import Path

from mmpeft.errors import unknown
from mmpeft.task import Task

DATA = Path(__file__).parent / "data"

RANDOM = {"toy": "toy-1"}
"""Models made from a seed: the version of their recipe takes the place of a hash."""


def fingerprint(model: str) -> str:
    """The hash of the model's weights, from the package's data.

    Raises:
        MmpeftError: There is no model of this name.
    """
    if model in RANDOM:
        return RANDOM[model]
    packaged = {path.parent.name for path in DATA.glob("*/fingerprint.txt")}
    if model not in packaged:
        raise unknown("model", model, packaged | set(RANDOM))
    return (DATA / model / "fingerprint.txt").read_text(encoding="utf-8").strip()


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
