"""Stanford's PTB tokenizer, where this machine has it: Java, and the jar that the official caption scorers ship.

Two tokenizers give two scores, so a score always says which one it used; see `metrics.cider_tokenize` for the other.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from mmpeft.errors import MmpeftError

DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""What the official script leaves out; its bracket names are in capitals, which lower-cased tokens never match."""

JAR = "stanford-corenlp-3.4.1.jar"


def jar() -> Path | None:
    """The tokenizer's jar: ``$MMPEFT_PTB_JAR``, else the one inside an installed pycocoevalcap; None without either."""
    named = os.environ.get("MMPEFT_PTB_JAR")
    if named:
        return Path(named) if Path(named).is_file() else None
    package = find_spec("pycocoevalcap")
    folders = [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    return next((path for folder in folders if (path := folder / "tokenizer" / JAR).is_file()), None)


def available() -> bool:
    """Whether this machine has Java and the jar."""
    return shutil.which("java") is not None and jar() is not None


def tokenize(captions: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The tokens of each caption, all captions in one call of Java.

    Raises:
        MmpeftError: Java or the jar is missing, or Java fails.
    """
    found = jar()
    if found is None or not available():
        raise MmpeftError(
            "tokenizer: PTB needs Java and its jar; install Java and pip install pycocoevalcap, or set MMPEFT_PTB_JAR to "
            f"{JAR}."
        )
    texts = list(dict.fromkeys(captions))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        path.write_text("\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
        options = ["-cp", str(found), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        done = subprocess.run(
            ["java", *options, "-encoding", "utf-8", str(path)], capture_output=True, encoding="utf-8", check=False
        )
    lines = done.stdout.split("\n")[: len(texts)]
    if done.returncode or len(lines) < len(texts):
        raise MmpeftError(f"tokenizer: Java failed ({done.stderr.strip()[:200]}); unset MMPEFT_PTB_JAR to do without it.")
    return {
        text: tuple(token for token in line.split() if token not in DROPPED) for text, line in zip(texts, lines, strict=True)
    }
