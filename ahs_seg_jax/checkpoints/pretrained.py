"""Weights of any kind by the name of their place: what `load_pretrained` takes, and their conversion."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.checkpoints import converted, packaged, store
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import convert, hub, readers, writers
from ahs_seg_jax.checkpoints.formats.stated import Stated, agreed, by_the_user, of_config
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import orthogonal
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import paths, writing


def training_meta(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata of the run that trained the weights of a workdir or a converted directory; None if none are known.

    Raises CheckpointError if they are damaged.
    """
    path = _location(path)
    if converted.is_converted(path):
        return converted.read_manifest(path).get("training")
    if _is_workdir(path):
        return store.read_meta(path)
    return None


def load_pretrained(
    source: str | os.PathLike[str],
    expected: ModelConfig | None = None,
    progress: convert.Progress | None = None,
    *,
    activation: str | None = None,
    stated: Stated | None = None,
) -> Pretrained:
    """Weights from "tiny" (the packaged model), a converted directory, a training workdir, a file or a hub name.

    Files may be of any known layout. `expected`, the model that is to take the weights, is needed only for a file that
    does not show the number of heads; what the file states or shows takes precedence. `progress` is called with
    (tensors done, tensors in all). `activation` ("quick_gelu" or "gelu") is what the user says of a CLIP, `stated` what
    another says who knows the source; a source that says something else is refused.

    Raises:
      CheckpointError: there is no such source, or it cannot be read; see `convert.read`.
      ValueError: the activation is none that is known.
    """
    statements = (by_the_user(activation), stated)
    if source == packaged.TINY:
        return _agreeing(packaged.load_tiny(), packaged.TINY, statements)
    path = _location(source)
    if converted.is_converted(path):
        return _agreeing(converted.load_converted(path), str(path), statements)
    if _is_workdir(path):
        return _agreeing(_from_workdir(path), str(path), statements)
    if paths.is_remote(source):
        raise CheckpointError(
            f"there is no training workdir at {source}; other checkpoints are read from a disk: copy it here "
            "(gcloud storage cp -r), or mount the bucket (gcsfuse)"
        )
    return convert.read(source, expected, progress, statements)


def _agreeing(pretrained: Pretrained, where: str, statements: tuple[Stated | None, ...]) -> Pretrained:
    """Weights whose configuration is known. Raises CheckpointError if somebody states something else of them."""
    agreed([*statements, of_config(pretrained.config, "its own configuration")], where)
    return pretrained


def _location(path: str | os.PathLike[str]) -> Any:
    """The path as an object. Raises CheckpointError if it is remote and cannot be reached."""
    try:
        paths.check(path, "the checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return hub.expanded(paths.location(path))


def _is_workdir(path: Any) -> bool:
    hugging_face = not paths.is_remote(path) and path.is_dir() and readers.weight_files(path)
    return path.is_dir() and not hugging_face and store.is_checkpoint(path)


def _from_workdir(path: Any) -> Pretrained:
    params, meta = store.load_params(path)
    manifests.check_training(meta, path)
    config = manifests.config_from_json((meta.get("config") or {}).get("model"), str(path))
    source = {"path": str(path), "kind": "training workdir", "layout": "ahs_seg_jax"}
    return Pretrained(config, params, manifests.describe(config, source, meta))


def convert_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    to: str = "orbax",
    merge: bool = False,
    progress: convert.Progress | None = None,
) -> dict[str, Any]:
    """Converts a checkpoint; returns the manifest written with it.

    `to` is `orbax` (a converted directory) or one of `layouts.LAYOUTS`; `merge` folds the rotations into the weights.

    Raises:
      CheckpointError: the destination exists, the source cannot be read, or the layout cannot hold the model.
    """
    if to == "orbax":  # before the long part
        writing.refuse_existing(pathlib.Path(destination))
    else:
        writers.check_destination(destination, to)
    pretrained = load_pretrained(source, progress=progress)
    if merge:
        pretrained = _merged(pretrained)
    left_out = [] if to == "orbax" else convert.left_out(to, pretrained.config, pretrained.params)
    written = {"layout": to, "merged": merge, "left_out": left_out}
    pretrained.manifest.update(manifests.summarise(pretrained.config, pretrained.params), written=written)
    if to == "orbax":
        converted.save_converted(destination, pretrained)
    else:
        writers.write(destination, to, pretrained.config, pretrained.params, pretrained.manifest)
    return pretrained.manifest


def _merged(pretrained: Pretrained) -> Pretrained:
    config, params = orthogonal.merge(pretrained.config, pretrained.params)
    return Pretrained(config, jax.tree.map(np.asarray, params), pretrained.manifest)
