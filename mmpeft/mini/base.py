"""The recipe of tiny-llava: from pip packages to a pretrained multimodal base on two CPU cores.

Three stages, each of which starts where the last one ended:

1. **words**: the decoder alone learns sentences about the world, to look up letters in lists, and to answer questions about
   *imagined* pictures, whose 16 image tokens are sums of word embeddings with noise;
2. **alignment**: the connector alone learns to turn patches of real pictures into the embeddings of the words that name them;
3. **pictures**: connector and decoder learn captions and the seen tasks (okvqa, ocrvqa, vqav2) on real pictures, while a share
   of the words stage goes on.

As in the paper (App. A.2) the base is trained on captions and on the seen tasks and never meets an unseen one.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpeft.mini import language, scenes, world
from mmpeft.features import CachedEncoder, FeatureStore, cache_folder, prepare
from mmpeft.mini.captions import PROMPT as CAPTION_PROMPT
from mmpeft.mini.captions import BaseCaptions
from mmpeft.mini.draw import Cover, Flag
from mmpeft.mini.language import look_up
from mmpeft.mini.scenes import Placed, Scene, random_scene
from mmpeft.mini.task import MiniTask
from mmpeft.models import fingerprint_of
from mmpeft.tasks.mini_ocrvqa import MiniOCRVQA
from mmpeft.tasks.mini_ocrvqa import QUESTIONS as FILM_QUESTIONS
from mmpeft.tasks.mini_okvqa import MiniOKVQA
from mmpeft.tasks.mini_okvqa import FLAG_QUESTIONS, THING_QUESTIONS
from mmpeft.tasks.mini_vqav2 import SUFFIX, MiniVQAv2, question
from mmpeft.vision import LiteEncoder, LiteEncoderConfig, pixels

NUM_IMAGE_TOKENS = 16
ROW_TOKENS = 104  # a packed row is filled with questions up to this length
IGNORED = -100
_GRID = 4
_KINDS = {"what": 0.16, "where": 0.16, "count": 0.08, "background": 0.05, "yesno": 0.24, "or": 0.12, "caption": 0.19}

SEEN: tuple[MiniTask, ...] = (MiniVQAv2(), MiniOKVQA(), MiniOCRVQA(), BaseCaptions())


@dataclass(frozen=True)
class Recipe:
    """All numbers of the recipe."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 5
    num_heads: int = 4
    rope_theta: float = 1000.0
    initializer_std: float = 0.05
    words_steps: int = 1500
    align_steps: int = 500
    pictures_steps: int = 2200
    batch_size: int = 24
    questions: int = 8
    words_learning_rate: float = 2e-3
    pictures_learning_rate: float = 1e-3
    words_share: float = 0.3
    noise: float = 0.4
    precision: str = "bf16"
    mimetic: bool = False
    seed: int = 0


Question = tuple[str, str]


@dataclass
class Row:
    """One row of a packed batch: a picture (or none) and questions that do not see each other."""

    questions: list[Question]
    picture: Any = None
    statement: bool = False  # a sentence: every token is a target


