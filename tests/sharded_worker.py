"""Runs whose weights are cut in shards, on a CPU: the launch, and what each of its processes executes.

accelerate takes FSDP for GPUs alone and asks for none otherwise, though torch's own works over gloo too. Told that its
processes are of that kind, it does on CPUs what it does on GPUs: cut, gather, clip, put together again.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from mmpeft import launch


class Sharded(launch.Launch):
    """Launches two such processes, in the environment that accelerate's launcher makes of the configuration."""

    def command(self, folder: str) -> list[str]:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, folder]

    def _environment(self) -> dict[str, str]:
        arguments = launch_command_parser().parse_args(["--config_file", str(self.accelerate), "no_script.py"])
        return {**prepare_multi_gpu_env(_validate_launch_command(arguments)[0]), **super()._environment()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    launch.main(Path(sys.argv[1]))
