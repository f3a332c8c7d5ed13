"""What the paper claims, each claim as contrasts of rows with a rule that was written before looking: ``params/claims.yaml``.

A contrast is the scores of some rows of a question minus those of others; the file tells the rules.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mmpeft.errors import unknown
from mmpeft.methods import METHODS
from mmpeft.plan import params_folder, read_yaml
from mmpeft.spec import Part, parse
from mmpeft.study import tracks

Row = dict[str, Any]

SEED_SD = "seed_sd"
"""The measure that compares spreads between seeds."""


def in_lists(fields: Any, *names: str) -> Any:
    """The fields with a list of one for each single mapping under these names."""
    if not isinstance(fields, dict):
        return fields
    return {name: [value] if name in names and isinstance(value, dict) else value for name, value in fields.items()}


class Contrast(Part):
    """Scores of the rows in ``plus`` minus those of the rows in ``minus``.

    Attributes:
        plus: Settings of one row or of several.
        minus: The same.
        over: ``unseen``, ``seen``, ``all`` or a column, unless a row says its own.
        expect: What the claim expects of the difference.
        each: Methods to repeat the contrast with, in the rows that name none.
        measure: What is compared: mean scores, ``seed_sd``, the spread of seeds as the logarithm of its ratio, or, of what runs
            were asked on the way, any measure of tracks.MEASURES.
        tracked: A group of tasks that the runs were asked on the way; empty: the scores at the end on their own task.
        epoch: When they were asked, unless a row says its own.
        margin: What counts as no difference; unless given the ledger's, for spreads RATIO_MARGIN.
    """

    plus: list[Row] = Field(min_length=1)
    minus: list[Row] = Field(min_length=1)
    over: str = "all"
    expect: Literal["above", "below", "near"]
    each: list[str] = Field(default_factory=list)
    measure: str = "score"
    tracked: str = ""
    epoch: int | str = "last"
    margin: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _take_one_row_for_a_list_of_one(cls, fields: Any) -> Any:
        return in_lists(fields, "plus", "minus")

    @model_validator(mode="after")
    def _know_the_methods(self) -> "Contrast":
        for name in [*self.each, *(row["method"] for row in (*self.plus, *self.minus) if "method" in row)]:
            if name not in METHODS:
                raise ValueError(str(unknown("method", name, METHODS)).rstrip("."))
        measures = list(tracks.MEASURES) if self.tracked else ["score", SEED_SD]
        if self.measure not in measures:
            raise ValueError(str(unknown("measure", self.measure, measures)).rstrip("."))
        if self.tracked and self.tracked not in tracks.GROUPS:
            raise ValueError(str(unknown("tracked", self.tracked, tracks.GROUPS)).rstrip("."))
        return self

    def spread(self) -> list["Contrast"]:
        """One contrast for each method of ``each``; itself if it names none."""
        if not self.each:
            return [self]

        def filled(rows: Sequence[Row], method: str) -> list[Row]:
            return [{"method": method, **row} for row in rows]

        changes = [{"plus": filled(self.plus, name), "minus": filled(self.minus, name), "each": []} for name in self.each]
        return [self.model_copy(update=change) for change in changes]


class Published(Part):
    """A contrast in the paper's own tables; see params/claims.yaml.

    Attributes:
        table: The table's number.
        plus: One row or several: columns of published_results.csv and their values, and those of ledger.printed.
        minus: The same, or the ``highest`` or ``lowest`` row of the other methods.
        by: Columns whose every combination of values is looked at apart.
        over: ``unseen``, ``seen``, ``all``, ``printed`` (whatever the table has) or a dataset, unless a row says its own.
        expect: As in a contrast.
        column: What is compared: the printed ``value`` or its ``sd``.
    """

    table: int
    plus: list[Row]
    minus: list[Row] | Literal["highest", "lowest"]
    by: list[str] = Field(min_length=1)
    over: str = "all"
    expect: Literal["above", "below", "near"]
    column: Literal["value", "sd"] = "value"

    @model_validator(mode="before")
    @classmethod
    def _take_one_row_for_a_list_of_one(cls, fields: Any) -> Any:
        return in_lists(fields, "plus", "minus")


class Claim(Part):
    """A claim of the paper and how it is judged.

    Attributes:
        id: Its short name.
        claim: What is claimed, in our words.
        where: Where in the paper.
        question: The question whose runs judge it.
        rule: ``all`` or ``most`` of the contrasts.
        contrasts: What is compared.
        published: The same in the paper's own numbers, one contrast or several; none if no table has them.
    """

    id: str
    claim: str
    where: str
    question: str
    rule: Literal["all", "most"]
    contrasts: list[Contrast] = Field(min_length=1)
    published: list[Published] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _take_one_table_for_a_list_of_one(cls, fields: Any) -> Any:
        return in_lists(fields, "published")

    def spread(self) -> list[Contrast]:
        """Its contrasts, each method's apart."""
        return [one for contrast in self.contrasts for one in contrast.spread()]


class Ledger(Part):
    """All claims.

    Attributes:
        margin: A difference up to this counts as none, in fractions of the best possible score.
        claims: One each.
    """

    margin: float = Field(gt=0)
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _name_each_claim_once(self) -> "Ledger":
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"claims: the id {twice[0]} stands twice; rename one")
        return self


def load_ledger(path: Path | None = None) -> Ledger:
    """The ledger in ``params/claims.yaml``, or in another file.

    Raises:
        MmpeftError: The file is missing or holds an unknown or a wrong field.
    """
    return parse(Ledger, read_yaml(path or params_folder() / "claims.yaml"))