def build(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A randomly initialized LLaVA of the recipe's size, its vision encoder without weights."""
    torch.manual_seed(recipe.seed)
    config = LlavaConfig(
        vision_config=LiteEncoderConfig(),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            num_key_value_heads=recipe.num_heads,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=NUM_IMAGE_TOKENS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, recipe.initializer_std)
        if recipe.mimetic:
            _start_matching(model)
    return model


def _start_matching(model: LlavaForConditionalGeneration) -> None:
    """Mimetic initialization (Trockman and Kolter 2023, arXiv 2305.09828): W_k = W_q, and W_o W_v near the identity.

    A token then attends to tokens like itself from the first step on, and copies what it finds.
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        width = attention.q_proj.weight.shape[1]
        attention.q_proj.weight.normal_(0, 1.1 / width**0.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        rotation = torch.linalg.qr(torch.randn(width, width))[0]
        attention.v_proj.weight.copy_(0.3 * rotation)
        attention.o_proj.weight.copy_(0.3 * rotation.T)


class Packer:
    """Turns rows into one batch in which the questions of a row share its picture but not each other.

    A question restarts the positions behind the picture and sees the picture and itself alone, so it is the same to the model as
    a row of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without a start token."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]

    def row(self, row: Row) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids, block numbers (0 is shared), positions and labels of a row."""
        user, assistant = self.ids("USER:"), self.ids("ASSISTANT:")
        ids = [self.tokenizer.bos_token_id]
        if not row.statement:
            ids += user + [self.image] * (NUM_IMAGE_TOKENS if row.picture is not None else 0)
        shared = len(ids)
        block, position, labels = [0] * shared, list(range(shared)), [IGNORED] * shared
        for number, (asked, answer) in enumerate(row.questions):
            given = [] if row.statement else self.ids(asked) + assistant
            said = [*self.ids(answer), self.tokenizer.eos_token_id]
            if number and len(ids) + len(given) + len(said) > ROW_TOKENS:
                break
            ids += given + said
            block += [number + 1] * (len(given) + len(said))
            position += range(shared, shared + len(given) + len(said))
            labels += [IGNORED] * len(given) + said
        return ids, block, position, labels

    def batch(self, rows: list[Row]) -> dict[str, Tensor]:
        """``ids``, ``positions``, ``labels`` (B, T) and the boolean ``mask`` (B, 1, T, T)."""
        packed = [self.row(r) for r in rows]
        length = max(len(p[0]) for p in packed)
        length += -length % 8
        fills = (self.tokenizer.pad_token_id, -1, 0, IGNORED)
        padded = [torch.tensor([p[k] + [fills[k]] * (length - len(p[k])) for p in packed]) for k in range(4)]
        ids, block, position, labels = padded
        causal = torch.ones(length, length).tril().bool()[None]
        mask = causal & ((block[:, None, :] == 0) | (block[:, None, :] == block[:, :, None]))
        mask[:, range(length), range(length)] = True
        return {"ids": ids, "positions": position, "labels": labels, "mask": mask[:, None]}


@dataclass
class Imagined:
    """A picture imagined in words: for each thing its embedding words and the cells it covers."""

    parts: list[tuple[list[str], list[int]]] = field(default_factory=list)
    background: str | None = None


def cells_of(p: Placed) -> list[int]:
    """The cells of the 4 × 4 grid that a placed thing covers by at least a quarter."""
    side = scenes.SIDE / _GRID
    inside = []
    for row in range(_GRID):
        for column in range(_GRID):
            width = min(p.x + p.size / 2, (column + 1) * side) - max(p.x - p.size / 2, column * side)
            height = min(p.y + p.size / 2, (row + 1) * side) - max(p.y - p.size / 2, row * side)
            if width > 0 and height > 0 and width * height > 0.25 * side * side:
                inside.append(row * _GRID + column)
    return inside or [min(3, int(p.y // side)) * _GRID + min(3, int(p.x // side))]


def imagine(scene: Scene) -> Imagined:
    """The words that stand in for a scene's patches."""
    table = world.things()
    parts = [([p.name] + ([table[p.name].group] if p.name in table else []), cells_of(p)) for p in scene.things]
    return Imagined(parts, scene.background)


class Dreamer:
    """Image tokens of imagined pictures: sums of (centered) word embeddings, a place vector and noise."""

    def __init__(self, packer: Packer, places: nn.Parameter, noise: float, seed: int) -> None:
        self.packer, self.places, self.noise = packer, places, noise
        self.rng = Random(f"dream:{seed}")
        self.generator = torch.Generator().manual_seed(seed)

    def tokens(self, pictures: list[Imagined], table: Tensor) -> Tensor:
        """(B, 16, D) image tokens; ``table`` is the embedding matrix (V, D)."""
        centered = table - table.mean(0)
        width = len(self.packer.tokenizer)
        weight = torch.zeros(len(pictures), NUM_IMAGE_TOKENS, width)
        for b, picture in enumerate(pictures):
            if picture.background:
                weight[b, :, self.packer.ids(picture.background)[0]] += 0.5
            for words, cells in picture.parts:
                kept = [c for c in cells if self.rng.random() < 0.85] or cells[:1]
                for cell in kept:
                    strength = self.rng.uniform(0.6, 1.2)
                    for word, share in zip(words, (1.0, 0.5), strict=False):
                        weight[b, cell, self.packer.ids(word)[0]] += share * strength
        tokens = weight @ centered
        noise = torch.randn(tokens.shape, generator=self.generator)
        return tokens + self.noise * centered.detach().std() * noise + self.places


def scene_question(rng: Random, scene: Scene) -> Question:
    """A question of the seen mix about a scene: a vqav2 question or the caption."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kind == "caption":
        return CAPTION_PROMPT, scenes.caption(scene)
    draft = question(rng, scene, kind)
    return draft.prompt, draft.answer


def imagined_row(rng: Random, count: int) -> Row:
    """A row of questions about an imagined picture: a scene, a flag, a thing or a cover."""
    roll = rng.random()
    if roll < 0.8:
        scene = random_scene(rng, tuple(world.things()))
        return Row([scene_question(rng, scene) for _ in range(count)], imagine(scene))
    if roll < 0.88:
        country = rng.choice(tuple(world.countries().values()))
        asked = [(f"{FLAG_QUESTIONS[f]} {SUFFIX}", getattr(country, f)) for f in rng.sample(list(FLAG_QUESTIONS), 3)]
        cells = [c for c in range(NUM_IMAGE_TOKENS) if 4 <= c < 12 or rng.random() < 0.3]
        return Row(asked, Imagined([([country.name], cells)], rng.choice(tuple(world.COLORS))))
    if roll < 0.95:
        thing = rng.choice([t for t in world.things().values() if t.use or t.eats])
        scene = random_scene(rng, (thing.name,), "one")
        kind = "eats" if thing.eats else "use"
        asked = [(f"{THING_QUESTIONS[kind]} {SUFFIX}", getattr(thing, kind))]
        return Row(asked + [scene_question(rng, scene) for _ in range(count - 1)], imagine(scene))
    film = rng.choice(tuple(world.films().values()))
    asked = [(f"{FILM_QUESTIONS[f]} {SUFFIX}", getattr(film, f)) for f in FILM_QUESTIONS]
    return Row(asked, Imagined([([film.name], list(range(4, 12)))], None))


def hidden_states(model: LlavaForConditionalGeneration, batch: dict[str, Tensor], image_tokens: Tensor | None) -> Tensor:
    """Last hidden states (B, T, D) of a packed batch; ``image_tokens`` are already projected."""
    image_id = model.config.image_token_id
    embedded = model.get_input_embeddings()(batch["ids"])
    if image_tokens is not None:
        where = (batch["ids"] == image_id)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(where, image_tokens.reshape(-1, embedded.shape[-1]))
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
    )
    return out.last_hidden_state


def token_loss(model: LlavaForConditionalGeneration, states: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the answer tokens.

    Padded to whole hundreds of tokens: the CPU's bfloat16 kernels are compiled anew for each new shape.
    """
    targets = labels[:, 1:].flatten()
    chosen = (targets != IGNORED).nonzero()[:, 0]
    padded = torch.cat([chosen, chosen.new_zeros(-len(chosen) % 100)])
    wanted = torch.cat([targets[chosen], targets.new_full((len(padded) - len(chosen),), IGNORED)])
    logits = model.lm_head(states[:, :-1].flatten(0, 1)[padded])
    return F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED)


