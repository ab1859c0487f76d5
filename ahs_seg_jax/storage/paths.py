"""Paths on Google Cloud Storage (`gs://bucket/...`): what can lie there, and what must lie on a disk.

A run's working directory can, and prepared benchmarks: Orbax, ArrayRecord, TensorBoard's writer and etils read and
write there by themselves. Single images and other programs' checkpoints are opened by libraries that need a file.
"""

import importlib.util
import logging
import os
import pathlib
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
            f"{what} is {os.fspath(path)}, but that is only read from a disk: copy it here (gcloud storage cp -r), or "
            "mount the bucket (gcsfuse)"
        )
    return pathlib.Path(path)


def at_home(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path with `~` and `~user` in their place. Raises ValueError if there is no such user."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no {os.fspath(path)}: {error}") from error


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
