"""What a run needs, by arithmetic: parameters, memory, operations; nothing is loaded, so 13B costs no more than a toy.

    peak memory = weights + gradients + AdamW's two moments + activations kept for the backward pass + one layer's work

Frozen weights count 2 bytes under bf16 and 4 under fp32; what trains is kept in fp32 (and, under bf16, once more as the copy
that the forward pass uses). `benchmarks/calculator.py` measures kept bytes and operations on models that fit a CPU;
`measured_error` is what it found. Letters: B examples of a pass, T tokens of a sequence, N image tokens, A answer tokens,
D hidden width, H query width, K key/value width, F intermediate width, V vocabulary, L layers, M virtual tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from mmpeft.entry import Dims, Location
from mmpeft.errors import MmpeftError
from mmpeft.methods import Method
from mmpeft.models import MODELS, Model, known
from mmpeft.spec import RunSpec

GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """How large a whole model is.

    Attributes:
        dims: Of its decoder.
        vision_encoder: Parameters.
        connector: Parameters.
        vision_width: Width of what the connector reads.
        num_image_tokens: N.
        encoder_flops: Operations of the vision encoder on one picture; 0 where its features are kept, and it does not run.
    """

    dims: Dims
    vision_encoder: int
    connector: int
    vision_width: int = 1024
    num_image_tokens: int = 576
    encoder_flops: float = 0.0

    @property
    def total(self) -> int:
        """All parameters: decoder, vision encoder, connector."""
        return self.dims.num_parameters + self.vision_encoder + self.connector

    def shape(self, prompt: int, answer: int) -> "Shape":
        """The sequences of a prompt and an answer of so many tokens, with a picture before them."""
        return Shape(self.num_image_tokens + prompt + answer, answer + 1)


ENCODERS = {"clip_vision_model": 303_507_456, "mmpeft_lite_encoder": 4_652_008}
"""Parameters of the vision encoders: CLIP ViT-L/14 at 336 pixels, EfficientNet-lite0."""


@cache
def sizes_of(model: str) -> Sizes:
    """The sizes of a model of the study, from its published configuration: a decoder behind LLaVA's connector of two layers.

    Raises:
        MmpeftError: No such model, or one of another kind, which this arithmetic does not know.
    """
    found = known(model)
    if found.entry.kind != "llava" or found.dims is None:
        raise MmpeftError(f"model '{model}': the calculator knows LLaVA's parts alone; take one of {', '.join(costed())}.")
    return sizes_in(found, ENCODERS[found.config["vision_config"]["model_type"]])


def sizes_in(model: Model, encoder: int) -> Sizes:
    """The same from an entry with such parts, whose vision encoder has so many parameters."""
    assert model.dims is not None
    vision, width = model.config["vision_config"], model.dims.hidden_size
    connector = (vision["hidden_size"] + 1) * width + (width + 1) * width
    flops = 0.0 if model.caches_features else _encoder_flops(vision, encoder)
    return Sizes(model.dims, encoder, connector, vision["hidden_size"], model.num_image_tokens, flops)


def _encoder_flops(vision: Mapping[str, Any], num_parameters: int) -> float:
    """2 operations a parameter and patch, and 4 T D a patch and layer for attention, T patches of width D."""
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    return 2.0 * num_parameters * patches + 4.0 * patches**2 * vision["hidden_size"] * vision["num_hidden_layers"]


def costed() -> list[str]:
    """The models whose costs can be computed."""
    return [name for name, model in MODELS.items() if model.entry.kind == "llava" and model.config]


@dataclass(frozen=True)
class Shape:
    """The sequences of a run.

    Attributes:
        num_tokens: T, image tokens included.
        num_answer_tokens: A, from the last prompt token on: what goes through the output head.
    """

    num_tokens: int
    num_answer_tokens: int


@dataclass(frozen=True)
class Setup:
    """One configuration: a model, what trains in it, and how.

    Attributes:
        sizes: The model's.
        method: What is put on it.
        location: Where.
        connector_tuned: Whether the connector trains.
        half: Whether the forward pass is in bf16.
        checkpointing: Whether activations are computed again.
    """

    sizes: Sizes
    method: Method
    location: Location = "both"
    connector_tuned: bool = False
    half: bool = True
    checkpointing: bool = False

    @classmethod
    def of(cls, spec: RunSpec) -> "Setup":
        """The configuration of a run."""
        train = spec.train
        half, again = train.precision == "bf16", train.gradient_checkpointing
        return cls(sizes_of(spec.model), spec.method, spec.location, spec.connector.tuned, half, again)

    @property
    def trained(self) -> int:
        """Parameters that train."""
        tuned = self.sizes.connector * (self.connector_tuned or self.method.tunes_connector)
        return self.method.num_trainable(self.sizes.dims, self.location) + tuned

    @property
    def in_place(self) -> bool:
        """Whether the decoder's own weights train."""
        return self.trained >= self.sizes.dims.num_parameters

    @property
    def frozen(self) -> int:
        """Parameters of the base that stay as they are."""
        tuned = self.sizes.connector * (self.connector_tuned or self.method.tunes_connector)
        return self.sizes.total - tuned - self.sizes.dims.num_parameters * self.in_place


