"""Downloads from the hub into its own cache: small files first, then the weights, if they can be read and have room.

The hub's client does what it is good at: progress, going on after a broken connection, locks between processes, tokens,
files that get their name only when they are whole. Here stands what it leaves open: which files, whether the disk has
room for them, whether they are still what the hub has.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ahs_seg_jax.checkpoints.hub import choice, faults
from ahs_seg_jax.checkpoints.hub.names import HubName
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.versions import __version__

CACHE, ENDPOINT, OFFLINE = "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"  # the client's own variables
ATTEMPTS = 3  # of a download whose line breaks; earlier clients than 2.0 do not try again themselves
Small = Mapping[str, pathlib.Path]  # path within the repository -> where the small file lies here
Examine = Callable[[Small, tuple[str, ...]], None]  # of the small files, and the names of the files of weights
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Weights that lie in the cache, whole. `name` has the commit as its revision."""

    name: HubName
    path: pathlib.Path  # the file; the folder, where it holds several that belong together
    bytes: int
    sha256: str  # of the file's bytes; empty for several files


@dataclasses.dataclass(frozen=True)
class _Repository:
    """What is known of a repository at one commit: of the hub, or of the cache alone (`here`)."""

    name: HubName
    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str]
    here: bool


def fetch(name: HubName, sha256: str = "", examine: Examine | None = None) -> Fetched:
    """Downloads the weights that `name` names, unless they are in the cache.

    `sha256` is what the file must have. `examine` is called before the weights are downloaded, and raises if the small
    files say that this program cannot read them.

    Raises:
      CheckpointError: in one sentence, whatever keeps the weights from lying here whole and unchanged.
    """
    with faults.explained(name, cache_folder()):
        repository, chosen = _chosen(name, examine)
        _refuse_another(repository, chosen.files, sha256)
        missing = [file for file in chosen.files if _cached(repository, file) is None]
        if missing and not repository.here:
            _announce(repository, missing)
        paths = [_get(repository, file) for file in chosen.files]
        found = [_checked(path, name, sha256) for path in paths]
        together = bool(chosen.index)
        exact = dataclasses.replace(name, revision=repository.commit, file="" if together else chosen.files[0])
        size = sum(path.stat().st_size for path in paths)
        return Fetched(exact, paths[0].parent if together else paths[0], size, "" if together else found[0])


def metadata(name: HubName) -> tuple[str, list[tuple[str, int, str]]]:
    """The commit, and of each file of weights its path, bytes and sha256, as the hub says. Weights are not downloaded.

    Raises CheckpointError as `fetch`.
    """
    with faults.explained(name, cache_folder()):
        repository, chosen = _chosen(name)
        files = [(file, repository.sizes[file], repository.sha256.get(file, "")) for file in chosen.files]
        return repository.commit, files


