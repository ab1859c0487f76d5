"""Paths in buckets: what can lie in one, and what must lie on a disk.

A run's working directory can lie on Google Cloud Storage (`gs://bucket/...`), and prepared benchmarks: Orbax,
ArrayRecord, TensorBoard's writer and etils read and write there by themselves. The images of `ahs-seg segment` and its
results can lie there or on S3 (`s3://bucket/...`). Other programs' checkpoints, and TIFF images larger than memory, are
opened by libraries that need a file.
"""

import glob
import importlib.util
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from etils import epath

LIBRARIES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # kind of a bucket: what reads it, and the extra with that
CREDENTIALS = {"gs": "gcloud auth application-default login", "s3": "aws configure, or AWS_ACCESS_KEY_ID and the like"}


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


def check(path: str | os.PathLike[str], what: str, kinds: tuple[str, ...] = ("gs",)) -> None:
    """Returns if the path is on a disk, or in a bucket of these `kinds` that can be reached.

    Raises ValueError, with the cause, if not.
    """
    if not is_remote(path):
        return
    name = os.fspath(path)
    kind = name.partition("://")[0]
    if kind not in kinds:
        places = " or ".join(f"{known}://bucket/folder" for known in kinds)
        raise ValueError(f"{what} is {name}; it can be a folder on a disk, or {places}")
    library, extra = LIBRARIES[kind]
    if importlib.util.find_spec(library) is None:
        raise ValueError(f"{what} is {name}, and {kind}:// needs {library}: pip install 'ahs_seg_jax[{extra}]'")
    logging.getLogger("fsspec").setLevel(logging.WARNING)  # it tells of every file that is read
    try:
        list(epath.Path("/".join(name.split("/")[:3])).glob("*"))
    except Exception as error:  # no such bucket, no credentials, no network: each library has its own
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{what} is {name}, which cannot be reached ({cause}); look at the bucket's name, the network and the "
            f"credentials ({CREDENTIALS[kind]})"
        ) from error


def objects(address: str) -> Iterator[tuple[str, list[Any]]]:
    """(address, [bytes, version]) of the objects in a bucket: the one of this address, or those below it, or, if it is
    a pattern, those that it matches; sorted. An object that is replaced gets another version.
    """
    import fsspec  # only here: most runs have everything on their disks

    kind = address.partition("://")[0]
    files = fsspec.filesystem(kind)
    files.invalidate_cache()  # what others have written since this process looked last
    found = files.glob(address, detail=True) if glob.has_magic(address) else files.find(address, detail=True)
    for name, about in sorted(found.items()):
        if about["type"] == "file":
            version = about.get("generation") or about.get("ETag") or about.get("etag") or about.get("LastModified")
            yield f"{kind}://{name}", [about["size"], str(version)]
