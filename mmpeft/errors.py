"""The one exception a user is meant to read, and the sentence for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


class MmpeftError(Exception):
    """A mistake in what the user asked for: shown without a traceback, exit code 2."""


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