def cached_file(name: HubName) -> pathlib.Path | None:
    """Where the file that `name` names lies in the cache, whole; None if it does not. Asks nobody."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(
        name.repo, name.file, cache_dir=cache_folder(), revision=name.revision or None, repo_type=name.kind
    )
    return pathlib.Path(found) if isinstance(found, str) else None


def cache_folder() -> str:
    """The hub's cache: HF_HUB_CACHE, or the client's default."""
    from huggingface_hub import constants

    return os.path.expanduser(os.environ.get(CACHE) or constants.HF_HUB_CACHE)


def size_text(size: int) -> str:
    """Bytes for people: `819 MB`, `2.3 GB`."""
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:,.0f} MB" if size >= 10**6 else f"{size / 1e3:,.0f} kB"


def client_options() -> dict[str, Any]:
    """What each call of the client is told; variables count also when they were set after the client was imported."""
    chosen = os.environ.get(ENDPOINT)
    return {"library_name": "ahs_seg_jax", "library_version": __version__} | ({"endpoint": chosen} if chosen else {})


def _chosen(name: HubName, examine: Examine | None = None) -> tuple[_Repository, choice.Choice]:
    """The repository, and which of its files are the weights. Its small files are downloaded."""
    repository = _repository(name)
    small = {file: _get(repository, file) for file in choice.small_files(repository.sizes, name.file)}
    chosen = choice.weights(repository.sizes, small, name.place, name.file)
    if examine is not None:
        examine(small, chosen.files)
    for file in choice.words_file(small, repository.sizes, name.file):
        _get(repository, file)
    return repository, chosen


def _repository(name: HubName) -> _Repository:
    """What the hub says; what the cache says where the hub cannot be reached, or need not be asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if _COMMIT.fullmatch(name.revision) and name.file and cached_file(name):
        return _in_the_cache(name)
    try:
        if _is_true(os.environ.get(OFFLINE, "")):
            raise OfflineModeIsEnabled(f"{OFFLINE} is set")
        info = HfApi(**client_options()).repo_info(
            name.repo,
            repo_type=name.kind,
            revision=name.revision or None,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except Exception as error:
        if not faults.is_unreachable(error):
            raise
        try:
            return _in_the_cache(name)
        except Exception:
            raise error from None
    files: list[Any] = getattr(info, "siblings", None) or []
    sizes = {file.rfilename: file.size or 0 for file in files}
    return _Repository(name, info.sha or "", sizes, {f.rfilename: f.lfs.sha256 for f in files if f.lfs}, here=False)


def _in_the_cache(name: HubName) -> _Repository:
    import huggingface_hub

    options: dict[str, Any] = {"repo_type": name.kind, "revision": name.revision or None, "cache_dir": cache_folder()}
    # No pattern: the snapshot's folder is asked for, whatever it holds.
    found = huggingface_hub.snapshot_download(name.repo, local_files_only=True, allow_patterns=[], **options)
    folder = pathlib.Path(found)
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return _Repository(name, folder.name, sizes, {}, here=True)


def _get(repository: _Repository, file: str) -> pathlib.Path:
    """The path of a file of the repository in the cache, downloaded if it is not there."""
    if found := _cached(repository, file):
        return found
    for attempt in range(ATTEMPTS):
        try:
            found = _downloaded(repository, file)
        except Exception as error:  # a broken line; what came is kept by the client, or it has tried again itself
            if repository.here or attempt + 1 == ATTEMPTS or not faults.is_unreachable(error):
                raise
        else:
            break
    assert found is not None
    if repository.commit not in found.parts:
        raise CheckpointError(f"{repository.name} was changed on the hub during the download: start again")
    return found


def _downloaded(repository: _Repository, file: str) -> pathlib.Path:
    import huggingface_hub

    name = repository.name
    found = huggingface_hub.hf_hub_download(
        name.repo,
        file,
        repo_type=name.kind,
        revision=name.revision or None,
        cache_dir=cache_folder(),
        local_files_only=repository.here,
        **client_options(),
    )
    return pathlib.Path(found)


def _cached(repository: _Repository, file: str) -> pathlib.Path | None:
    return cached_file(dataclasses.replace(repository.name, revision=repository.commit, file=file))


def _refuse_another(repository: _Repository, files: tuple[str, ...], sha256: str) -> None:
    """Raises CheckpointError if the hub has another file than the one that is known, before it is downloaded."""
    there = repository.sha256.get(files[0], "")
    if sha256 and there and there != sha256:
        raise CheckpointError(
            f"{repository.name.place} holds another {files[0]} than the one that is known (sha256 {there[:12]}..., "
            f"known is {sha256[:12]}...): its owners have changed it; to take it as it is, give {repository.name.place}"
        )


def _announce(repository: _Repository, files: list[str]) -> None:
    """Says what is downloaded and how large it is. Raises CheckpointError if the disk has no room for it."""
    size, place = sum(repository.sizes[file] for file in files), pathlib.Path(cache_folder())
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    if (free := shutil.disk_usage(nearest).free) < size:
        raise CheckpointError(
            f"{repository.name} takes {size_text(size)}, and the disk of {place} has {size_text(free)} left: make room "
            f"there, or name a folder on another disk with the environment variable {CACHE}"
        )
    what = files[0] if len(files) == 1 else f"{len(files)} files"
    print(f"downloading {repository.name.place}, {what}: {size_text(size)} into {place}", file=sys.stderr)


@functools.cache
def _sha256(path: pathlib.Path, size: int, changed_ns: int) -> str:
    """The hash of a file; a program that loads it again does not read it again, unless it was changed meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: pathlib.Path, name: HubName, known: str) -> str:
    """The sha256 of a file in the cache. Raises CheckpointError if it is not what it was when it was downloaded."""
    about = path.stat()
    found = _sha256(path.resolve(), about.st_size, about.st_mtime_ns)
    # A large file lies under its hash, and the snapshot holds a link to it; small ones, and where links are not
    # possible all, have other names.
    stored = pathlib.Path(os.readlink(path)).name if path.is_symlink() else ""
    for wanted in (known, stored):
        if _SHA256.fullmatch(wanted) and found != wanted:
            raise CheckpointError(
                f"{path} is not what the hub has as {name} (sha256 {found[:12]}..., it should be {wanted[:12]}...): "
                f"remove {path.resolve()} and start again"
            )
    return found


def _is_true(text: str) -> bool:
    return text.upper() in ("1", "ON", "YES", "TRUE")
