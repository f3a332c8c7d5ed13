"""The recipe of tiny-llava: from pip packages to a pretrained multimodal base on two CPU cores.

Three stages, each of which starts where the last one ended:

1. **words**: the decoder alone learns sentences about the world, to look up letters in lists, and to answer questions about
   *imagined* pictures, whose 16 image tokens are sums of word embeddings with noise;
2. **alignment**: the connector alone learns to turn patches of real pictures into the embeddings of the words that name them;
3. **pictures**, and once more as **polish**: connector and decoder learn captions and the seen tasks (okvqa, ocrvqa, vqav2) on
   real pictures, while a share of the words stage goes on.

As in the paper (App. A.2) the base is trained on captions and on the seen tasks and never meets an unseen one.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpeft.features import CachedEncoder, FeatureStore, prepare
from mmpeft.files import cache_folder
from mmpeft.loading import fingerprint_of
from mmpeft.mini import language
from mmpeft.mini.captions import PROMPT as CAPTION_PROMPT
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.card import measure
from mmpeft.mini.imagined import Dreamer
from mmpeft.mini.language import look_up
from mmpeft.mini.packing import NUM_IMAGE_TOKENS, Packer
from mmpeft.mini.stages import Recipe, Vocabulary, Workshop, align, build, hang, learn_pictures, learn_words
from mmpeft.mini.task import MiniTask
from mmpeft.tasks import COLUMNS
from mmpeft.tasks.mini_ocrvqa import MiniOCRVQA
from mmpeft.tasks.mini_okvqa import MiniOKVQA
from mmpeft.tasks.mini_vqav2 import MiniVQAv2
from mmpeft.vision import LiteEncoder, LiteEncoderConfig, pixels

SEEN: tuple[MiniTask, ...] = (MiniVQAv2(), MiniOKVQA(), MiniOCRVQA(), BaseCaptions())


def base_pictures(split: str = "base", tasks: tuple[MiniTask, ...] = SEEN) -> list[tuple[MiniTask, list[str]]]:
    """The pictures a base learns from (or those of another split), by task."""
    return [(t, [f"{t.name}/{split}/{i}" for i in range(t.num_pictures[split])]) for t in tasks]


def patch_statistics(num_pictures: int = 800) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1728,) of raw patches over pictures of all the base's tasks."""
    encoder = LiteEncoder(LiteEncoderConfig())
    encoder.load_backbone()
    each = num_pictures // len(SEEN)
    pictures = [t.picture(f"{t.name}/base/{i}") for t in SEEN for i in range(each)]
    with torch.no_grad():
        raw = torch.cat([encoder.raw_patches(p) for p in pixels(pictures)])
    return raw.mean(0), raw.std(0) + 1e-3


def encoder_store(mean: Tensor, std: Tensor) -> FeatureStore:
    """The feature cache of the encoder with these statistics."""
    encoder = LiteEncoder(LiteEncoderConfig())
    encoder.load_backbone()
    encoder.mean.copy_(mean)
    encoder.std.copy_(std)
    return FeatureStore(CachedEncoder(encoder, -1), pixels)


def tokenizer_texts() -> list[str]:
    """The texts the tokenizer learns from: sentences, look-ups, and the prompts and answers of all tasks."""
    texts = [look_up(Random(i))[0] for i in range(2000)] + [language.sentence(Random(i)) for i in range(6000)]
    texts += [x for t in COLUMNS.values() for e in t.all_examples("train")[:1500] for x in (e.prompt, e.answer)]
    return texts + [CAPTION_PROMPT] * 100


def new_workshop(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, log: Callable[[dict[str, Any]], None]) -> Workshop:
    """Everything at its random start."""
    model = build(recipe, tokenizer)
    packer = Packer(tokenizer)
    generator = torch.Generator().manual_seed(recipe.seed)
    spread = recipe.initializer_std / 2
    places = nn.Parameter(torch.randn(NUM_IMAGE_TOKENS, recipe.hidden_size, generator=generator) * spread)
    return Workshop(recipe, model, packer, places, Dreamer(packer, places, recipe.noise, recipe.seed), log)