def kept_bytes(setup: Setup, batch_size: int, shape: Shape) -> float:
    """Bytes that the forward pass of B examples leaves for the backward pass, parameters themselves apart.

    A frozen Llama layer keeps of each token 8 D (the inputs of two norms, in fp32), 2 H + 2 K (queries, keys, values and the
    attention's result), 3 F (gate, its activation, up), the row of the attention mask, and a few numbers a head.
    """
    if not setup.trained:
        return 0.0
    dims, b = setup.sizes.dims, 2 if setup.half else 4
    tokens = batch_size * shape.num_tokens
    norms = 8 * dims.hidden_size + 8 + 4 * dims.num_attention_heads
    attention = b * (2 * dims.query_size + 2 * dims.key_value_size) * (1 + _share_of_prefix(setup, shape))
    mask = b * (shape.num_tokens + setup.method.num_extra_keys)
    layer = norms + attention + mask + b * 3 * dims.intermediate_size
    layer += setup.method.saved_bytes(dims, setup.location, setup.half)
    weight_copies = 2 * setup.trained if setup.half else 0
    head_copy = 2 * dims.vocab_size * dims.hidden_size if setup.half and setup.in_place else 0
    if not setup.checkpointing:
        return tokens * dims.num_layers * layer + _around_the_layers(setup, batch_size, shape) + weight_copies
    boundary = (4 if setup.in_place else b) * dims.hidden_size
    return tokens * dims.num_layers * boundary + _around_the_layers(setup, batch_size, shape) + head_copy


def _share_of_prefix(setup: Setup, shape: Shape) -> float:
    """How much the virtual tokens add to a layer's keys and values, as a share of all that attention keeps."""
    dims = setup.sizes.dims
    keys = 2 * dims.key_value_size / (2 * dims.query_size + 2 * dims.key_value_size)
    return keys * setup.method.num_extra_keys / shape.num_tokens


def _around_the_layers(setup: Setup, batch_size: int, shape: Shape) -> float:
    """Bytes kept by the last norm (twice where its weight trains), the loss, the connector."""
    dims, b = setup.sizes.dims, 2 if setup.half else 4
    last_norm = batch_size * shape.num_tokens * 4 * (dims.hidden_size + 1) * (2 if setup.in_place else 1)
    loss = batch_size * shape.num_answer_tokens * 4 * dims.vocab_size
    tuned = setup.connector_tuned or setup.method.tunes_connector
    connector = batch_size * setup.sizes.num_image_tokens * b * (setup.sizes.vision_width + 2 * dims.hidden_size) if tuned else 0
    return last_norm + loss + connector


def forward_flops(setup: Setup, batch_size: int, shape: Shape) -> float:
    """Floating-point operations of a forward pass over B examples: 2 in · out a token and linear map, 4 T H a token and layer.

    The attention's mask saves nothing, and the output head sees the answers' positions alone. The vision encoder's are among
    them where it runs.
    """
    dims, tokens = setup.sizes.dims, batch_size * shape.num_tokens
    own = 2 * setup.method.num_matrix_weights(dims, setup.location) * tokens
    seeing = batch_size * (2 * setup.sizes.connector * setup.sizes.num_image_tokens + setup.sizes.encoder_flops)
    return _linear(setup, tokens) + _attention(setup, tokens, shape) + _head(setup, batch_size, shape) + own + seeing


