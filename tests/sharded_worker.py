"""One process of a run whose weights are cut in shards, on a CPU: `python -m torch.distributed.run … sharded_worker.py FOLDER`.

accelerate takes FSDP for GPUs alone and asks for none otherwise, though torch's own works over gloo too. Told that its
processes are of that kind, it does on CPUs what it does on GPUs: cut, gather, clip, put together again.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from mmpeft import launch

torch.set_num_threads(1)
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
launch.main(Path(sys.argv[1]))
