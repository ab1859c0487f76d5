"""Converted checkpoints: a folder with parameters (`params/`, by Orbax), a manifest, and a hash of each array in it.

A model with another tokenizer than CLIP's has its tokenizer.json there, too. The folder appears under its name only
when it is complete.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints import hashes, words
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.models import parameters
from ahs_seg_jax.storage import writing

PARAMS, MANIFEST = "params", "manifest.json"
AGAIN = "convert the checkpoint again"


def save_converted(destination: str | os.PathLike[str], pretrained: Pretrained) -> pathlib.Path:
    """Writes a converted directory, all or nothing.

    Raises:
      CheckpointError: the destination exists, or cannot be written, or the parameters are not finite.
    """
    from ahs_seg_jax.checkpoints import orbax_params  # see its first lines

    path = pathlib.Path(destination)
    leaves = {name: np.asarray(leaf) for name, leaf in parameters.flatten(pretrained.params)}
    hashes.check_finite(leaves.items(), f"what is to be written to {path}")
    described = pretrained.manifest
    if (portable := words.portable(pretrained.config)) is not pretrained.config:
        described = described | {"config": manifests.config_to_json(portable)}
    content = hashes.sealed(described | {hashes.HASHES: hashes.digests(leaves.items())})
    with writing.replacing(path) as partial:
        partial.mkdir()
        try:
            orbax_params.write((partial / PARAMS).absolute(), pretrained.params)
            words.copy(pretrained.config, partial)
            writing.write_text(partial / MANIFEST, json.dumps(content, indent=2) + "\n")
        except Exception as error:  # a full disk is a ValueError of TensorStore or an OSError
            raise CheckpointError(f"{path} cannot be written ({reason(error)}); nothing of it is left") from error
    return path


def is_converted(path: str | os.PathLike[str]) -> bool:
    """True for a directory that `save_converted` wrote."""
    path = pathlib.Path(path)
    return (path / MANIFEST).is_file() and (path / PARAMS).is_dir()


def load_converted(path: str | os.PathLike[str]) -> Pretrained:
    """Reads a converted directory; parameters are NumPy arrays, on any number of devices.

    Raises:
      CheckpointError: the directory is damaged, or of a newer version of this program, or its values are not finite.
    """
    from ahs_seg_jax.checkpoints import orbax_params  # see its first lines

    path = pathlib.Path(path)
    manifest, stored = _read_manifest(path)
    config = manifests.config_from_json(manifest.get("config"), str(path / MANIFEST))
    config = words.found_beside(config, path, str(path))
    folder = (path / PARAMS).absolute()
    try:
        params, examined = orbax_params.read(folder)
    except Exception as error:  # damaged files fail in many ways
        raise CheckpointError(f"{folder} cannot be read ({reason(error)}); {AGAIN}") from error
    hashes.check(dict(parameters.flatten(params)), stored, str(folder), examined=examined)
    return Pretrained(config, params, manifest)


def read_manifest(path: Any) -> dict[str, Any]:
    """The manifest of a converted directory, without the hashes. Raises CheckpointError if it is damaged."""
    return _read_manifest(path)[0]


def _read_manifest(path: Any) -> tuple[dict[str, Any], dict[str, hashes.Hashes] | None]:
    where = path / MANIFEST
    try:
        content = manifests.parse_json(where.read_bytes(), where)
        version = content.get("format_version")
        if isinstance(version, int) and version > manifests.FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, this program reads up to {manifests.FORMAT_VERSION}; update it"
            )
        manifest, stored = hashes.unsealed(content, str(where))
        if not isinstance(version, int) or isinstance(version, bool):
            raise CheckpointError(f"{where} is damaged: it holds no number of its format")
        manifests.check_source(manifest, where)
        manifests.check_training(manifest.get("training"), where)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {AGAIN}") from error
    return manifest, stored
