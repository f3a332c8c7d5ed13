"""The three stages that make a base: words, alignment, pictures. Each takes the workshop as the last one left it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmpeft.batches import IGNORED
from mmpeft.features import FeatureStore
from mmpeft.mini import language, world
from mmpeft.mini.curriculum import picture_row, probes, words_rows
from mmpeft.mini.draw import Flag
from mmpeft.mini.imagined import FACTS, Dreamer, cells_of
from mmpeft.mini.packing import NUM_IMAGE_TOKENS, Packer, Question, Row, hidden_states, token_loss
from mmpeft.mini.scenes import Scene
from mmpeft.mini.task import MiniTask
from mmpeft.vision import LiteEncoderConfig


@dataclass(frozen=True)
class Recipe:
    """All numbers of the recipe."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 5
    num_heads: int = 4
    rope_theta: float = 1000.0
    initializer_std: float = 0.05
    words_steps: int = 1600
    align_steps: int = 600
    pictures_steps: int = 2000
    polish_steps: tuple[int, ...] = (1000, 600)
    batch_size: int = 24
    questions: int = 8
    words_learning_rate: float = 2e-3
    pictures_learning_rate: float = 1e-3
    polish_learning_rate: float = 1e-3
    words_share: float = 0.3
    noise: float = 0.4
    precision: str = "bf16"
    seed: int = 0


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
    return model


