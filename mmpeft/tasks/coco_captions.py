"""coco-captions: captions of COCO pictures, read for what they invent (CHAIR). For evaluation only."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import ClassVar

from mmpeft import scoring
from mmpeft.faithfulness import chair, mentions
from mmpeft.real import coco
from mmpeft.real.formats import coco_file, coco_id, read_json
from mmpeft.real.places import Folder, Item
from mmpeft.real.task import Places, Prompts, RealTask
from mmpeft.task import Example, Scored
from mmpeft.tasks.mini_flickr30k import PROMPTS

INSTANCES, CAPTIONS = "coco/annotations/instances_val2014.json", "coco/annotations/captions_val2014.json"


def from_files(root: Path) -> Iterator[Item]:
    """COCO's pictures with five captions, and what is there: what is marked and what those captions name."""
    marked, said = read_json(root / INSTANCES), read_json(root / CAPTIONS)
    category = {one["id"]: one["name"] for one in marked["categories"]}
    things, captions = defaultdict(set), defaultdict(list)
    for one in marked["annotations"]:
        things[one["image_id"]].add(category[one["category_id"]])
    for one in said["annotations"]:
        captions[one["image_id"]].append(one["caption"].strip())
    for one in said["images"]:
        number, references = one["id"], captions[one["id"]]
        named = {thing for text in references for thing in mentions(text, (), coco.names()).invented}
        picture = coco_file(root, "val2014", number)
        there = tuple(sorted(things[number] | named))
        yield Item(str(number), coco_id(number), "", tuple(references), things=there, picture=picture)


class CocoCaptions(RealTask):
    """Photographs of which everything is known that is on them."""

    dataset = "coco-captions"
    column = "COCO captions"
    evaluation_only = True
    seen = False
    metric = "CIDEr-D"
    max_new_tokens = 64
    about = "A sentence for a photograph whose things are marked: CHAIR says what of it is invented. 500 pictures are drawn."
    licence = "CC BY 4.0 (annotations); COCO pictures: Flickr terms"
    homepage = "https://cocodataset.org"
    official = f"{INSTANCES}, {CAPTIONS}, coco/val2014/, and if wanted coco/synonyms.txt"
    places: ClassVar[Places] = {"test": (Folder((INSTANCES, CAPTIONS, "coco/val2014"), from_files),)}
    sizes: ClassVar = {"test": 40_504}
    prompts: ClassVar[Prompts] = {"paper": PROMPTS[4], "llava": "Provide a one-sentence caption for the provided image."}
    draw: ClassVar = {"test": 500}

    def answer(self, item: Item) -> str:
        """The first reference."""
        return item.answers[0]

    def things(self, picture_id: str) -> tuple[str, ...]:
        """What is on the picture, by COCO's names."""
        return next((item.things for item in self.split("test").items if item.picture_id == picture_id), ())

    def names(self) -> Mapping[str, str]:
        """The words that name COCO's things."""
        return coco.names()

    def provenance(self) -> dict[str, str]:
        """Where the data came from, and which list of words."""
        return {**super().provenance(), "coco_words": coco.words_used()}

    def score(self, examples: Sequence[Example], predictions: Sequence[str]) -> Scored:
        """CIDEr-D; beside it CHAIR's two rates, recall of things and the length in words."""
        scored = scoring.captions(examples, predictions, java=True)
        things = {item.picture_id: item.things for item in self.split("test").items}
        found = [mentions(p, things[e.picture_id], self.names()) for e, p in zip(examples, predictions, strict=True)]
        rates = {f"chair_{name}": value for name, value in chair(found)._asdict().items() if not isnan(value)}
        return Scored(scored.score, scored.per_item, scored.parsed, {**scored.extra, **rates})
