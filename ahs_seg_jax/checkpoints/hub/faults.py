"""What can go wrong between the hub and its cache, each in one sentence that says what to do."""

import contextlib
import errno
from collections.abc import Iterator

from ahs_seg_jax.checkpoints.hub.names import HubName, endpoint
from ahs_seg_jax.errors import CheckpointError, reason

_FULL, _UNWRITABLE = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


@contextlib.contextmanager
def explained(name: HubName, cache: str, doing: str = "downloaded") -> Iterator[None]:
    """Whatever the hub's client raises inside becomes a CheckpointError of one sentence.

    `cache` is the client's folder, `doing` what is done: downloaded, published.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the client raises its own kinds, its HTTP library's, and the system's
        raise CheckpointError(_sentence(error, name, cache, doing)) from error


def is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer, or not with sense: then what is in the cache has to do."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")


def _sentence(error: Exception, name: HubName, cache: str, doing: str) -> str:
    from huggingface_hub import errors

    login = "log in (`hf auth login`, or the environment variable HF_TOKEN)"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"writing to {name} needs an account of the hub: {login}"
    if isinstance(error, errors.GatedRepoError):
        return f"{name.place} is gated: visit {name.page}, accept its terms there, {login}, and start again"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no path {name} here, and the hub has no {name.kind} {name.repo} that you may see: compare the "
            f"name with {name.page}; if it is private, {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.place} has no revision {name.revision or 'main'}: see {name.page}"
    if status := _status(error):
        if status in (401, 403):
            closed = f", unless its owners have closed it: see {name.page}" if status == 403 else ""
            return f"the hub refuses {name} (status {status}): the token is not valid for it; {login}{closed}"
        if status == 404:
            what = f"file {name.file}" if name.file else "such file"
            return f"{name.place} has no {what} in revision {name.revision or 'main'} (status 404): see {name.page}"
        if status >= 500 or status in (408, 429):
            return f"the hub at {endpoint()} cannot serve {name} now (status {status}): try again later"
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_without_answer(error):
        return (
            f"{name} is not in the cache ({cache}), and the hub at {endpoint()} cannot be reached "
            f"({reason(_first_cause(error))}): connect once, or download the file elsewhere and give its path"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return (
            f"{name} cannot be kept: the disk of {cache} is full; make room, or name another folder with HF_HUB_CACHE"
        )
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return (
            f"{name} cannot be kept: the cache {cache} cannot be written ({error.strerror}); name a folder of yours "
            "with the environment variable HF_HUB_CACHE"
        )
    cause = reason(_first_cause(error))
    return f"{name} could not be {doing} whole ({cause}); nothing of it counts as present: start again"


def _status(error: BaseException | None) -> int:
    """The status of the answer that an error, or one that caused it, is about; 0 if there was no answer."""
    while error is not None:
        if status := getattr(getattr(error, "response", None), "status_code", 0):
            return int(status)
        error = error.__cause__
    return 0


def _is_without_answer(error: Exception) -> bool:
    """Whether there was no connection at all; one that broke in the middle is another matter."""
    kind = type(error).__name__
    return isinstance(error, ConnectionError | TimeoutError) or "Connect" in kind or "Timeout" in kind


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
