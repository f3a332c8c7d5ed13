"""METHODS: every way of adapting a model, by name. A new one is one file here and one line below."""

from mmpeft.methods.adapter import Adapter
from mmpeft.methods.base import Method
from mmpeft.methods.baselines import Connector, Full, ZeroShot
from mmpeft.methods.ia3 import Ia3
from mmpeft.methods.lora import Lora
from mmpeft.methods.prefix import Prefix

METHODS: dict[str, type[Method]] = {
    "zero-shot": ZeroShot,
    "connector": Connector,
    "full": Full,
    "lora": Lora,
    "ia3": Ia3,
    "adapter": Adapter,
    "prefix": Prefix,
}
"""The registry, in the order that tables list it: baselines, then methods."""

__all__ = ["METHODS", "Adapter", "Connector", "Full", "Ia3", "Lora", "Method", "Prefix", "ZeroShot"]
