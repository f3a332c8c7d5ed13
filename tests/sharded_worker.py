"""Runs whose weights are cut in shards, on a CPU: the launch, and what each of its processes executes.

accelerate takes FSDP and DeepSpeed for GPUs alone and asks for neither otherwise, though both work over gloo too. Told that its
processes are of that kind, it does on CPUs what it does on GPUs: cut, gather, clip, put together again.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, is_deepspeed_available, parse_flag_from_env
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from mmpeft import launch, train

needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="needs `pip install deepspeed`")
SHARDED = ["fsdp", *(pytest.param(name, marks=needs_deepspeed) for name in ("zero2", "zero3"))]
"""The configurations that cut weights, for a test to go through."""


class Sharded(launch.Launch):
    """Launches two such processes, in the environment that accelerate's launcher makes of the configuration."""

    def command(self, folder: str) -> list[str]:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, folder]

    def _environment(self) -> dict[str, str]:
        given = launch_command_parser().parse_args(["--config_file", str(self.accelerate), "no_script.py"])
        arguments, defaults, _ = _validate_launch_command(given)
        if not arguments.use_deepspeed:
            return {**prepare_multi_gpu_env(arguments), **super()._environment()}
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        on_cpu = {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
        return {**prepare_deepspeed_cmd_env(arguments)[1], **on_cpu, **super()._environment()}


def begin_deepspeed() -> None:
    """Lets DeepSpeed begin as it does on GPUs, but for its C++ operator for shared memory, which only its inference takes."""
    import deepspeed

    def accelerator(**options: Any) -> Accelerator:
        return Accelerator(**{**options, "cpu": False})

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(backend="gloo")
    train.Accelerator = accelerator


def begin_fsdp() -> None:
    """Lets accelerate take processes on CPUs for such on GPUs."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    torch.set_num_threads(1)
    begin = begin_deepspeed if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") else begin_fsdp
    begin()
    launch.main(Path(sys.argv[1]))
