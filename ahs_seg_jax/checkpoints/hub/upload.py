"""Uploads to the hub: all files of a folder in one commit, so that nobody ever sees a part of them."""

import pathlib
import typing

from ahs_seg_jax.checkpoints.hub import choice, download, faults
from ahs_seg_jax.checkpoints.hub.names import HubName
from ahs_seg_jax.errors import CheckpointError

if typing.TYPE_CHECKING:
    from huggingface_hub import HfApi

MESSAGE = "Model of ahs_seg_jax"


def check_access(name: HubName) -> None:
    """Raises CheckpointError if nobody is logged in, or the repository holds something else."""
    from huggingface_hub import HfApi

    with faults.explained(name, download.cache_folder(), "published"):
        api = HfApi(**download.client_options())
        api.whoami()
        foreign = [file for file in _files(api, name) if _is_foreign(file)]
    if foreign:
        raise CheckpointError(
            f"{name.repo} holds a model of another program ({', '.join(foreign[:3])}); publish under a new name"
        )


def upload(folder: pathlib.Path, name: HubName, private: bool) -> str:
    """Makes the repository if there is none, and commits the folder's files; returns the page's address.

    Files that an earlier commit of this kind left and that are not in the folder are deleted.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with faults.explained(name, download.cache_folder(), "published"):
        api = HfApi(**download.client_options())
        api.create_repo(name.repo, private=private or None, exist_ok=True)
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stale = [file for file in _files(api, name) if file.startswith("results/") and file not in paths]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(place, path) for place, path in paths.items()),
            *(CommitOperationDelete(place) for place in stale),
        ]
        api.create_commit(name.repo, operations, commit_message=MESSAGE)
    return name.page


def _files(api: "HfApi", name: HubName) -> list[str]:
    """The files of a repository; none if it does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return [file.rfilename for file in api.model_info(name.repo).siblings or []]
    except RepositoryNotFoundError:
        return []


def _is_foreign(file: str) -> bool:
    ours = ("model.safetensors", choice.MANIFEST)
    described = (*choice.DESCRIPTIONS, *choice.INDICES)
    return file not in ours and "/" not in file and (file in described or file.endswith(choice.SUFFIXES))
