"""GPUs by their sheets, and what is assumed of them beside: how much of its speed and memory a training reaches.

The share of the speed is said with every table that rests on it: measure yours and pass it on.
"""

from dataclasses import dataclass

from mmpeft.calc import GIB, measured_error
from mmpeft.errors import unknown

USED_SHARE = 0.35
"""Of a GPU's matrix peak, in training and in reading a prompt: what such models often reach, an assumption."""

LAYER_SECONDS = 0.0005
"""The least time of a decoder layer in one pass, however small, for starting its kernels one by one; an assumption too."""

LOADING_BANDWIDTH = 1e9
"""Bytes a second at which a base comes from a disk or a shared folder; a run reads it twice, the second time to prove that what
was frozen stayed as it was. An assumption too."""

HEADROOM_RATIO = 0.92
"""Of a GPU's memory a step may ask for; the rest goes to the runtime and to gaps between tensors."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its sheet.

    Attributes:
        memory_bytes: Of the card.
        flops: Dense bf16 matrix operations a second.
        bandwidth: Bytes a second from its memory.
        dollars_per_hour: Rented, order of magnitude at the end of 2026.
    """

    memory_bytes: float
    flops: float
    bandwidth: float
    dollars_per_hour: float


GPUS = {
    "h200": Gpu(141e9, 989e12, 4.8e12, 3.5),
    "h100": Gpu(80e9, 989e12, 3.35e12, 2.5),
    "a100-80": Gpu(80e9, 312e12, 2.0e12, 1.8),
    "a100-40": Gpu(40e9, 312e12, 1.55e12, 1.3),
    "l40s": Gpu(48e9, 362e12, 0.86e12, 1.0),
    "rtx-4090": Gpu(24e9, 165e12, 1.0e12, 0.5),
}


def gpu_of(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        MmpeftError: Its sheet is not here.
    """
    if name not in GPUS:
        raise unknown("gpu", name, GPUS)
    return GPUS[name]


def assumptions(gpu_name: str, used_share: float = USED_SHARE) -> str:
    """What the figures stand on, in two sentences."""
    found, gpu = measured_error(), gpu_of(gpu_name)
    return (
        f"Assumed: {used_share:.0%} of {gpu_name}'s {gpu.flops / 1e12:.0f} TFLOP/s are reached, {HEADROOM_RATIO:.0%} of its "
        f"{gpu.memory_bytes / GIB:.0f} GiB can be used, a layer takes {1000 * LAYER_SECONDS:g} ms at least, weights "
        f"are read at {LOADING_BANDWIDTH / 1e9:g} GB/s, an hour costs ${gpu.dollars_per_hour:.2f}; the vision encoder runs in "
        "each pass, but for packaged models, whose features are kept. "
        f"Error of the calculator on {found.num_setups} small models on a CPU: kept bytes {found.memory_median:.1%} (median), "
        f"{found.memory_worst:.1%} (worst); operations {found.flops_median:.1%}, {found.flops_worst:.1%}. "
        "Hours follow from the share that is reached; benchmarks/gpu_cost.py measures it on a GPU."
    )
