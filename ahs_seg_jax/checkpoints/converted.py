"""Converted checkpoints: a folder with parameters in safetensors and a manifest."""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.storage import writing

PARAMS, MANIFEST = "params", "manifest.json"


def save_converted(destination: str | os.PathLike[str], pretrained: Pretrained) -> pathlib.Path:
    """Writes a converted directory, all or nothing.

    Raises:
      CheckpointError: the destination exists, or cannot be written.
    """
    path = pathlib.Path(destination)
    with writing.replacing(path) as partial:
        partial.mkdir()
        try:
            # Compressed, the file is 8 % smaller, and saving needs twice the memory of the weights on top of them.
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as checkpointer:
                checkpointer.save((partial / PARAMS).absolute(), pretrained.params)
        except Exception as error:  # a full disk is a ValueError of TensorStore or an OSError
            raise CheckpointError(f"{path} cannot be written ({_reason(error)}); nothing of it is left") from error
        (partial / MANIFEST).write_text(json.dumps(pretrained.manifest, indent=2) + "\n")
    return path


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def is_converted(path: str | os.PathLike[str]) -> bool:
    """True for a directory that `save_converted` wrote."""
    path = pathlib.Path(path)
    return (path / MANIFEST).is_file() and (path / PARAMS).is_dir()


def load_converted(path: str | os.PathLike[str]) -> Pretrained:
    """Reads a converted directory; parameters are NumPy arrays, on any number of devices.

    Raises:
      CheckpointError: the directory is damaged, or of a newer version of this program.
    """
    path = pathlib.Path(path)
    manifest = read_manifest(path)
    config = manifests.config_from_json(manifest["config"], str(path / MANIFEST))
    folder = (path / PARAMS).absolute()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(folder).item_metadata.tree
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            params = checkpointer.restore(folder, restore_args=on_host)
    except Exception as error:  # damaged files fail in many ways
        raise CheckpointError(f"{folder} cannot be read ({_reason(error)}); convert the checkpoint again") from error
    return Pretrained(config, params, manifest)


def read_manifest(path: Any) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged ({error!r}); convert the checkpoint again") from error
    if version > manifests.FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this program reads up to {manifests.FORMAT_VERSION}; update it"
        )
    return manifest
