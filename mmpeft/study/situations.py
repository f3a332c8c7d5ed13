"""What somebody may need, each as a situation with its candidates and what decides among them: ``params/guide.yaml``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.plan import params_folder, read_yaml
from mmpeft.spec import Part, parse
from mmpeft.study.claims import SEED_SD, Claim, Contrast, Row

ONE_TRIAL, STORED = "one trial", "adapter_bytes"
"""Measures that are no contrast of scores: see params/guide.yaml."""

RATIOS = (SEED_SD, STORED)
"""Measures that are compared by their ratio."""


class Situation(Part):
    """What somebody needs, and how the records say which candidate gives it; the fields are told in params/guide.yaml."""

    id: str
    situation: str
    decides: str
    question: str
    each: list[str] = Field(min_length=1)
    rows: dict[str, Row] = Field(min_length=1)
    others: dict[str, Row] = Field(default_factory=dict)
    must: Literal["", "mergeable"] = ""
    measure: str = "score"
    better: Literal["higher", "lower"] = "higher"
    over: str = "all"
    tracked: str = ""
    epoch: int | str = "last"
    against: list[Row] = Field(default_factory=list)
    beside: list[Row] = Field(default_factory=list)
    keeps: str = ""
    shown: list[str] = Field(default_factory=list)
    claims: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _compare_what_can_be_compared(self) -> "Situation":
        for one in self.each:
            self.contrast({"method": one}, {})
        for measure in filter(None, (self.keeps, *self.shown)):
            self.contrast({}, {}, measure)
        if self.keeps and not self.beside:
            raise ValueError("keeps: is held against the first row of beside; name one")
        return self

    def contrast(self, plus: Row, minus: Row, measure: str = "") -> Contrast:
        """That the first row is better than the second; in another measure, if named."""
        measure = measure or ("score" if self.measure in (ONE_TRIAL, STORED) else self.measure)
        fields = {"over": self.over, "tracked": self.tracked, "epoch": self.epoch, "measure": measure}
        expect = "above" if self.better == "higher" else "below"
        return Contrast.model_validate({"plus": [plus], "minus": [minus], "expect": expect, **fields})

    def claim(self, pairs: Sequence[tuple[Row, Row]]) -> Claim:
        """That in each pair the first row is better."""
        contrasts = [self.contrast(plus, minus) for plus, minus in pairs]
        return Claim(id=self.id, claim=self.situation, where="", question=self.question, rule="all", contrasts=contrasts)

    def candidates(self) -> dict[str, Row]:
        """The candidates by the name that a reader sees."""
        methods = [name for name in self.each if not self.must or getattr(METHODS[name], self.must)]
        pairs = [(method, words) for method in methods for words in self.rows]
        named = {", ".join(filter(None, (METHODS[m].label, words))): {"method": m, **self.rows[words]} for m, words in pairs}
        return named | self.others


class Guide(Part):
    """All situations, in the order of the page, and the ids of those that the landing page opens with."""

    headlines: list[str] = Field(default_factory=list)
    situations: list[Situation] = Field(min_length=1)

    @model_validator(mode="after")
    def _name_each_situation_once(self) -> "Guide":
        ids = [one.id for one in self.situations]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"situations: the id {twice[0]} stands twice; rename one")
        for name in self.headlines:
            if name not in ids:
                raise ValueError(str(unknown("headline", name, ids)).rstrip("."))
        return self


def load_guide(path: Path | None = None) -> Guide:
    """The situations in ``params/guide.yaml``, or in another file.

    Raises:
        MmpeftError: The file is missing or holds an unknown or a wrong field.
    """
    return parse(Guide, read_yaml(path or params_folder() / "guide.yaml"))
