"""The language of the packaged world: its words, its tokenizer, and the sentences a base learns before it sees a picture."""

from functools import cache
from random import Random
from typing import TYPE_CHECKING

from mmpeft.mini import world
from mmpeft.mini.scenes import POSITIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LETTERS = "ABCD"
SHORT_ANSWER = "Answer the question using a single word or phrase."
CHATTER = (
    *("question", "answer", "choices", "choose", "option", "options", "from", "provided", "information", "insufficient"),
    *("respond", "with", "when", "blanks", "fill", "please", "now", "look", "image", "photo", "shown", "given", "brief"),
    *("clear", "short", "write", "say"),
)  # words of instructions
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", SHORT_ANSWER)
_VOCABULARY = 4000


@cache
def words() -> tuple[str, ...]:
    """Every word that can be an answer in the packaged world, sorted."""
    countries, films = world.countries().values(), world.films().values()
    found = {*world.things(), *world.icons(), *world.countries(), *world.films(), *world.BACKGROUNDS, *POSITIONS}
    found |= {v for c in countries for v in (c.capital, c.continent, c.language)}
    found |= {v for f in films for v in (f.director, f.genre)}
    for field in ("group", "place", "material", "use", "eats"):
        found |= set(world.values(field))
    return tuple(sorted(found | set("0123456789") | {"yes", "no", "unanswerable", "center"}))


def train_tokenizer(texts: list[str]) -> "PreTrainedTokenizerFast":
    """A byte-pair tokenizer on these texts in which each of `words` is one token.

    ``A.`` stays whole before an option; other punctuation stands alone; a newline counts as a space. The fixed short-answer
    instruction is one special token, so that a CPU can afford the paper's prompts.

    Raises:
        ValueError: If a word of the world takes more than one token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace("\n", " ")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r'^▁[A-D]\.$|[?,.:;()!"]'), "isolated"),
        ]
    )
    core.decoder = decoders.Metaspace()
    special = [AddedToken(s, special=True, normalized=False, lstrip=True, rstrip=True) for s in _SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, min_frequency=20, show_progress=False)
    core.train_from_iterator([*texts, *(" ".join(words()) for _ in range(60))], trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))])
    split = [w for w in words() if len(core.encode(w, add_special_tokens=False).ids) != 1]
    if split:
        raise ValueError(f"words of more than one token: {split[:5]}; enlarge the vocabulary")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


def look_up(rng: Random, count: int | None = None) -> tuple[str, str]:
    """A question about a list of lettered words, and its answer: the letter of a word, or the word of a letter."""
    pool = rng.choice((world.values("group"), world.values("place"), world.values("material"), words(), words()))
    chosen = rng.sample(pool, count or rng.choice([2, 3, 4, 4]))
    target = rng.randrange(len(chosen))
    listed = ", ".join(f"{LETTERS[i]}. {w}" for i, w in enumerate(chosen))
    if rng.random() < 0.2:
        return f"which word is {LETTERS[target]}? {listed}", chosen[target]
    return f"which letter is {chosen[target]}? {listed}", LETTERS[target]


def sentence(rng: Random) -> str:
    """A true sentence about a thing or a country, or a plain one about where things stand: what the base may know in words."""
    roll = rng.random()
    if roll < 0.3:
        first, second = rng.sample(tuple(world.things()), 2)
        ground = rng.choice(world.BACKGROUNDS)
        return rng.choice(
            (
                f"there is a {first} next to a {second}",
                f"one {first} stands in front of the {second} with a {ground} wall behind it",
                f"a group of {rng.randint(1, 8)} {first} behind them",
                f"the picture of a {first} and a single {second} above",
                f"{rng.randint(1, 8)} of the same {first}",
                f"there are {rng.randint(1, 8)} rows and columns of {first} icons",
                f"on which side is the larger {first} and more {second}",
                f"if the information about the {first} is insufficient the question is unanswerable",
            )
        )
    if roll < 0.4:
        country = rng.choice(tuple(world.countries().values()))
        return rng.choice(
            (
                f"the capital of {country.name} is {country.capital}",
                f"{country.name} is in {country.continent}",
                f"people in {country.name} speak {country.language}",
            )
        )
    thing = rng.choice(tuple(world.things().values()))
    facts = [f"a {thing.name} belongs to the {thing.group} group", f"a {thing.name} is usually found in the {thing.place}"]
    facts += [f"a {thing.name} is made of {thing.material}"] * bool(thing.material)
    facts += [f"a {thing.name} is used for {thing.use}"] * bool(thing.use)
    facts += [f"a {thing.name} eats {thing.eats}"] * bool(thing.eats)
    return rng.choice(facts)