def step_flops(setup: Setup, batch_size: int, shape: Shape) -> float:
    """Floating-point operations of a forward and a backward pass over B examples.

    The backward pass costs a linear map as much as the forward pass for the gradient that goes through it, and once more
    where its weight trains; attention costs 2.5 times as much, since the scores are computed again.
    """
    dims, tokens = setup.sizes.dims, batch_size * shape.num_tokens
    own = 2 * setup.method.num_matrix_weights(dims, setup.location) * tokens
    layers = _linear(setup, tokens) + _attention(setup, tokens, shape) + own
    weights = own + setup.in_place * (_linear(setup, tokens) + _head(setup, batch_size, shape))
    backward = _linear(setup, tokens) + 2.5 * _attention(setup, tokens, shape) + own + _head(setup, batch_size, shape) + weights
    if setup.connector_tuned or setup.method.tunes_connector:  # nothing needs the gradient of what its first map reads
        backward += 2 * setup.sizes.connector * batch_size * setup.sizes.num_image_tokens * 1.5
    return forward_flops(setup, batch_size, shape) + setup.checkpointing * layers + backward


def _linear(setup: Setup, tokens: int) -> float:
    dims = setup.sizes.dims
    return 2.0 * sum(i * o for i, o in dims.linears("both")) * dims.num_layers * tokens


def _attention(setup: Setup, tokens: int, shape: Shape) -> float:
    dims = setup.sizes.dims
    return 4.0 * (shape.num_tokens + setup.method.num_extra_keys) * dims.query_size * dims.num_layers * tokens


def _head(setup: Setup, batch_size: int, shape: Shape) -> float:
    dims = setup.sizes.dims
    return 2.0 * dims.hidden_size * dims.vocab_size * batch_size * shape.num_answer_tokens


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step on one device, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


def step_memory(setup: Setup, batch_size: int, shape: Shape) -> Memory:
    """Where the memory of a training step goes, for B examples on one device.

    The working part is what is alive for a moment: the loss's logits and their gradients, or, if larger, one layer's
    backward pass, which under checkpointing keeps the layer once more.
    """
    dims, b = setup.sizes.dims, 2 if setup.half else 4
    logits = batch_size * shape.num_answer_tokens * dims.vocab_size * (4 + 4 + b)
    layer: float = batch_size * shape.num_tokens * b * 4 * dims.intermediate_size
    if setup.checkpointing:
        plain = Setup(setup.sizes, setup.method, setup.location, setup.connector_tuned, setup.half)
        all_layers = kept_bytes(plain, batch_size, shape) - _around_the_layers(setup, batch_size, shape)
        layer += all_layers / dims.num_layers
    return Memory(
        weights=setup.frozen * b + setup.trained * 4,
        gradients=setup.trained * 4,
        optimizer=setup.trained * 8,
        activations=kept_bytes(setup, batch_size, shape),
        working=max(logits, layer),
    )


def answering_memory(setup: Setup, batch_size: int, num_tokens: int) -> float:
    """Bytes while B answers are written: the weights, keys and values of every token, one layer's work on the prompts.

    Args:
        setup: The configuration; nothing is kept for a backward pass.
        batch_size: B.
        num_tokens: Of a sequence at its longest, image tokens and the whole answer included.
    """
    dims, b = setup.sizes.dims, 2 if setup.half else 4
    weights = setup.frozen * b + setup.trained * 4
    cache = batch_size * (num_tokens + setup.method.num_extra_keys) * dims.num_layers * 2 * dims.key_value_size * b
    return weights + cache + batch_size * num_tokens * b * (3 * dims.intermediate_size + 2 * dims.hidden_size)


@cache
def measurements() -> pd.DataFrame:
    """What `benchmarks/calculator.py` measured: one row a configuration, beside what was computed for it."""
    path = files("mmpeft") / "data" / "calculator.csv"
    if not path.is_file():
        raise MmpeftError("calculator: not measured; make data/calculator.csv with benchmarks/calculator.py.")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)


@dataclass(frozen=True)
class Errors:
    """How far the calculator was from what was measured: shares of the measured value."""

    num_setups: int
    memory_median: float
    memory_worst: float
    flops_median: float
    flops_worst: float


@cache
def measured_error() -> Errors:
    """The errors over all measured configurations."""
    found = measurements()
    memory = (found["computed_bytes"] / found["measured_bytes"] - 1).abs()
    flops = (found["computed_flops"] / found["measured_flops"] - 1).abs()
    return Errors(len(found), *(float(each) for column in (memory, flops) for each in (column.median(), column.max())))
