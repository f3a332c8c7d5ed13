"""What is known of a model or a task without loading it: a base's fingerprint and sizes, a task's version."""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from mmpeft.entry import Dims, dims_of
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


@cache
def packaged_dims(model: str) -> Dims | None:
    """The sizes of a packaged model's decoder, from its config file; None for a model that comes without one."""
    path = DATA / model / "config.json"
    if not path.is_file():
        return None
    return dims_of(json.loads(path.read_text(encoding="utf-8"), object_hook=lambda fields: SimpleNamespace(**fields)))
