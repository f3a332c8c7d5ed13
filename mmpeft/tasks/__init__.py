"""TASKS: every dataset the study knows, one file each."""

from mmpeft.task import Example, Scored, Task
from mmpeft.tasks.mini_flickr30k import MiniFlickr30k
from mmpeft.tasks.mini_iconqa_blank import MiniIconQABlank
from mmpeft.tasks.mini_iconqa_txt import MiniIconQATxt
from mmpeft.tasks.mini_ocrvqa import MiniOCRVQA
from mmpeft.tasks.mini_okvqa import MiniOKVQA
from mmpeft.tasks.mini_pope import MiniPope
from mmpeft.tasks.mini_scienceqa import MiniScienceQA
from mmpeft.tasks.mini_vizwiz import MiniVizWiz
from mmpeft.tasks.mini_vqav2 import MiniVQAv2

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        MiniScienceQA(),
        MiniVizWiz(),
        MiniIconQATxt(),
        MiniIconQABlank(),
        MiniFlickr30k(),
        MiniOKVQA(),
        MiniOCRVQA(),
        MiniVQAv2(),
        MiniPope(),
    )
}

COLUMNS = {name: task for name, task in TASKS.items() if not task.evaluation_only}
"""The columns of the comparison: the tasks that models are trained on."""

__all__ = ["COLUMNS", "TASKS", "Example", "Scored", "Task"]
