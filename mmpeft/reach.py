"""What goes wrong on the way to a hub, in one sentence with its remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmpeft.errors import MmpeftError


@contextmanager
def explained(what: str, place: str) -> Iterator[None]:
    """Turns the libraries' errors while something is fetched into one sentence.

    Args:
        what: What is fetched, for example ``"model llava-1.5-7b"``.
        place: Its id on the hub, with the revision.

    Raises:
        MmpeftError: No network, terms not accepted, no such id or revision, a file or a package missing.
    """
    try:
        yield
    except ImportError as error:
        raise MmpeftError(f"{what}: a package is missing ({str(error).strip().splitlines()[0]}); install it with pip.") from error
    except (OSError, ValueError) as error:
        raise MmpeftError(f"{what}: {_reason(error, place)}") from error


def _reason(error: BaseException, place: str) -> str:
    """What the innermost known error of a chain means, and what to do."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    name = place.split("@")[0]
    if any_of(errors.GatedRepoError):
        return f"'{name}' is gated: accept its terms on its hub page, then log in with `hf auth login`."
    if any_of(errors.RevisionNotFoundError):
        return f"the hub has no revision '{place}'; it may have been rewritten: look at its page and mend the entry."
    if any_of(errors.RepositoryNotFoundError):
        return f"the hub has no '{name}'; it may have moved: look for its new name and mend the entry."
    if any_of(errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError) or "connect" in str(error):
        return f"'{place}' cannot be reached and is not in the cache: connect to the network, or download it where there is one."
    return f"'{place}' does not load: {' '.join(str(error).split())}"
