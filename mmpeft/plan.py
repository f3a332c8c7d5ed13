"""A question and a scale become a plan: the list of runs that answer the question.

    params/<question>.yaml   what is compared: variants, seeds, split
    params/scales/<scale>.yaml   how large: model, tasks, training, evaluation, learning rates

A question's keys are the parameters of its notebook, one flat namespace: ``papermill … -f question.yaml -f
scale.yaml`` and ``load_question("question", "scale")`` mean the same. Files given later win, key by key, the
whole value at a time; what is then still missing (or None) comes from the file of the question's scale. What the
question says under ``at_scale`` about that scale wins over all of it: a sweep of sizes or of training sets has other
values for a random model than for a large one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mmpeft.entry import Location
from mmpeft.errors import MmpeftError, unknown
from mmpeft.methods import METHODS
from mmpeft.spec import UNTRAINED_FIELDS, AnyMethod, Part, RunSpec, Split, parse, run_id

IPYTHON_NAMES = frozenset({"In", "Out"})
"""Plain values that IPython keeps beside the user's own; everything else of its own is callable."""

LENGTHS = ("num_epochs", "num_steps")
"""Two ways to say how long a run trains; the one said last counts."""

NOT_OF_A_SCALE = ("question", "scale", "at_scale", "allow_runs", "store", "workers")
"""What no entry of ``at_scale`` may set: which question it is, and how its runs are made."""

PLAIN = (type(None), bool, int, float, str, list, tuple, dict)
"""What a parameter can be: papermill writes literals."""


