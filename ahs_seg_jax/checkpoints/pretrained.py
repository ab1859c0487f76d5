"""Weights of any kind by the name of their place: what `load_pretrained` takes, and their conversion."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.checkpoints import converted, packaged, published, sources, step_folders, words
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import convert, readers, writers
from ahs_seg_jax.checkpoints.formats.stated import Stated, agreed, by_the_user, of_config
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import orthogonal
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import paths, writing
from ahs_seg_jax.vocabulary.tokenizer import TOKENIZER


def training_meta(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata of the run that trained the weights of a workdir, a converted directory or a published model.

    None if none are known, or there is no such place. What the hub has is downloaded. Raises CheckpointError if they
    are damaged.
    """
    if not sources.is_there(path) or path == packaged.TINY:
        return None
    there = sources.locate(path).path
    if folder := published.folder_of(there):
        return published.read_manifest(folder).get("training")
    if converted.is_converted(there):
        return converted.read_manifest(there).get("training")
    if _is_workdir(there):
        from ahs_seg_jax.checkpoints import store  # here, because it imports Orbax

        return store.read_meta(there)
    return None


def load_pretrained(
    source: str | os.PathLike[str],
    expected: ModelConfig | None = None,
    progress: convert.Progress | None = None,
    *,
    activation: str | None = None,
    stated: Stated | None = None,
) -> Pretrained:
    """Weights from "tiny" (the packaged model), the model zoo, a converted directory, a workdir, a file or the hub.

    `sources.locate` says what a name may be; files may be of any known layout. `expected`, the model that is to take
    the weights, is needed only for a file that does not show the number of heads; what the file states or shows takes
    precedence. `progress` is called with (tensors done, tensors in all). `activation` ("quick_gelu" or "gelu") is what
    the user says of a CLIP, `stated` what another says who knows the source; a source that says something else is
    refused.

    Raises:
      CheckpointError: there is no such source, or it cannot be read; see `convert.read`.
      ValueError: the activation is none that is known.
    """
    statements = (by_the_user(activation), stated)
    if source == packaged.TINY:
        return _agreeing(packaged.load_tiny(), packaged.TINY, statements)
    located = sources.locate(source)
    loaded = _load(located.path, expected, progress, (*statements, located.stated))
    if located.layout not in ("", layout := loaded.manifest["source"].get("layout", "")):
        raise CheckpointError(f"{source}: its tensors are named as in {layout}, the model zoo says {located.layout}")
    if located.about:
        loaded.manifest["source"] = loaded.manifest["source"] | {"hub": located.about["hub"]}
        loaded.manifest.update({key: value for key, value in located.about.items() if key != "hub"})
    return loaded


def _load(
    path: Any,
    expected: ModelConfig | None,
    progress: convert.Progress | None,
    statements: tuple[Stated | None, ...],
) -> Pretrained:
    """What lies at a path."""
    if converted.is_converted(path):
        return _agreeing(converted.load_converted(path), str(path), statements)
    if _is_workdir(path):
        return _agreeing(_from_workdir(path), str(path), statements)
    if paths.is_remote(path):
        raise CheckpointError(
            f"there is no training workdir at {path}; other checkpoints are read from a disk: copy it here "
            "(gcloud storage cp -r), or mount the bucket (gcsfuse)"
        )
    loaded = convert.read(path, expected, progress, statements)
    if folder := published.folder_of(path):
        loaded.manifest.update(published.kept(published.read_manifest(folder)))
    return loaded


def _agreeing(pretrained: Pretrained, where: str, statements: tuple[Stated | None, ...]) -> Pretrained:
    """Weights whose configuration is known. Raises CheckpointError if somebody states something else of them."""
    agreed([*statements, of_config(pretrained.config, "its own configuration")], where)
    return pretrained


def _is_workdir(path: Any) -> bool:
    hugging_face = not paths.is_remote(path) and path.is_dir() and readers.weight_files(path)
    return path.is_dir() and not hugging_face and step_folders.is_checkpoint(path)


def _from_workdir(path: Any) -> Pretrained:
    from ahs_seg_jax.checkpoints import store  # as above

    params, meta = store.load_params(path)
    manifests.check_training(meta, path)
    config = manifests.config_from_json((meta.get("config") or {}).get("model"), str(path))
    if not paths.is_remote(path) and (path / TOKENIZER).is_file():  # where the run was when it ended does not count
        config = words.found_beside(words.portable(config), path, str(path))
    source = {"path": str(path), "kind": "training workdir", "layout": "ahs_seg_jax"}
    return Pretrained(config, params, manifests.describe(config, source, meta))


def convert_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    to: str = "orbax",
    merge: bool = False,
    progress: convert.Progress | None = None,
    activation: str | None = None,
) -> dict[str, Any]:
    """Converts a checkpoint; returns the manifest written with it.

    `to` is `orbax` (a converted directory) or one of `layouts.LAYOUTS`; `merge` folds the rotations into the weights;
    `activation` as of `load_pretrained`.

    Raises:
      CheckpointError: the destination exists, the source cannot be read, or the layout cannot hold the model.
    """
    if to == "orbax":  # before the long part
        writing.refuse_existing(pathlib.Path(destination))
    else:
        writers.check_destination(destination, to)
    pretrained = load_pretrained(source, progress=progress, activation=activation)
    if merge:
        pretrained = merged(pretrained)
    left_out = [] if to == "orbax" else convert.left_out(to, pretrained.config, pretrained.params)
    written = {"layout": to, "merged": merge, "left_out": left_out}
    pretrained.manifest.update(manifests.summarise(pretrained.config, pretrained.params), written=written)
    if to == "orbax":
        converted.save_converted(destination, pretrained)
    else:
        writers.write(destination, to, pretrained.config, pretrained.params, pretrained.manifest)
    return pretrained.manifest


def merged(pretrained: Pretrained) -> Pretrained:
    """The weights with the rotations folded into them."""
    config, params = orthogonal.merge(pretrained.config, pretrained.params)
    return Pretrained(config, jax.tree.map(np.asarray, params), pretrained.manifest)
