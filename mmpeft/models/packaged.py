"""Models that need no hub: tiny-llava, whose weights are in the package, and toy, a random one for tests."""

import json

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import DATA, Model, Packaged, Seeded

PROMPT_FORMAT = "USER: <image>\n{prompt} ASSISTANT:"


def _published(name: str) -> dict:
    path = DATA / name / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


TINY_LLAVA = Model(
    entry=ModelEntry(name="tiny-llava", prompt_format=PROMPT_FORMAT, **LLAVA_PARTS),
    about="our own small LLaVA on packaged pictures",
    source=Packaged(),
    config=_published("tiny-llava"),
    num_image_tokens=16,
)
TOY = Model(
    entry=ModelEntry(name="toy", prompt_format=PROMPT_FORMAT, **LLAVA_PARTS),
    about="a random model for tests",
    source=Seeded("toy-1"),
    num_image_tokens=4,
)