def make(folder: Path, recipe: Recipe | None = None, workers: int = 2, log: Callable[[dict[str, Any]], None] = print) -> Path:
    """Makes tiny-llava from nothing and writes it to ``folder``: weights, tokenizer, config, curve, fingerprint, card.

    Finished stages are kept in the cache folder, so that a stopped call goes on where it was.

    Args:
        folder: Where the model goes.
        recipe: Its numbers; the released ones by default.
        workers: Processes (for the vision features) and threads (for training).
        log: Receives one row a logging step.

    Returns:
        The folder.
    """
    recipe = recipe or Recipe()
    torch.set_num_threads(workers)
    bench = cache_folder() / "base" / hashlib.sha256(json.dumps(asdict(recipe)).encode()).hexdigest()[:12]
    bench.mkdir(parents=True, exist_ok=True)

    def keep(row: dict[str, Any]) -> None:
        with (bench / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        log(row)

    if not (bench / "tokenizer.json").exists():
        language.train_tokenizer(tokenizer_texts()).save_pretrained(str(bench))
    shop = new_workshop(recipe, PreTrainedTokenizerFast.from_pretrained(str(bench), local_files_only=True), keep)
    _stage(bench / "words.safetensors", shop, lambda: learn_words(shop))

    statistics = bench / "statistics.safetensors"
    if not statistics.exists():
        mean, std = patch_statistics()
        save_file({"mean": mean, "std": std}, statistics)
    stats = load_file(statistics)
    make_store = partial(encoder_store, stats["mean"], stats["std"])
    wanted = [*base_pictures(), *base_pictures("dev", SEEN[:1])]
    prepare(make_store, wanted, workers)
    gallery, held_out = hang(make_store(), wanted[:-1]), hang(make_store(), wanted[-1:])

    def aligned() -> None:
        words = Vocabulary.of(shop.table, shop.packer.ids)
        align(shop.model, words, shop.places, gallery, recipe.align_steps, recipe.seed, keep)

    _stage(bench / "align.safetensors", shop, aligned)
    _stage(bench / "pictures.safetensors", shop, lambda: learn_pictures(shop, gallery, held_out))
    for number in range(len(recipe.polish_steps)):
        kept = bench / f"polish-{number}.safetensors"
        _stage(kept, shop, partial(learn_pictures, shop, gallery, held_out, number))
    _write(shop, stats, bench, folder)
    measure(folder)
    return folder


def _stage(path: Path, shop: Workshop, learn: Callable[[], None]) -> None:
    """Runs a stage and keeps its result, or takes the kept one."""
    if not path.exists():
        learn()
        state = {k: v.contiguous() for k, v in _weights(shop.model).items()}
        partial_path = path.with_suffix(".partial")
        save_file({**state, "places": shop.places.detach()}, partial_path)
        partial_path.replace(path)
        return
    state = load_file(path)
    with torch.no_grad():
        shop.places.copy_(state.pop("places"))
    shop.model.load_state_dict(state, strict=False)


def _weights(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """Decoder and connector by name; the output head is the embedding table, the vision encoder comes from its package."""
    return {k: v for k, v in model.state_dict().items() if "vision_tower" not in k and k != "lm_head.weight"}


def _write(shop: Workshop, stats: dict[str, Tensor], bench: Path, folder: Path) -> None:
    """Weights in bfloat16, statistics of the encoder in full precision, config, tokenizer, curve, fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in _weights(shop.model).items()}
    state |= {f"model.vision_tower.{k}": v for k, v in stats.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shop.model.config.save_pretrained(str(folder))
    shop.packer.tokenizer.save_pretrained(str(folder))
    curve = [json.loads(line) for line in (bench / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    (folder / "curve.json").write_text(json.dumps({"recipe": asdict(shop.recipe), "curve": curve}, indent=1), encoding="utf-8")
    (folder / "fingerprint.txt").write_text(fingerprint_of(folder) + "\n", encoding="utf-8")