def optimizers_of(parameters: list[tuple[str, nn.Parameter]], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, biases and norms.

    Muon makes matching (yes or no, where, letters) appear in a third of the steps that AdamW needs.
    """
    matrices = [p for n, p in parameters if p.ndim == 2 and "embed_tokens" not in n and n != "places"]
    rest = [p for n, p in parameters if p.ndim != 2 or "embed_tokens" in n or n == "places"]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def autocast(recipe: Recipe) -> torch.autocast:
    """The precision of the forward pass; bfloat16 halves the time on processors that have it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16")


@dataclass
class Workshop:
    """What the stages share: the model in the making, its tokenizer, the place vectors, and the recipe."""

    recipe: Recipe
    model: LlavaForConditionalGeneration
    packer: Packer
    places: nn.Parameter
    dreamer: Dreamer
    log: Callable[[dict[str, Any]], None]

    @property
    def table(self) -> Tensor:
        """The embedding matrix (V, D)."""
        return self.model.get_input_embeddings().weight

    def loss(self, rows: list[Row], image_tokens: Tensor | None) -> Tensor:
        """Answer-token loss of packed rows."""
        batch = self.packer.batch(rows)
        return token_loss(self.model, hidden_states(self.model, batch, image_tokens), batch["labels"])

    @torch.inference_mode()
    def exact(self, rows: list[Row], image_tokens: Tensor | None) -> float:
        """Share of rows whose (single) answer is right token by token under teacher forcing."""
        batch = self.packer.batch(rows)
        states = hidden_states(self.model, batch, image_tokens)
        targets = batch["labels"][:, 1:]
        kept = targets != IGNORED
        guessed = torch.full_like(targets, -1)
        guessed[kept] = self.model.lm_head(states[:, :-1][kept]).argmax(-1)
        return ((guessed == targets) | ~kept).all(1).float().mean().item()

    def optimize(self, name: str, steps: int, learning_rate: float, parameters: list[tuple[str, nn.Parameter]],
                 step_loss: Callable[[], Tensor], check: Callable[[], dict[str, float]], every: int = 200) -> None:
        """Minimizes ``step_loss``: warm-up, constant rate, linear decay over the last 40 %."""
        optimizers = optimizers_of(parameters, learning_rate)
        started, losses = time.time(), []
        for step in range(steps):
            decay = min(1.0, (steps - step) / (0.4 * steps))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * max(0.03, decay)
            with autocast(self.recipe):
                loss = step_loss()
            loss.backward()
            nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if (step + 1) % every == 0 or step + 1 == steps:
                mean = sum(losses[-every:]) / len(losses[-every:])
                self.log({"stage": name, "step": step + 1, "seconds": round(time.time() - started), "loss": round(mean, 4), **check()})


def words_rows(rng: Random, recipe: Recipe, letters: float = 0.3, sentences: float = 0.08, lists: float = 0.12) -> list[Row]:
    """A batch of the words stage: repeated lists, letter look-ups, sentences, or imagined pictures."""
    roll, count = rng.random(), recipe.questions
    if roll > 1 - lists:
        return [Row([repeated_list(rng) for _ in range(count)]) for _ in range(recipe.batch_size)]
    if roll < letters:
        return [Row([look_up(rng) for _ in range(count)]) for _ in range(recipe.batch_size)]
    if roll < letters + sentences:
        return [Row([("", language.sentence(rng)) for _ in range(count)], statement=True) for _ in range(recipe.batch_size)]
    return [imagined_row(rng, count) for _ in range(recipe.batch_size)]


def repeated_list(rng: Random) -> Question:
    """A list of words to be said again: what teaches a decoder to match and to copy."""
    listed = " ".join(rng.sample(language.words(), rng.randint(4, 12)))
    return listed, listed


def words_loss(shop: Workshop, rng: Random) -> Tensor:
    """The loss of one batch of the words stage."""
    rows = words_rows(rng, shop.recipe)
    dreamt = None if rows[0].picture is None else shop.dreamer.tokens([r.picture for r in rows], shop.table)
    return shop.loss(rows, dreamt)


def probes(rng: Random, count: int, pictures: list[tuple[Scene, Any]] | None) -> dict[str, list[Row]]:
    """Single-question rows by kind: letter look-ups, and questions about imagined (or the given) pictures."""
    rows: dict[str, list[Row]] = {"letter": []}
    while len(rows["letter"]) < count:
        asked, answer = look_up(rng, 4)
        if asked.startswith("which letter"):
            rows["letter"].append(Row([(asked, answer)]))
    for kind in ("what", "where", "count", "yesno", "or", "background"):
        rows[kind] = []
        while len(rows[kind]) < count:
            if pictures is None:
                scene = random_scene(rng, tuple(world.things()))
                shown: Any = imagine(scene)
            else:
                scene, shown = rng.choice(pictures)
            if kind == "where" and scene.kind not in ("two", "several"):
                continue
            draft = question(rng, scene, kind)
            rows[kind].append(Row([(draft.prompt, draft.answer)], shown))
    return rows


def learn_words(shop: Workshop) -> None:
    """Stage 1: the decoder learns words, look-ups and imagined pictures."""
    rng = Random(f"words:{shop.recipe.seed}")

    def check() -> dict[str, float]:
        found = {}
        for kind, rows in probes(Random(7), 150, None).items():
            dreamt = None if kind == "letter" else shop.dreamer.tokens([r.picture for r in rows], shop.table)
            found[kind] = round(shop.exact(rows, dreamt), 3)
        return found

    decoder = list(shop.model.model.language_model.named_parameters())
    shop.optimize("words", shop.recipe.words_steps, shop.recipe.words_learning_rate,
                  [*decoder, ("places", shop.places)], lambda: words_loss(shop, rng), check)


@dataclass
class Gallery:
    """The base's real pictures: what each shows and its patches (M, 16, 1744) in half precision."""

    shown: list[tuple[MiniTask, Any, list[Question]]]
    patches: Tensor

    def tokens(self, model: LlavaForConditionalGeneration, indices: list[int]) -> Tensor:
        """Projected image tokens (B, 16, D)."""
        return model.model.multi_modal_projector(self.patches[indices].float())


def hang(store: FeatureStore, pictures: list[tuple[MiniTask, list[str]]]) -> Gallery:
    """The gallery of these pictures, from cached features."""
    shown, patches = [], []
    for task, ids in pictures:
        found = store.get(task, ids)
        for picture_id in ids:
            what, drafts = task.composed(*task.locate(picture_id))
            shown.append((task, what, [(d.prompt, d.answer) for d in drafts]))
            patches.append(found[picture_id])
    return Gallery(shown, torch.stack(patches))


def names_of(task: MiniTask, what: Any) -> tuple[list[tuple[str, list[int]]], str | None]:
    """What a real picture's cells should say: (name, cells) pairs and the background."""
    if isinstance(what, Scene):
        return [(p.name, cells_of(p)) for p in what.things], what.background
    if isinstance(what, Flag):
        country = next(c.name for c in world.countries().values() if c.code == what.code)
        return [(country, [5, 6, 9, 10])], what.background
    return [(what.title.lower(), list(range(4, 12)))], None


def align(shop: Workshop, gallery: Gallery) -> None:
    """Stage 2: the connector learns to say in the decoder's own embeddings what each cell of a real picture shows.

    The hidden units that pass the place on are set, not learned: the connector adds the place vectors of stage 1.
    """
    model, recipe = shop.model, shop.recipe
    connector = model.model.multi_modal_projector
    table = shop.table.detach()
    centered = table - table.mean(0)
    names = [n for n in language.words() if n in {*world.things(), *world.icons(), *world.countries(), *world.films()}]
    groups, grounds = list(world.values("group")), list(world.BACKGROUNDS)
    vocabulary = [*names, *groups, *grounds]
    targets = centered[[shop.packer.ids(w)[0] for w in vocabulary]]
    number = {w: i for i, w in enumerate(names)}
    n, g = len(names), len(groups)
    size, spread = recipe.hidden_size, centered.std()
    with torch.no_grad():
        place = slice(size - NUM_IMAGE_TOKENS, size)
        connector.linear_1.weight[:, -NUM_IMAGE_TOKENS:] = 0
        connector.linear_1.weight[place] = 0
        connector.linear_1.weight[place, -NUM_IMAGE_TOKENS:] = 2 * torch.eye(NUM_IMAGE_TOKENS)
        connector.linear_1.bias[place] = 0
        connector.linear_2.weight[:, place] = shop.places.T / F.gelu(torch.tensor(2.0))
        connector.linear_2.bias.zero_()
    scale = nn.Parameter(8.0 / (spread**2 * size))
    bias = nn.Parameter(torch.zeros(len(vocabulary)))
    parameters = [*connector.parameters(), bias, scale]
    optimizer = torch.optim.AdamW(
        [{"params": [connector.linear_1.weight, connector.linear_1.bias, bias], "lr": 2e-3},
         {"params": [connector.linear_2.weight, connector.linear_2.bias], "lr": 5e-4},
         {"params": [scale], "lr": 5e-2}], weight_decay=0.01)
    peaks = [group["lr"] for group in optimizer.param_groups]
    rng = Random(f"align:{recipe.seed}")
    started, hits = time.time(), [0.0, 0.0]
    for step in range(recipe.align_steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 30) * (1 - step / recipe.align_steps)
        indices = [rng.randrange(len(gallery.shown)) for _ in range(64)]
        values = gallery.tokens(model, indices) - shop.places.detach()
        logits = values @ targets.T * scale + bias
        which, where, named, grouped, ground_at, ground = [], [], [], [], [], []
        for b, i in enumerate(indices):
            parts, background = names_of(*gallery.shown[i][:2])
            if background:
                ground_at.append(b)
                ground.append(grounds.index(background))
            for name, cells in parts:
                blocked = torch.full((NUM_IMAGE_TOKENS,), -1e4)
                blocked[cells] = 0
                which.append(b)
                where.append(blocked)
                named.append(number[name])
                thing = world.things().get(name)
                grouped.append(groups.index(thing.group) if thing else IGNORED)
        pooled = torch.logsumexp(logits[which] + torch.stack(where)[..., None], dim=1)
        loss = F.cross_entropy(pooled[:, :n], torch.tensor(named))
        loss = loss + 0.5 * F.cross_entropy(pooled[:, n : n + g], torch.tensor(grouped), ignore_index=IGNORED)
        loss = loss + 0.5 * F.cross_entropy(logits[ground_at][..., n + g :].mean(1), torch.tensor(ground))
        loss = loss + (values.std() / (1.2 * spread) - 1).pow(2)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        hits.append((pooled[:, :n].argmax(1) == torch.tensor(named)).float().mean().item())
        if (step + 1) % 100 == 0 or step + 1 == recipe.align_steps:
            shop.log({"stage": "align", "step": step + 1, "seconds": round(time.time() - started), "loss": round(loss.item(), 4),
                      "name": round(sum(hits[-50:]) / 50, 3)})


def picture_row(rng: Random, task: MiniTask, what: Any, drafts: list[Question], count: int, index: int) -> Row:
    """A row of questions about a real picture: fresh ones about scenes, the task's own about flags and covers."""
    if task.name in ("mini-vqav2", "base-captions"):
        return Row([scene_question(rng, what) for _ in range(count)], index)
    asked = list(drafts)
    if isinstance(what, Flag):
        country = next(c for c in world.countries().values() if c.code == what.code)
        asked = [(f"{text} {SUFFIX}", getattr(country, f)) for f, text in FLAG_QUESTIONS.items()]
    if isinstance(what, Scene):
        asked = [drafts[0], *(scene_question(rng, what) for _ in range(count - 1))]
    if isinstance(what, Cover):
        film = world.films()[what.title.lower()]
        asked = [(f"{text} {SUFFIX}", getattr(film, f)) for f, text in FILM_QUESTIONS.items()]
    rng.shuffle(asked)
    return Row(asked, index)


def learn_pictures(shop: Workshop, gallery: Gallery, held_out: Gallery) -> None:
    """Stage 3: connector and decoder learn captions and the seen tasks on real pictures, the words stage going on beside it."""
    recipe, model = shop.recipe, shop.model
    rng = Random(f"pictures:{recipe.seed}")
    pairs = [(what, i) for i, (_, what, _) in enumerate(held_out.shown)]

    def step_loss() -> Tensor:
        if rng.random() < recipe.words_share:
            return words_loss(shop, rng)
        indices = [rng.randrange(len(gallery.shown)) for _ in range(recipe.batch_size)]
        rows = [picture_row(rng, *gallery.shown[i], recipe.questions, i) for i in indices]
        return shop.loss(rows, gallery.tokens(model, indices))

    def check() -> dict[str, float]:
        found = {}
        for kind, rows in probes(Random(7), 150, pairs).items():
            seen = None if kind == "letter" else held_out.tokens(model, [r.picture for r in rows])
            found[kind] = round(shop.exact(rows, seen), 3)
        return found

    shop.places.requires_grad_(False)
    parameters = [*model.model.language_model.named_parameters(), *model.model.multi_modal_projector.named_parameters()]
    shop.optimize("pictures", recipe.pictures_steps, recipe.pictures_learning_rate, parameters, step_loss, check)


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
    from mmpeft.tasks import TASKS

    texts = [look_up(Random(i))[0] for i in range(2000)] + [language.sentence(Random(i)) for i in range(6000)]
    texts += [x for t in TASKS.values() for e in t.all_examples("train")[:1500] for x in (e.prompt, e.answer)]
    return texts + [CAPTION_PROMPT] * 100


def new_workshop(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, log: Callable[[dict[str, Any]], None]) -> Workshop:
    """Everything at its random start."""
    model = build(recipe, tokenizer)
    packer = Packer(tokenizer)
    generator = torch.Generator().manual_seed(recipe.seed)
    spread = recipe.initializer_std / 2
    places = nn.Parameter(torch.randn(NUM_IMAGE_TOKENS, recipe.hidden_size, generator=generator) * spread)
    return Workshop(recipe, model, packer, places, Dreamer(packer, places, recipe.noise, recipe.seed), log)


def make(folder: Path, recipe: Recipe = Recipe(), workers: int = 2, log: Callable[[dict[str, Any]], None] = print) -> Path:
    """Makes tiny-llava from nothing and writes it to ``folder``: weights, tokenizer, config, curve, fingerprint.

    Finished stages are kept in the cache folder, so that a stopped call goes on where it was.

    Args:
        folder: Where the model goes.
        recipe: Its numbers.
        workers: Processes (for the vision features) and threads (for training).
        log: Receives one row a logging step.

    Returns:
        The folder.
    """
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
    _stage(bench / "align.safetensors", shop, lambda: align(shop, gallery))
    _stage(bench / "pictures.safetensors", shop, lambda: learn_pictures(shop, gallery, held_out))
    return _write(shop, stats, bench, folder)


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


def _write(shop: Workshop, stats: dict[str, Tensor], bench: Path, folder: Path) -> Path:
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
    return folder