class Variant(Part):
    """One row of a comparison: a method, where it sits, whether the connector learns too.

    Attributes:
        method: ``{name: lora, r: 16, …}``.
        location: Which linears of the language model it acts on.
        connector: "tuned" needs ``learning_rates.connector``.
        train: Training settings of this variant alone, over the question's and those of its ``trainings``.
    """

    method: AnyMethod
    location: Location = "both"
    connector: Literal["frozen", "tuned"] = "frozen"
    train: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A run to be made, and what its id was made from."""

    run_id: str
    spec: RunSpec
    task_version: int
    fingerprint: str

    @classmethod
    def of(cls, spec: RunSpec) -> "Planned":
        """The planned run of a spec.

        Raises:
            MmpeftError: The spec's model or a task does not exist, or nothing can be trained on its task.
        """
        from mmpeft.registry import evaluation_only, fingerprint, packaged, task_version

        base, version = fingerprint(spec.model), task_version(spec.task)
        if spec.method.trains and evaluation_only(spec.task):
            raise MmpeftError(f"task: '{spec.task}' is for evaluation only; name it in track.tasks, or take zero-shot.")
        if strangers := [task for task in spec.track.tasks if packaged(task) != packaged(spec.task)]:
            raise MmpeftError(
                f"track.tasks: {', '.join(strangers)} beside '{spec.task}': packaged and downloaded tasks do not go together "
                "in a run; name tasks of its own kind (at another scale: under the question's at_scale)."
            )
        others = (*spec.track.tasks, *(spec.pre_step.tasks if spec.pre_step else ()))
        tracked = {task: task_version(task) for task in others}
        return cls(run_id(spec, task_version=version, fingerprint=base, tracked_versions=tracked), spec, version, base)


class Question(Part):
    """A question and all it takes to answer it.

    Attributes:
        question: Its name, also that of its notebook and parameter file.
        scale: The file of ``params/scales`` that fills what is missing.
        model: The base model.
        tasks: The columns of the comparison.
        columns: Which of them this question needs, by the paper's name; empty means all. A scale cannot change it.
        variants: The rows of the comparison.
        seeds: Every variant is run once with each.
        split: What the runs are judged on.
        train: Fields of ``RunSpec.train`` for all runs.
        trainings: Training settings to compare: every variant is run with each, over ``train`` and under the variant's
            own. Of ``num_steps`` and ``num_epochs`` the one that comes last counts. Empty means ``train`` alone.
        eval: Fields of ``RunSpec.eval`` for all runs, without the split.
        track: Fields of ``RunSpec.track`` for all runs; a run's own task may be among the tasks, and is asked on dev.
        pre_step: Fields of ``RunSpec.pre_step`` for all runs; None: they start from the base as it is.
        methods: A method's fields at this scale, by method name; what a variant says itself wins.
        learning_rates: By method name; "connector" is the connector's own rate in every run that tunes it.
        learning_rate_grid: Rates to try, by method name; replaces ``learning_rates`` for that method, but not the rate
            that a variant brings itself.
        at_scale: Other values of this question's keys at a scale, by the scale's name. They win over everything else.
        allow_runs: Whether missing runs may be made; False only reads records.
        store: Folder of the records, from the project's root; empty means a temporary one.
        workers: Local processes.
    """

    question: str
    scale: str
    model: str
    tasks: list[str] = Field(min_length=1)
    columns: list[str] = Field(default_factory=list)
    variants: list[Variant] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    split: Split = "test"
    train: dict[str, Any]
    trainings: list[dict[str, Any]] = Field(default_factory=list)
    eval: dict[str, Any]
    track: dict[str, Any] = Field(default_factory=dict)
    pre_step: dict[str, Any] | None = None
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    learning_rates: dict[str, float]
    learning_rate_grid: dict[str, list[float]] = Field(default_factory=dict)
    at_scale: dict[str, dict[str, Any]] = Field(default_factory=dict)
    allow_runs: bool = True
    store: str = "results"
    workers: int = Field(default=1, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_the_variants(cls, fields: Any) -> Any:
        """The scale's sizes of each method, under what the variant says itself."""
        methods, variants = fields.get("methods") or {}, fields.get("variants")
        if not isinstance(methods, dict) or not isinstance(variants, list):
            return fields
        return {**fields, "variants": [_sized(variant, methods) for variant in variants]}

    @field_validator("eval")
    @classmethod
    def _leave_the_split_to_its_own_key(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if "split" in fields:
            raise ValueError("eval.split: write 'split' beside 'eval', so that no scale can change it")
        return fields

    @field_validator("trainings")
    @classmethod
    def _leave_the_rate_to_the_methods(cls, trainings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any("learning_rate" in training for training in trainings):
            raise ValueError("trainings: a learning_rate belongs to a method; set it in 'learning_rates' or a variant's 'train'")
        return trainings

    @field_validator("at_scale")
    @classmethod
    def _know_the_scales(cls, by_scale: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        valid = [name for name in cls.model_fields if name not in NOT_OF_A_SCALE]
        for scale, values in by_scale.items():
            if scale not in _names_in(scales_folder()):
                raise ValueError(str(unknown("at_scale scale", scale, _names_in(scales_folder()))).rstrip("."))
            for name in values:
                if name not in valid:
                    raise ValueError(str(unknown(f"at_scale.{scale} parameter", name, valid)).rstrip("."))
        return by_scale

    @field_validator("methods", "learning_rates", "learning_rate_grid")
    @classmethod
    def _know_the_methods(cls, by_method: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in by_method:
            if name not in METHODS:
                raise ValueError(str(unknown(f"{info.field_name} method", name, METHODS)).rstrip("."))
        return by_method

    @classmethod
    def load(cls, *paths: str | Path) -> "Question":
        """The question in these YAML files; later files win, key by key.

        Raises:
            MmpeftError: A file cannot be read, or holds an unknown or a wrong parameter.
        """
        parameters: dict[str, Any] = {}
        for path in paths:
            parameters |= read_yaml(Path(path))
        return cls._filled(parameters)

    @classmethod
    def from_parameters(cls, names: Mapping[str, Any]) -> "Question":
        """The question in a notebook's variables, ``Question.from_parameters(globals())``.

        Args:
            names: Variables by name. Plain values are parameters; modules, functions and private names are
                passed over.

        Raises:
            MmpeftError: A parameter is unknown (a notebook takes only the keys of a question) or wrong.
        """
        return cls._filled(
            {
                name: value
                for name, value in names.items()
                if isinstance(value, PLAIN) and not name.startswith("_") and name not in IPYTHON_NAMES
            }
        )

    @classmethod
    def _filled(cls, parameters: dict[str, Any]) -> "Question":
        """The question, with what it leaves open taken from its scale, and every run of it checked."""
        for name in parameters:
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
        given = {name: value for name, value in parameters.items() if value is not None}
        given = {name: value for name, value in (given | _own_values(given)).items() if value is not None}
        if "scale" not in given:
            raise MmpeftError(f"scale: missing; set it to one of {', '.join(_names_in(scales_folder()))}.")
        question = parse(cls, read_yaml(scale_file(given["scale"])) | given)
        question.specs()
        return question

    def specs(self) -> list[RunSpec]:
        """The runs that answer the question, each once: seed by seed, task by task, training by training, variant by variant.

        The first seed of everything comes first: an unfinished sweep already shows the whole comparison.
        """
        runs: dict[RunSpec, None] = {}
        for seed in self.seeds:
            for task in self._tasks_in_columns():
                for training in self.trainings or [{}]:
                    for variant in self.variants:
                        for rate in self._rates(variant):
                            runs[self._spec(task, training, variant, rate, seed)] = None
        return list(runs)

    def _tasks_in_columns(self) -> list[str]:
        """The tasks that the question needs; ``mini-okvqa``, ``okvqa`` and ``okvqa-llava`` have the name of the column OKVQA."""
        if not self.columns:
            return self.tasks
        wanted = {column.lower() for column in self.columns}
        found = [task for task in self.tasks if task.removeprefix("mini-").removesuffix("-llava") in wanted]
        if not found:
            raise MmpeftError(f"columns: none of {', '.join(self.columns)} is among the tasks {', '.join(self.tasks)}.")
        return found

    def planned(self) -> list[Planned]:
        """The same runs with their ids.

        Raises:
            MmpeftError: The model or a task does not exist.
        """
        return [Planned.of(spec) for spec in self.specs()]

    def _rates(self, variant: Variant) -> Iterator[float | None]:
        """The learning rates at which this variant is run; None for a method that trains nothing."""
        name = variant.method.name
        if not variant.method.trains:
            yield None
        elif "learning_rate" in variant.train:
            yield variant.train["learning_rate"]
        elif name in self.learning_rate_grid:
            yield from self.learning_rate_grid[name]
        else:
            yield self._rate_of(name)

    def _rate_of(self, name: str) -> float:
        if name not in self.learning_rates:
            known = ", ".join(self.learning_rates) or "none"
            raise MmpeftError(f"learning_rates: no rate for '{name}'; add one (there are: {known}).")
        return self.learning_rates[name]

    def _spec(self, task: str, training: dict[str, Any], variant: Variant, rate: float | None, seed: int) -> RunSpec:
        method, train = variant.method, _over(_over(self.train, training), variant.train)
        train.pop("learning_rate", None)
        connector: dict[str, Any] = {}
        if not method.trains:
            train, seed = {name: train[name] for name in UNTRAINED_FIELDS if name in train}, 0
        if method.tunes_connector:
            connector = {"tuned": True, "learning_rate": rate}
        else:
            train |= {"learning_rate": rate} if method.trains else {}
            if variant.connector == "tuned":
                connector = {"tuned": True, "learning_rate": self._rate_of("connector")}
        return RunSpec.from_dict(
            {
                "model": self.model,
                "task": task,
                "method": {"name": method.name, **method.model_dump()},
                "location": variant.location,
                "connector": connector,
                "train": train,
                "eval": {**self.eval, "split": self.split},
                "track": self._track(task, method.trains),
                **({"pre_step": self.pre_step} if self.pre_step else {}),
                "seed": seed,
            }
        )

    def _track(self, own: str, trains: bool) -> dict[str, Any]:
        """What a run of the task ``own`` is asked on the way: once, without epochs, if it trains nothing."""
        track = {name: value for name, value in self.track.items() if trains or name != "every_epochs"}
        if isinstance(track.get("tasks"), list):
            track["tasks"] = [task for task in track["tasks"] if task != own]
        return track if trains or track.get("tasks") else {}

    def store_folder(self) -> str:
        """Where the records lie: ``store`` from the project's root (or here, outside a clone); empty if temporary."""
        return str((project_root() or Path.cwd()) / self.store) if self.store else ""


def _sized(variant: Any, methods: dict[str, Any]) -> Any:
    method = variant.get("method") if isinstance(variant, dict) else None
    sizes = methods.get(str(method.get("name"))) if isinstance(method, dict) else None
    return {**variant, "method": {**sizes, **method}} if isinstance(sizes, dict) and method else variant


def _over(train: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The training settings with later ones over them; a length that is said later drops the other one."""
    if any(later.get(length) is not None for length in LENGTHS):
        train = {name: value for name, value in train.items() if name not in LENGTHS}
    return {**train, **later}


def _own_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the question says about its scale alone. What is wrong with it, the question's own check says."""
    by_scale, scale = given.get("at_scale"), given.get("scale")
    own = None
    if isinstance(by_scale, dict) and isinstance(scale, str):
        own = by_scale.get(scale, by_scale.get(scale.partition("-")[0]))  # paper-tuned: as paper, unless it says otherwise
    return {name: value for name, value in own.items() if name not in NOT_OF_A_SCALE} if isinstance(own, dict) else {}


def load_question(name: str, scale: str | None = None) -> Question:
    """The question of this name, at its own scale or at another.

    Args:
        name: A file in ``params`` without its ending, or the path of a YAML file.
        scale: A scale other than the question's own: its keys win over the question's, as under papermill.

    Raises:
        MmpeftError: No such question or scale, or a file holds an unknown or a wrong parameter.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = params_folder() / f"{name}.yaml"
        if not path.is_file():
            raise unknown("question", name, questions())
        if (said := read_yaml(path).get("question")) != name:
            raise MmpeftError(f"{path.name}: question: says '{said}'; write the file's own name, '{name}'.")
    own = read_yaml(path).get("scale")
    return Question.load(path) if scale in (None, own) else Question.load(path, scale_file(scale))


def questions() -> list[str]:
    """The names of the questions in ``params``: its YAML files that say which question they ask."""
    folder = params_folder()
    return [name for name in _names_in(folder) if "question" in _yaml_in(folder / f"{name}.yaml")]


def project_root() -> Path | None:
    """The clone of the project around the working directory, else the one this package runs from; None outside one."""
    here = Path.cwd()
    roots = (here, *here.parents, Path(__file__).resolve().parent.parent)
    return next((root for root in roots if (root / "params" / "scales").is_dir()), None)


def params_folder() -> Path:
    """The project's ``params``; outside a clone, the copy inside the installed package."""
    return (project_root() or Path(__file__).resolve().parent) / "params"


def scales_folder() -> Path:
    """The folder of the scales."""
    return params_folder() / "scales"


def scale_file(name: object) -> Path:
    """The file of this scale.

    Raises:
        MmpeftError: There is none of this name.
    """
    names = _names_in(scales_folder())
    if name not in names:
        raise unknown("scale", name, names)
    return scales_folder() / f"{name}.yaml"


def _names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        MmpeftError: The file is missing, is not YAML, or holds something else.
    """
    content = _yaml_in(path)
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"'{content}'" if isinstance(content, str) else f"a {type(content).__name__}"
        raise MmpeftError(f"{path}: must hold 'name: value' lines, found {found}.")
    return content


def _yaml_in(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmpeftError(f"{path}: no such file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MmpeftError(f"{path}: not a YAML file: {error}") from None
