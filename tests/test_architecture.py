"""The house's own rules: what imports what, what knows whom, how large a module is, what a file may not hold."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mmpeft"
MODULES = sorted(PACKAGE.rglob("*.py"))
LARGEST = 450

STUDY = (
    *("comparison", "report", "differences", "beyond", "paper", "curves", "curve_report", "tuning", "factors", "locations"),
    *("spread", "tracks", "track_report", "faith_report", "flops", "layouts", "efficiency", "gpu_costs"),
    *("claims", "verdicts", "paper_sweeps", "ledger", "situations", "guide", "guide_report", "reproduce"),
    *("figures", "sweep_figures", "track_figures", "cost_figures", "gallery", "album", "answers"),
    *("export", "explorer", "dataset_tables", "judge"),
)
"""The modules right of the records, in their order."""

ORDER = (
    *("errors", "entry", "task", "methods.base", "methods.*", "methods"),
    *("models.base", "models.tiny", "models.*", "models", "registry", "spec", "plan"),
    *("files", "leases", "records"),
    *("metrics", "ptb", "faithfulness", "scoring", "stats", "decide", "summaries", "simulate", "calc", "gpus", "planner"),
    *("mini.world", "mini.synonyms", "mini.scenes", "mini.draw", "mini.task", "mini.*"),
    *("reach", "real.places", "real.shelf", "real.formats", "real.coco", "real.task", "real.overlap"),
    *("tasks.mini_vqav2", "tasks.mini_flickr30k", "tasks.okvqa", "tasks.*", "tasks"),
    *("vision", "features", "wheel", "loading", "qwen_vl"),
    *("batches", "bottleneck", "attach", "checkpoints", "train", "evaluate", "monitor", "contract", "pre_step"),
    *("mini.packing", "mini.imagined", "mini.curriculum", "mini.stages", "run", "seen", "mini.card", "mini.base", "mini.smollm2"),
    *("execute", "launch", "cluster", "pictures", "audit", "doctor", "counts"),
    *("study", *(f"study.{name}" for name in STUDY)),
    *("book", "commands", "commands.terms", "commands.*", "__main__"),
)
"""A module imports at its top only modules before it; what stands under ``kind.*`` may not import its like."""

PURE = [
    *("errors", "entry", "task", "methods", "models", "counts", "registry", "spec", "plan", "files", "leases", "records"),
    *("metrics", "ptb", "faithfulness", "scoring", "stats", "decide", "summaries", "simulate", "calc", "gpus", "planner"),
    *("real.places", "real.shelf", "real.formats", "real.coco", "real.task", "real.overlap"),
    *("mini.world", "mini.scenes", "mini.draw", "mini.task", "mini.language", "mini.captions", "tasks"),
    *("execute", "launch", "cluster", "audit", "doctor", "pictures", "book"),
    *("commands.terms", "commands.runs", "commands.pages", "commands.inventory", "commands.forecast", "__main__"),
    *(f"study.{name}" for name in STUDY),
]
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets")


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def place(module: str) -> int:
    exact = module if module in ORDER else f"{module.rpartition('.')[0]}.*"
    return ORDER.index(exact) if exact in ORDER else -1


def imported_at_the_top(path: Path) -> Iterator[str]:
    """Modules of the package that this one imports when it is imported itself, without their package's name."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmpeft":
            package = (node.module or "").removeprefix("mmpeft").removeprefix(".")
            inner = [".".join(filter(None, (package, alias.name))) for alias in node.names]
            names = [name if is_module(name) else package for name in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name.removeprefix("mmpeft.") for alias in node.names if alias.name.startswith("mmpeft.")]
        yield from (name for name in names if name)


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", [p for p in MODULES if dotted(p) not in ("__init__", "mini", "real")], ids=dotted)
def test_a_module_imports_only_modules_before_it(path: Path) -> None:
    mine = dotted(path)
    assert place(mine) >= 0, f"{mine} has no place in ORDER: give it one"
    later = [name for name in imported_at_the_top(path) if place(name) >= place(mine) and name != mine]
    assert not later


def test_pure_modules_come_without_torch() -> None:
    there = [f"mmpeft.{name}" for name in PURE if is_module(name)]
    program = f"""
import importlib, sys
for name in {there!r}:
    importlib.import_module(name)
    heavy = [each for each in {HEAVY!r} if each in sys.modules]
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_training_and_evaluation_know_no_method_task_or_model(name: str) -> None:
    from mmpeft.methods import METHODS
    from mmpeft.tasks import TASKS

    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not said & {*METHODS, *TASKS, "toy", "tiny-llava"}
    compared = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert not [text for text in compared if re.search(r"\b(method|task|model)(\.name)?\b", text)]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_fits_in_a_sitting(path: Path) -> None:
    num_lines = path.read_text(encoding="utf-8").count("\n")
    assert num_lines <= LARGEST


def test_no_module_is_called_for_what_it_helps_with() -> None:
    assert not [path for path in MODULES if re.search(r"util|helper|manager|misc|common", path.stem)]


def test_every_package_is_shipped_with_its_data() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert packages | {"mmpeft.params", "mmpeft.params.scales", "mmpeft.params.accelerate"} == set(settings["packages"])
    assert settings["package-dir"] == {"mmpeft.params": "params"}
    patterns = {name: [re.compile(regex_of(each)) for each in globs] for name, globs in settings["package-data"].items()}
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            home = next(each for each in path.parents if (each / "__init__.py").exists())
            kept = patterns[".".join(home.relative_to(ROOT).parts)]
            assert any(each.fullmatch(path.relative_to(home).as_posix()) for each in kept), f"{path} would not be installed"


def regex_of(pattern: str) -> str:
    """What a glob of pyproject.toml matches."""
    return re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")


def test_the_readme_names_every_module_with_its_role() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = [path.name for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    names = [*modules, *(f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py"))]
    assert not [name for name in names if not re.search(rf"── {re.escape(name)} +\w", tree)]


def tracked() -> list[Path]:
    """Every file that is in git or would be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    homes = re.compile(rb"(?<![\w.~])/(?:root|home|Users|work|opt|private|tmp)/[\w.-]")
    binary = {".png", ".gz", ".safetensors", ".ico", ".woff2"}
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked()
        if path.suffix not in binary and (match := homes.search(path.read_bytes()))
    ]
    assert not found
