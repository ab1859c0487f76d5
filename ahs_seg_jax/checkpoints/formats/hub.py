"""Where a checkpoint lies: a path on this machine, or a name on the Hugging Face hub, which is downloaded once."""

import os
import pathlib
import re
from typing import Any

from ahs_seg_jax.errors import CheckpointError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES = {".pth", ".pt", ".bin", ".safetensors", ".npz"}
_SAFETENSORS = ["config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
_PICKLES = ["config.json", "pytorch_model.bin"]


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """True for `owner/name` that is no path here and does not look like a file."""
    path = pathlib.Path(source)
    return (
        isinstance(source, str)
        and _HUB_NAME.fullmatch(source) is not None
        and path.suffix not in _FILE_SUFFIXES
        and not path.exists()
        and not path.parent.exists()
    )


def expanded(path: Any) -> Any:
    """The path with `~` and `~user` in their place. Raises CheckpointError if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"there is no checkpoint at {path}: {error}") from error


def locate(source: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file or directory, downloaded from the hub if `source` is a name there.

    Raises:
      CheckpointError: there is no such path, or the hub cannot be reached or has no such model.
    """
    path = expanded(pathlib.Path(source))
    if path.exists():
        return path
    if not is_hub_name(source):
        raise CheckpointError(
            f"there is no checkpoint at {source}; give a file (.pth, .pt, .bin, .safetensors, .npz), a converted or "
            "Hugging Face directory, a training workdir, or a hub name such as openai/clip-vit-base-patch16"
        )
    return _download(str(source))


def _download(name: str) -> pathlib.Path:
    import huggingface_hub

    try:
        directory = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_SAFETENSORS))
        if not list(directory.glob("*.safetensors")):
            directory = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_PICKLES))
    except Exception as error:  # the hub's client raises many kinds: offline, not found, no access
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"there is no path {name}, and it cannot be downloaded from the Hugging Face hub ({reason}). "
            f"Without network: fetch model.safetensors and config.json of {name} elsewhere and give their directory"
        ) from error
    return directory