def optimizers_of(parameters: list[tuple[str, nn.Parameter]], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, biases and norms: in a trial, AdamW alone was far slower to match and name."""
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

    def optimize(
        self,
        name: str,
        steps: int,
        learning_rate: float,
        parameters: list[tuple[str, nn.Parameter]],
        step_loss: Callable[[], Tensor],
        check: Callable[[], dict[str, float]],
        every: int = 200,
    ) -> None:
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
                self.log(
                    {"stage": name, "step": step + 1, "seconds": round(time.time() - started), "loss": round(mean, 4), **check()}
                )


def words_loss(shop: Workshop, rng: Random) -> Tensor:
    """The loss of one batch of the words stage."""
    rows = words_rows(rng, shop.recipe.batch_size, shop.recipe.questions)
    dreamt = None if rows[0].picture is None else shop.dreamer.tokens([r.picture for r in rows], shop.table)
    return shop.loss(rows, dreamt)


def learn_words(shop: Workshop) -> None:
    """Stage 1: the decoder learns words, look-ups and imagined pictures."""
    rng = Random(f"words:{shop.recipe.seed}")

    def check() -> dict[str, float]:
        found = {}
        for kind, rows in probes(Random(7), 150, None).items():
            dreamt = None if kind in ("letter", "fact") else shop.dreamer.tokens([r.picture for r in rows], shop.table)
            found[kind] = round(shop.exact(rows, dreamt), 3)
        return found

    decoder = list(shop.model.model.language_model.named_parameters())
    shop.optimize(
        "words",
        shop.recipe.words_steps,
        shop.recipe.words_learning_rate,
        [*decoder, ("places", shop.places)],
        lambda: words_loss(shop, rng),
        check,
    )


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


@dataclass
class Vocabulary:
    """The words that patches are aligned to, kind by kind (names, facts, backgrounds), with their centered embeddings."""

    words: dict[str, list[str]]
    targets: Tensor  # (all words, D)

    @classmethod
    def of(cls, table: Tensor, ids: Callable[[str], list[int]]) -> "Vocabulary":
        """The vocabulary in these embeddings (V, D); a word of several tokens is their mean.

        Args:
            table: The decoder's embeddings.
            ids: The tokens of a word.
        """
        shown = {*world.things(), *world.icons(), *world.countries(), *world.films()}
        words = {"name": [w for w in language.words() if w in shown]}
        words |= {fact: list(world.values(fact)) for fact in FACTS} | {"background": list(world.BACKGROUNDS)}
        centered = table.detach() - table.detach().mean(0)
        return cls(words, torch.stack([centered[ids(w)].mean(0) for kind in words.values() for w in kind]))

    def losses(self, logits: Tensor, shown: list[tuple[MiniTask, Any, list[Question]]]) -> tuple[Tensor, float]:
        """The alignment loss of patches and the share of things named rightly.

        Args:
            logits: (B, N, words): how much each patch looks like each word.
            shown: What each picture shows.
        """
        which, where, ground_at, ground = [], [], [], []
        wanted: dict[str, list[int]] = {kind: [] for kind in ("name", *FACTS)}
        for b, (task, what, _) in enumerate(shown):
            parts, background = names_of(task, what)
            if background:
                ground_at.append(b)
                ground.append(self.words["background"].index(background))
            for name, cells in parts:
                blocked = torch.full((NUM_IMAGE_TOKENS,), -1e4)
                blocked[cells] = 0
                which.append(b)
                where.append(blocked)
                wanted["name"].append(self.words["name"].index(name))
                for fact in FACTS:
                    value = getattr(world.things().get(name), fact, "")
                    wanted[fact].append(self.words[fact].index(value) if value else IGNORED)
        pooled = torch.logsumexp(logits[which] + torch.stack(where)[..., None], dim=1)
        by_kind = dict(zip(self.words, pooled.split([len(w) for w in self.words.values()], dim=1), strict=True))
        loss = F.cross_entropy(by_kind["name"], torch.tensor(wanted["name"]))
        for fact in FACTS:
            if any(v != IGNORED for v in wanted[fact]):
                loss = loss + 0.3 * F.cross_entropy(by_kind[fact], torch.tensor(wanted[fact]), ignore_index=IGNORED)
        grounds = logits[ground_at][..., -len(self.words["background"]) :].mean(1)
        loss = loss + 0.5 * F.cross_entropy(grounds, torch.tensor(ground))
        return loss, (by_kind["name"].argmax(1) == torch.tensor(wanted["name"])).float().mean().item()


@torch.no_grad()
def _pass_place_on(connector: Any, places: Tensor) -> None:
    """Sets 16 hidden units of the connector so that it adds the place vector of each patch, which is not learned anew."""
    size = places.shape[1]
    units = slice(size - NUM_IMAGE_TOKENS, size)
    connector.linear_1.weight[:, -NUM_IMAGE_TOKENS:] = 0
    connector.linear_1.weight[units] = 0
    connector.linear_1.weight[units, -NUM_IMAGE_TOKENS:] = 2 * torch.eye(NUM_IMAGE_TOKENS)
    connector.linear_1.bias[units] = 0
    connector.linear_2.weight[:, units] = places.T / F.gelu(torch.tensor(2.0))
    connector.linear_2.bias.zero_()


def align(
    model: LlavaForConditionalGeneration,
    words: Vocabulary,
    places: Tensor,
    gallery: Gallery,
    steps: int,
    seed: int,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """The connector learns to say in the decoder's own embeddings what each cell of a real picture shows.

    Args:
        model: Whose connector learns; its decoder is not asked.
        words: What there is to be said.
        places: Added to the tokens of each cell, (16, D).
        gallery: The pictures.
        steps: Of 64 pictures each.
        seed: Of their order.
        log: Receives one row a hundred steps.
    """
    connector = model.model.multi_modal_projector
    _pass_place_on(connector, places)
    spread = words.targets.std()
    scale = nn.Parameter(8.0 / (spread**2 * places.shape[1]))
    bias = nn.Parameter(torch.zeros(len(words.targets)))
    groups: list[dict[str, Any]] = [
        {"params": [*connector.linear_1.parameters(), bias], "lr": 2e-3},
        {"params": [*connector.linear_2.parameters()], "lr": 5e-4},
        {"params": [scale], "lr": 5e-2},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30) * (1 - step / steps))
    rng, started, hits = Random(f"align:{seed}"), time.time(), []
    for step in range(steps):
        indices = [rng.randrange(len(gallery.shown)) for _ in range(64)]
        values = gallery.tokens(model, indices) - places.detach()
        loss, hit = words.losses(values @ words.targets.T * scale + bias, [gallery.shown[i] for i in indices])
        loss = loss + (values.std() / (1.2 * spread) - 1).pow(2)  # as long as the imagined tokens of stage 1
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        scheduler.step()
        hits.append(hit)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            row = {"stage": "align", "step": step + 1, "seconds": round(time.time() - started), "loss": round(loss.item(), 4)}
            log(row | {"name": round(sum(hits[-50:]) / len(hits[-50:]), 3)})


def learn_pictures(shop: Workshop, gallery: Gallery, held_out: Gallery, polish: int | None = None) -> None:
    """Stage 3: connector and decoder learn captions and the seen tasks on real pictures, the words stage going on beside it.

    Then done again as rounds of ``polish`` (their number from 0) with more "where is the …?", which comes last.
    """
    recipe, model = shop.recipe, shop.model
    stage, steps, learning_rate = "pictures", recipe.pictures_steps, recipe.pictures_learning_rate
    if polish is not None:
        stage, steps, learning_rate = f"polish-{polish}", recipe.polish_steps[polish], recipe.polish_learning_rate
    rng = Random(f"{stage}:{recipe.seed}")
    pairs = [(what, i) for i, (_, what, _) in enumerate(held_out.shown)]

    def step_loss() -> Tensor:
        if rng.random() < recipe.words_share:
            return words_loss(shop, rng)
        indices = [rng.randrange(len(gallery.shown)) for _ in range(recipe.batch_size)]
        rows = [picture_row(rng, *gallery.shown[i], recipe.questions, i, polish is not None) for i in indices]
        return shop.loss(rows, gallery.tokens(model, indices))

    def check() -> dict[str, float]:
        found = {}
        for kind, rows in probes(Random(7), 150, pairs).items():
            seen = None if kind in ("letter", "fact") else held_out.tokens(model, [r.picture for r in rows])
            found[kind] = round(shop.exact(rows, seen), 3)
        return found

    shop.places.requires_grad_(False)
    parameters = [*model.model.language_model.named_parameters(), *model.model.multi_modal_projector.named_parameters()]
    shop.optimize(stage, steps, learning_rate, parameters, step_loss, check)
