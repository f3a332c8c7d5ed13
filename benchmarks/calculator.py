"""How far the calculator is from what a training step really keeps and computes, on random models that fit a CPU.

    python benchmarks/calculator.py        writes mmpeft/data/calculator.csv, which the calculator prints its error from

Bytes are counted where autograd keeps tensors (saved_tensors_hooks; each storage once, parameters apart), operations by
torch's FlopCounterMode: neither depends on the machine's allocator or load.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmpeft.attach import attach
from mmpeft.calc import Setup, Shape, Sizes, kept_bytes, step_flops
from mmpeft.entry import LLAVA_PARTS, ModelEntry, dims_of
from mmpeft.loading import halve
from mmpeft.methods import METHODS, Method
from mmpeft.spec import parse
from mmpeft.train import answer_loss, recompute_activations

ENTRY = ModelEntry(name="measured", **LLAVA_PARTS)
MODELS = {  # hidden, intermediate, layers, query heads, key/value heads, vocabulary
    "tiny": (64, 176, 4, 4, 4, 512),
    "medium": (256, 688, 8, 8, 8, 2048),
    "grouped": (256, 688, 8, 8, 2, 2048),
}
# No dropout: a GPU keeps its mask in one byte a number, as is computed, a CPU in four.
ROWS: list[tuple[str, dict[str, object], str]] = [
    ("connector", {}, "both"),
    ("full", {}, "both"),
    ("lora", {"r": 8}, "both"),
    ("lora", {"r": 8}, "attention"),
    ("ia3", {}, "both"),
    ("adapter", {"bottleneck_size": 16}, "mlp"),
    ("adapter", {"bottleneck_size": 16}, "both"),
    ("prefix", {"num_virtual_tokens": 20}, "both"),
]
IMAGE_TOKENS, VISION_WIDTH, B, T, A = 16, 32, 2, 128, 4

ATTENTION = {  # torch counts this kernel on GPUs alone; the same formulas hold on a CPU
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


def build(name: str) -> LlavaForConditionalGeneration:
    """A random LLaVA of these sizes."""
    width, inner, layers, heads, key_value_heads, vocab = MODELS[name]
    text = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocab - 1,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def batch(vocab: int) -> dict[str, torch.Tensor]:
    """Left-padded sequences with a picture each, answers of A tokens."""
    ids = torch.randint(3, vocab - 1, (B, T))
    ids[:, 8 : 8 + IMAGE_TOKENS] = vocab - 1
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    labels = torch.full_like(ids, -100)
    labels[:, -A + 1 :] = ids[:, -A + 1 :]
    positions = (mask.cumsum(-1) - 1).clamp(0)
    pixels = torch.randn(B, 3, 16, 16)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "pixel_values": pixels, "labels": labels}


def measure(name: str, method: Method, location: str, tuned: bool, half: bool, again: bool) -> tuple[int, int, Setup]:
    """Bytes kept and operations of one step, and the configuration as the calculator knows it."""
    torch.manual_seed(0)
    model = build(name)
    tuned = tuned or method.tunes_connector
    connector = sum(p.numel() for p in model.get_submodule(ENTRY.connector).parameters())
    sizes = Sizes(dims_of(model.config), 0, connector, VISION_WIDTH, IMAGE_TOKENS)
    if half:
        halve(model)
        for path in (*method.trained_parts(ENTRY), *([ENTRY.connector] if tuned else [])):
            model.get_submodule(path).float()
    inputs = batch(MODELS[name][-1])
    seen = FlopCounterMode(display=False, custom_mapping=ATTENTION)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half), seen:
        model.get_submodule(ENTRY.vision_encoder)(inputs["pixel_values"])
    model = attach(model, ENTRY, method, location, tuned, 0).train()
    if again:
        recompute_activations(model)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given out again
        return tensor

    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = answer_loss(model, inputs)
        num_bytes = sum(storage.nbytes() for storage in kept.values())
        loss.backward()
    return num_bytes, counter.get_total_flops() - seen.get_total_flops(), Setup(sizes, method, location, tuned, half, again)


def rows() -> Iterator[dict[str, object]]:
    """One row a configuration; beside the methods that need it, the connector is tuned in the smallest model alone."""
    for name, (method_name, fields, location), half, again in product(MODELS, ROWS, (False, True), (False, True)):
        method = parse(METHODS[method_name], fields)
        if again and not method.checkpointable:
            continue
        for tuned in (True,) if method.tunes_connector else (False, True) if name == "tiny" else (False,):
            num_bytes, flops, setup = measure(name, method, location, tuned, half, again)
            yield {
                "model": name,
                "method": method_name,
                "fields": " ".join(f"{key}={value}" for key, value in fields.items()),
                "location": location,
                "connector": "tuned" if tuned else "frozen",
                "precision": "bf16" if half else "fp32",
                "checkpointing": again,
                "measured_bytes": num_bytes,
                "computed_bytes": round(kept_bytes(setup, B, Shape(T, A))),
                "measured_flops": flops,
                "computed_flops": round(step_flops(setup, B, Shape(T, A))),
            }


def main() -> None:
    torch.set_num_threads(1)
    found = pd.DataFrame(rows())
    found.to_csv(Path(__file__).parent.parent / "mmpeft" / "data" / "calculator.csv", index=False, lineterminator="\n")
    for what in ("bytes", "flops"):
        found[f"{what}_off"] = (found[f"computed_{what}"] / found[f"measured_{what}"] - 1).round(3)
    by = ["method", "fields", "location", "precision", "checkpointing", "model"]
    print(found.groupby(by)[["bytes_off", "flops_off"]].mean().to_string())
    print(found[["bytes_off", "flops_off"]].abs().describe())


if __name__ == "__main__":
    main()
