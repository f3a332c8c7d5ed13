"""TASKS: every dataset the study knows, one file each."""

from mmpeft.real.task import RealTask
from mmpeft.task import Example, Scored, Task
from mmpeft.tasks.coco_captions import CocoCaptions
from mmpeft.tasks.flickr30k import Flickr30k
from mmpeft.tasks.iconqa import IconQABlank, IconQATxt
from mmpeft.tasks.mini_flickr30k import MiniFlickr30k
from mmpeft.tasks.mini_iconqa_blank import MiniIconQABlank
from mmpeft.tasks.mini_iconqa_txt import MiniIconQATxt
from mmpeft.tasks.mini_ocrvqa import MiniOCRVQA
from mmpeft.tasks.mini_okvqa import MiniOKVQA
from mmpeft.tasks.mini_pope import MiniPope
from mmpeft.tasks.mini_scienceqa import MiniScienceQA
from mmpeft.tasks.mini_vizwiz import MiniVizWiz
from mmpeft.tasks.mini_vqav2 import MiniVQAv2
from mmpeft.tasks.mmhal import MMHal
from mmpeft.tasks.ocrvqa import OCRVQA
from mmpeft.tasks.okvqa import OKVQA
from mmpeft.tasks.pope import Pope
from mmpeft.tasks.scienceqa import ScienceQA
from mmpeft.tasks.vizwiz import VizWiz
from mmpeft.tasks.vqav2 import VQAv2

MINI: dict[str, Task] = {
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
"""The packaged ones."""

_REAL = (ScienceQA, VizWiz, IconQATxt, IconQABlank, Flickr30k, OKVQA, OCRVQA, VQAv2, Pope, CocoCaptions, MMHal)

REAL: dict[str, RealTask] = {task.name: task for kind in _REAL for task in map(kind, kind.prompts)}
"""The downloaded ones, each in every wording: ``okvqa`` in the first, ``okvqa-llava``."""

TASKS: dict[str, Task] = {**MINI, **REAL}

COLUMNS = {name: task for name, task in MINI.items() if not task.evaluation_only}
"""The columns of the comparison, as the package holds them: the tasks that models are trained on."""

__all__ = ["COLUMNS", "MINI", "REAL", "TASKS", "Example", "Scored", "Task"]
