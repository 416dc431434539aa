"""What goes wrong with the Hugging Face hub, as the end of a sentence that holds no secret.

The token comes from the hub's own login or HF_TOKEN; only what an error quotes of it is ever seen here.
Source of the errors: https://huggingface.co/docs/huggingface_hub/package_reference/utilities (Errors).
"""

import errno
import importlib
import re
from collections.abc import Iterator
from typing import Any

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
GOES_ON = "run again, which goes on from there"
DISK_IS_FULL = f"the disk is full: free some room and {GOES_ON}"
UNREACHABLE = "the Hugging Face hub cannot be reached: check the network"
UNKNOWN = (
    "the hub has no such repository, or it is private and this login may not see it: check the name "
    f"(owner/name), or {LOGIN}"
)
MAX_QUOTED = 300

_SECRET = re.compile(r"hf_\w+|Bearer \S+")
_PLACE = re.compile(r"(?<![\w:/])(?:[A-Za-z]:)?[\\/](?:[^\s'\"\\/]+[\\/])+")


def transport_errors(hub: Any) -> tuple[type[BaseException], ...]:
    """All that the hub's client raises over the network, the disk and names that the hub cannot have.

    Args:
        hub: the module `huggingface_hub`.

    Raises:
        ImportError, AttributeError: it is older than the names that are needed of it.
    """
    for part in ("constants", "errors", "utils"):
        importlib.import_module(f"huggingface_hub.{part}")  # no attribute of `hub` before
    return (*_http_errors(hub.errors), OSError, hub.utils.HFValidationError)


def _http_errors(errors: Any) -> tuple[type[BaseException], ...]:
    """The errors of the HTTP package that this version of the hub's client is made with."""
    ancestors = errors.HfHubHTTPError.__mro__[1:]
    return tuple(kind for kind in ancestors if kind.__module__ != "builtins")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cleaned(error: BaseException) -> str:
    """The first line of what went wrong, without tokens and places on this machine."""
    return _without_secrets(f"{type(error).__name__}: {str(error).strip()}")


def gated(hub: Any, page: str) -> str:
    """The reason where an owner opens a repository to those who ask; `page` as in `reason`."""
    return f"it is gated, and {_let_in(hub, page)}, {LOGIN}, and run again"


def _let_in(hub: Any, page: str) -> str:
    return f"its owner must let you in: ask for access on its page {hub.constants.ENDPOINT}/{page}"


def reason(hub: Any, error: BaseException, page: str, again: str = GOES_ON) -> str:
    """Why the hub did not do what it was asked for, and what to do; callers say before it what they wanted.

    Args:
        hub: the module `huggingface_hub`.
        error: what was raised.
        page: of the repository on the hub: `owner/name`, or `datasets/owner/name`.
        again: how to try again.
    """
    chain = list(causes(error))
    for link in chain:
        if said := _access(hub, link, page, again) or _machine(hub, link, again):
            return said
    if any(isinstance(link, hub.errors.LocalEntryNotFoundError) for link in chain):
        return f"{UNREACHABLE} and {again}"
    return f"{cleaned(error)}; {again}"


def _access(hub: Any, error: BaseException, page: str, again: str) -> str:
    """What the hub itself answers; empty where this is none of its answers."""
    errors = hub.errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = _without_secrets(getattr(error, "server_message", None) or "")
    answer = f"{status}: {said}" if said else f"{status}"
    if isinstance(error, errors.GatedRepoError):
        return gated(hub, page)
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision of it: name a branch, a tag or a commit, or none for the newest"
    if isinstance(error, errors.EntryNotFoundError) and status is not None:
        return f"the hub misses one of its files ({answer}): {again}, or choose another repository"
    is_unknown = isinstance(error, (errors.RepositoryNotFoundError, hub.utils.HFValidationError))
    if is_unknown or status in (401, 404):
        return UNKNOWN
    if status == 403:
        return f"the hub refuses that ({answer}), and {_let_in(hub, page)}, or {LOGIN}"
    return f"the hub answers {answer}: wait a while, and {again}" if status is not None else ""


def _machine(hub: Any, error: BaseException, again: str) -> str:
    """What the disk or the network refuses; empty where this is neither."""
    if isinstance(error, hub.errors.LocalEntryNotFoundError):
        return ""  # says only that something was wrong; its cause may know more
    if getattr(error, "errno", None) == errno.ENOSPC:
        return DISK_IS_FULL
    if isinstance(error, (*_http_errors(hub.errors), ConnectionError, TimeoutError)):
        is_offline = hub.constants.HF_HUB_OFFLINE
        return f"{'HF_HUB_OFFLINE is set: unset it' if is_offline else UNREACHABLE} and {again}"
    # what the network raises is an OSError too, but names no file
    if isinstance(error, OSError) and error.filename is not None:
        why = error.strerror or type(error).__name__
        return f"a file on this machine cannot be read or written ({why}): mend that folder, and {again}"
    return ""


def _without_secrets(text: str) -> str:
    first = (text.strip().splitlines() or [""])[0]
    return _PLACE.sub("", _SECRET.sub("***", first))[:MAX_QUOTED]
