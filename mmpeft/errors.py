"""The one exception a user is meant to read, that of a run that failed, and the sentence for an unknown name."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


class MmpeftError(Exception):
    """A mistake in what the user asked for: shown without a traceback, exit code 2."""


class RunFailed(MmpeftError):
    """A run that ended before its scores; what it found out goes into the record of its failure.

    Args:
        message: What happened.
        curve: The losses until then, (step, loss).
        contract: What was measured for its contract.
    """

    def __init__(
        self, message: str, curve: Sequence[tuple[int, float | None]] = (), contract: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.curve = list(curve)
        self.contract = dict(contract or {})


def unknown(kind: str, name: object, valid: Iterable[str]) -> MmpeftError:
    """The error for a name that does not exist: names it, suggests the nearest, lists the valid ones.

    Args:
        kind: What was looked for, for example ``"task"``.
        name: What the user wrote.
        valid: The names that exist.
    """
    names = sorted(valid)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return MmpeftError(f"unknown {kind} '{name}'.{hint} Valid: {', '.join(names) or 'none'}.")
