"""The recipe of smollm2-llava: a connector between the eyes of tiny-llava and a language model that stays as it is.

Two stages, as LLaVA's first one in that the connector alone learns:

1. **alignment**: it turns patches of real pictures into the embeddings of the words that name them, and of where they are; the
   decoder is not asked, so that this takes minutes on a CPU;
2. **pictures**: through the frozen decoder it learns captions and the seen tasks (okvqa, ocrvqa, vqav2), with the training loop
   of the study and its method `connector`; on a GPU where there is one.

As tiny-llava it learns from the pictures of the split ``base`` and never meets an unseen task.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import LlamaConfig, LlavaConfig

from mmpeft.attach import attach, parameter_groups
from mmpeft.batches import Encoder
from mmpeft.checkpoints import Checkpointer
from mmpeft.features import prepare
from mmpeft.files import cache_folder, in_its_place, write_whole
from mmpeft.loading import Loaded, assembled, behind_image_token, fingerprint_of, halve
from mmpeft.methods import METHODS
from mmpeft.mini.base import base_pictures, encoder_store
from mmpeft.mini.captions import PROMPT as CAPTION_PROMPT
from mmpeft.mini.card import measure
from mmpeft.mini.curriculum import picture_row
from mmpeft.mini.packing import NUM_IMAGE_TOKENS
from mmpeft.mini.scenes import Scene, caption
from mmpeft.mini.stages import Gallery, Vocabulary, align, hang
from mmpeft.models import MODELS
from mmpeft.models.base import DATA, Packaged, Wheel
from mmpeft.spec import TrainSpec, parse
from mmpeft.task import Example
from mmpeft.train import train
from mmpeft.vision import LiteEncoderConfig
from mmpeft.wheel import unpacked

NAME, EYES = "smollm2-llava", "tiny-llava"
FEW = 60
"""Questions for each ability and task on the card: more would take a CPU long."""


@dataclass(frozen=True)
class Recipe:
    """All numbers of the recipe."""

    align_steps: int = 1000
    place_share: float = 0.5
    questions: int = 2
    train: TrainSpec = field(
        default_factory=lambda: TrainSpec(num_steps=400, batch_size=16, learning_rate=1e-3, max_length=160, precision="bf16")
    )
    seed: int = 0


def configuration(language_model: Wheel) -> LlavaConfig:
    """The config of the whole: the decoder's own, its vocabulary with the image token filled up to a multiple of 64."""
    text = LlamaConfig.from_pretrained(str(unpacked(language_model)), local_files_only=True)
    text.dtype, image_token = None, text.vocab_size
    text.vocab_size += -(text.vocab_size + 1) % 64 + 1
    return LlavaConfig(
        vision_config=LiteEncoderConfig(),
        text_config=text,
        image_token_index=image_token,
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


def eyes(vision_encoder: str) -> dict[str, Tensor]:
    """The statistics of tiny-llava's vision encoder, by their names under this path: with them it gives the same features."""
    seen = load_file(DATA / EYES / "model.safetensors")
    return {name: tensor for name, tensor in seen.items() if name.startswith(f"{vision_encoder}.")}


def started(language_model: Wheel) -> Loaded:
    """The model before it learns: the decoder, the eyes with their statistics, a random connector."""
    config, entry = configuration(language_model), MODELS[NAME].entry
    weights, tokenizer = behind_image_token(language_model, entry.image_token, config.text_config.vocab_size)
    width, channels = config.text_config.hidden_size, config.vision_config.hidden_size
    connector: dict[str, Tensor] = {}
    for name, inputs in (("linear_1", channels), ("linear_2", width)):
        layer = torch.nn.Linear(inputs, width)
        connector |= {f"{entry.connector}.{name}.{what}": tensor for what, tensor in layer.state_dict().items()}
    return assembled(entry, config, weights | eyes(entry.vision_encoder) | connector, tokenizer)


def places(table: Tensor, ids: Callable[[str], list[int]], share: float) -> Tensor:
    """What each cell's token holds beside what is seen there, (16, D): the mean embedding, and words for where the cell is."""
    mean = table.mean(0)
    rows, columns = ([(table[ids(word)] - mean).mean(0) for word in pair] for pair in (("top", "bottom"), ("left", "right")))
    side = int(NUM_IMAGE_TOKENS**0.5)
    where = [rows[2 * row // side] + columns[2 * column // side] for row in range(side) for column in range(side)]
    return mean + share * torch.stack(where)


def questions(gallery: Gallery, pictures: list[str], count: int, seed: int) -> list[Example]:
    """What the connector learns from: the caption of each scene, and questions about every picture.

    Args:
        gallery: The pictures.
        pictures: Their ids.
        count: Questions a picture.
        seed: Of the choice.
    """
    rng, examples = Random(f"questions:{seed}"), []
    for index, (picture_id, (task, what, drafts)) in enumerate(zip(pictures, gallery.shown, strict=True)):
        asked = picture_row(rng, task, what, drafts, count, index, False).questions[:count]
        asked += [(CAPTION_PROMPT, caption(what))] if isinstance(what, Scene) else []
        examples += [Example(f"{picture_id}/{n}", picture_id, ask, say, (say,)) for n, (ask, say) in enumerate(asked)]
    return examples


def make(folder: Path, recipe: Recipe | None = None, workers: int = 2, log: Callable[[dict[str, Any]], None] = print) -> Path:
    """Makes smollm2-llava and writes to ``folder`` what is its own: connector, statistics, config, curve, fingerprint, card.

    What is finished is kept in the cache folder, so that a stopped call goes on where it was.

    Args:
        folder: Where the model goes.
        recipe: Its numbers; the released ones by default.
        workers: Threads.
        log: Receives one row a logging step.

    Returns:
        The folder.

    Raises:
        MmpeftError: The language model's package is missing.
    """
    recipe, source = recipe or Recipe(), MODELS[NAME].source
    assert isinstance(source, Packaged) and source.language_model is not None
    torch.set_num_threads(workers)
    torch.manual_seed(recipe.seed)
    said = {**asdict(recipe), "train": recipe.train.model_dump(mode="json")}
    bench = cache_folder() / "base" / hashlib.sha256(json.dumps([NAME, said]).encode()).hexdigest()[:12]
    bench.mkdir(parents=True, exist_ok=True)

    def keep(row: dict[str, Any]) -> None:
        with (bench / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        log(row)

    loaded = started(source.language_model)
    wanted, seen = base_pictures(), eyes(loaded.entry.vision_encoder)
    make_store = partial(encoder_store, *(seen[f"{loaded.entry.vision_encoder}.{name}"] for name in ("mean", "std")))
    prepare(make_store, wanted, workers)
    gallery = hang(make_store(), wanted)
    _align(loaded, gallery, recipe, bench, keep)
    pictures = [picture_id for _, ids in wanted for picture_id in ids]
    encoder = Encoder(loaded, dict(zip(pictures, gallery.patches, strict=True)), recipe.train.max_length)
    learn(loaded, encoder, questions(gallery, pictures, recipe.questions, recipe.seed), recipe, bench, keep)
    curve = [json.loads(line) for line in (bench / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    _write(loaded, source.language_model, {"recipe": said, "curve": curve}, folder)
    measure(folder, NAME, FEW, "bf16")
    return folder


def _align(loaded: Loaded, gallery: Gallery, recipe: Recipe, bench: Path, log: Callable[[dict[str, Any]], None]) -> None:
    """Stage 1, or what is kept of it."""
    connector, path = loaded.model.get_submodule(loaded.entry.connector), bench / "align.safetensors"
    if not path.exists():
        table = loaded.model.get_input_embeddings().weight.detach()

        def ids(word: str) -> list[int]:
            """A word's tokens inside a sentence."""
            return loaded.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]

        words = Vocabulary.of(table, ids)
        align(loaded.model, words, places(table, ids, recipe.place_share), gallery, recipe.align_steps, recipe.seed, log)
        write_whole(path, save({name: tensor.contiguous() for name, tensor in connector.state_dict().items()}))
    connector.load_state_dict(load_file(path))


def learn(
    loaded: Loaded,
    encoder: Encoder,
    examples: list[Example],
    recipe: Recipe,
    bench: Path,
    log: Callable[[dict[str, Any]], None],
    every: int = 25,
) -> None:
    """Stage 2: the connector learns to say what the decoder, kept in bfloat16, needs to hear.

    Args:
        loaded: The aligned model.
        encoder: Of its examples.
        examples: What it learns from.
        recipe: How.
        bench: Where the state is kept on the way.
        log: Receives one row every so many steps.
        every: Steps between two rows, and between two states kept.
    """
    began, spec, entry = time.perf_counter(), recipe.train, loaded.entry
    encoder.check_lengths(examples)
    method = parse(METHODS["connector"], {"name": "connector"})
    halve(loaded.model)
    model = attach(loaded.model, entry, method, "both", True, recipe.seed)
    groups = parameter_groups(model, entry, None, spec.learning_rate)

    keeper = Checkpointer(bench / "pictures.safetensors", every)

    def say(step: int) -> None:
        if step and step % every == 0:
            seconds = keeper.seconds_before + time.perf_counter() - began
            log({"stage": "pictures", "step": step, "seconds": round(seconds)})

    done = train(model, groups, examples, encoder.training_batch, spec, recipe.seed, at_step=say, checkpointer=keeper)
    losses = [loss for _, loss in done.curve]
    for step in range(every, len(losses) + 1, every):
        log({"stage": "pictures", "step": step, "loss": round(sum(losses[step - every : step]) / every, 4)})


def _write(loaded: Loaded, language_model: Wheel, made: dict[str, Any], folder: Path) -> None:
    """What is this model's own: the connector in bfloat16, statistics of the encoder in full precision, config, curve."""
    folder.mkdir(parents=True, exist_ok=True)
    entry, state = loaded.entry, loaded.model.state_dict()
    own = {name: tensor.cpu() for name, tensor in state.items() if name.startswith(f"{entry.connector}.")}
    own = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in own.items()}
    own |= eyes(entry.vision_encoder)
    with in_its_place(folder / "model.safetensors") as temporary:
        save_file(own, temporary, metadata={"format": "pt"})
    loaded.model.config.save_pretrained(str(folder))
    write_whole(folder / "curve.json", json.dumps(made, indent=1).encode())
    write_whole(folder / "fingerprint.txt", (fingerprint_of(folder, language_model) + "\n").encode())
