"""Files that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.storage import paths


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file so that nobody ever sees a part of it."""
    if paths.is_remote(path):  # an object appears when it is complete
        path.write_text(text)
        return
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished")  # no two writers share it
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


@contextlib.contextmanager
def replacing(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `destination`, which takes its name when the block ends without an exception.

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


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes the file so that nobody ever sees a part of it."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """As `write_atomically`."""
    write_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
