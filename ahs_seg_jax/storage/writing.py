"""Files and folders that are written whole or not at all: nobody ever sees a part of one under its name."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from ahs_seg_jax.errors import CheckpointError, WriteError, reason
from ahs_seg_jax.storage import paths


@contextlib.contextmanager
def whole(path: Any) -> Iterator[Any]:
    """A temporary path on a disk, whose file takes the place of `path` when the block ends.

    The bytes are on the disk by then, or in the bucket of `path`. If the block raises, `path` stays as it was and
    nothing is left beside it.

    Raises:
      WriteError: the file cannot be written, as on a full disk; the message names the file and the cause.
    """
    if paths.is_remote(path):
        with tempfile.TemporaryDirectory() as scratch:
            yield pathlib.Path(scratch) / path.name
            path.write_bytes((pathlib.Path(scratch) / path.name).read_bytes())  # an object appears when it is complete
        return
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished")  # no two writers share it
    try:
        yield unfinished
        put_in_place(unfinished, path)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {reason(error)}; what stood there before is unchanged") from error
    finally:
        with contextlib.suppress(OSError):  # as when its folder has vanished
            unfinished.unlink(missing_ok=True)


def put_in_place(unfinished: Any, path: Any) -> None:
    """Renames a finished file to `path`, which it replaces, once its bytes are on the disk."""
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def write_bytes(path: Any, data: bytes) -> None:
    """Writes a file on a disk or in a bucket; `path` is one of `paths.location`. Raises as `whole`."""
    if paths.is_remote(path):  # an object appears when it is complete
        path.write_bytes(data)
        return
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def write_text(path: Any, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Any, content: Any, **options: Any) -> None:
    """As `write_text`, one value a line; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(content, indent=1, **options) + "\n")


class Staged:
    """Files that appear together, when all of them are written, or not at all: on a disk, or in a bucket."""

    def __init__(self) -> None:
        self._files: list[tuple[pathlib.Path, Any]] = []
        self._scratch: tempfile.TemporaryDirectory[str] | None = None  # of files that go to a bucket

    def __call__(self, path: Any) -> pathlib.Path:
        """Where on the disk to write the file `path` for now; `path` is one of `paths.location`. Its folder is made."""
        short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # any name fits into the system's limit
        if paths.is_remote(path):
            self._scratch = self._scratch or tempfile.TemporaryDirectory()
            partial = pathlib.Path(self._scratch.name) / f"{len(self._files)}.{short}{path.suffix}"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{short}.partial{path.suffix}")
        self._files.append((partial, path))
        return partial

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for partial, path in self._files:
                if kind is not None:
                    partial.unlink(missing_ok=True)
                elif paths.is_remote(path):
                    path.write_bytes(partial.read_bytes())
                else:
                    partial.replace(path)
        finally:
            if self._scratch:
                self._scratch.cleanup()


@contextlib.contextmanager
def replacing(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path for a new file or folder, which is renamed to `destination` when the block ends.

    Until then nothing stands at `destination`; a process that is killed leaves at most a hidden `.*.partial-*`.

    Raises:
      CheckpointError: something stands at `destination` already.
    """
    refuse_existing(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{destination.name}.partial-", dir=destination.parent))
    try:
        yield folder / destination.name
        refuse_existing(destination)
        (folder / destination.name).rename(destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(destination: pathlib.Path) -> None:
    """Raises CheckpointError if something stands at `destination`."""
    if destination.exists():
        raise CheckpointError(
            f"{destination} exists already and is never overwritten; remove it or choose another name"
        )
