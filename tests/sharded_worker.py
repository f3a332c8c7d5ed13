"""One process of a run whose weights are cut in shards, on a CPU: `python -m torch.distributed.run … sharded_worker.py FOLDER`.

accelerate takes FSDP and DeepSpeed for GPUs alone and asks for neither otherwise, though both work over gloo too. Told that its
processes are of that kind, it does on CPUs what it does on GPUs: cut, gather, clip, put together again.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, parse_flag_from_env

from mmpeft import launch, train


def begin_deepspeed() -> None:
    """Lets DeepSpeed begin as it does on GPUs, but for its C++ operator for shared memory, which only its inference takes."""
    import deepspeed

    def accelerator(**options: Any) -> Accelerator:
        return Accelerator(**{**options, "cpu": False})

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo")
    train.Accelerator = accelerator


torch.set_num_threads(1)
if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
    begin_deepspeed()
else:
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
launch.main(Path(sys.argv[1]))
