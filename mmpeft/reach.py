"""What goes wrong on the way to a hub, in one sentence with its remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gaierror
from typing import Literal

from mmpeft.errors import MmpeftError

Trouble = Literal["gated", "no revision", "no repository", "unreached", "other"]


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


def look_for(what: str, repository: str, revision: str | None) -> None:
    """Nothing, if a model is in the cache, in a folder of its id, or within reach; its config alone is fetched.

    Raises:
        MmpeftError: It is not: said once, before a sweep fails run by run.
    """
    if Path(repository).is_dir():
        return
    from huggingface_hub import hf_hub_download

    with explained(what, f"{repository}@{revision or 'main'}"):
        hf_hub_download(repository, "config.json", revision=revision)


def _reason(error: BaseException, place: str) -> str:
    """What the error means for a model, and what to do."""
    name = place.split("@")[0]
    reasons: dict[Trouble, str] = {
        "gated": f"'{name}' is gated: accept its terms on its hub page, then log in with `hf auth login`.",
        "no revision": f"the hub has no revision '{place}'; it may have been rewritten: look at its page and mend the entry.",
        "no repository": f"the hub has no '{name}'; it may have moved: look for its new name and mend the entry.",
        "unreached": f"'{place}' cannot be reached and is not in the cache: connect, or download it where there is a network.",
        "other": f"'{place}' does not load: {' '.join(str(error).split())}",
    }
    return reasons[trouble(error)]


def trouble(error: BaseException) -> Trouble:
    """What stands between us and a repository of the hub. The libraries' errors are told apart by their chain of causes."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    said = str(error)
    if any_of(errors.GatedRepoError) or "gated" in said:
        return "gated"
    if any_of(errors.RevisionNotFoundError) or "Revision '" in said:
        return "no revision"
    if any_of(errors.RepositoryNotFoundError) or "DatasetNotFoundError" in names:
        return "no repository"
    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, gaierror)
    # TransportError is httpx's or httpx2's, whichever the hub's library uses.
    return "unreached" if any_of(*offline) or "TransportError" in names or "couldn't connect" in said else "other"
