"""Paths on Google Cloud Storage (`gs://bucket/...`): what can lie there, and what must lie on a disk.

A run's working directory can, and prepared benchmarks: Orbax, ArrayRecord, TensorBoard's writer and etils read and write
there by themselves. Single images and other programs' checkpoints are opened by libraries that need a file.
"""

import importlib.util
import logging
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from etils import epath


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether the path names another place than this machine's disks."""
    return "://" in os.fspath(path)


def location(path: str | os.PathLike[str]) -> Any:
    """The path as an object with pathlib's methods, wherever it lies. pathlib itself would make `gs:/` of `gs://`."""
    return epath.Path(path) if is_remote(path) else pathlib.Path(path)


def on_disk(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """The path of something that is only read from a disk. Raises ValueError if it is remote."""
    if is_remote(path):
        raise ValueError(
            f"{what} is {os.fspath(path)}, but that is only read from a disk: copy it here (gcloud storage cp -r), or mount "
            "the bucket (gcsfuse)"
        )
    return pathlib.Path(path)


def check(path: str | os.PathLike[str], what: str) -> None:
    """Returns if the path is on a disk, or can be reached. Raises ValueError, with the cause, if not."""
    if not is_remote(path):
        return
    name = os.fspath(path)
    if not name.startswith("gs://"):
        raise ValueError(f"{what} is {name}; it can be a folder on a disk, or gs://bucket/folder")
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(f"{what} is {name}, and gs:// needs gcsfs: pip install 'ahs_seg_jax[gcs]'")
    logging.getLogger("fsspec").setLevel(logging.WARNING)  # it tells of every file that is read
    try:
        list(epath.Path("/".join(name.split("/")[:3])).glob("*"))
    except Exception as error:  # no such bucket, no credentials, no network: each library has its own
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{what} is {name}, which cannot be reached ({cause}); look at the bucket's name, the network and the "
            "credentials (gcloud auth application-default login)"
        ) from error


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file so that nobody ever sees a part of it."""
    if is_remote(path):  # an object appears when it is complete
        path.write_text(text)
        return
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished")  # no two writers share it
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


class Answering:
    """Whether a place answers, without the minute or more that clients of a bucket go on trying for before they say no.

    `ask` does something there that needs the place itself, in a thread; one at a time. A quick error is an answer: what
    comes next will say more about it.
    """

    def __init__(self, ask: Callable[[], object]):
        self._ask = ask
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None  # of the last try that ended
        self._seconds = 0.0  # that it took
        self.cause = ""  # of the last no

    def within(self, seconds: float) -> bool:
        """Whether it answers now; waits no longer than so many seconds."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._try, daemon=True)
            self._thread.start()
        self._thread.join(seconds)
        if not self._thread.is_alive() and (self._failure is None or self._seconds <= seconds):
            return True
        self.cause = f"no answer within {seconds:g} s"
        if self._failure:
            self.cause += f", and before {type(self._failure).__name__}: {self._failure}"
        return False

    def _try(self) -> None:
        started = time.monotonic()
        failure = None
        try:
            self._ask()
        except Exception as error:
            failure = error
        self._seconds, self._failure = time.monotonic() - started, failure
