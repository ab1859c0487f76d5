"""Weights to start from: converted directories, and everything else that `load_pretrained` takes.

A converted directory holds `params/` (Orbax) and `manifest.json`. It appears under its name only when it is complete.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ahs_seg_jax import remote
from ahs_seg_jax.checkpoints import convert, readers, writers
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.convert import Pretrained
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.versions import versions

TINY = "tiny"  # the source that the package brings along
PARAMS, MANIFEST = "params", "manifest.json"


def save_converted(destination: str | os.PathLike[str], pretrained: Pretrained) -> pathlib.Path:
    """Writes a converted directory, all or nothing.

    Raises:
      CheckpointError: the destination exists, or cannot be written.
    """
    path = pathlib.Path(destination)
    with writers.replacing(path) as partial:
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
    manifest = _manifest(path)
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


def _manifest(path: Any) -> dict[str, Any]:
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


def training_meta(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The metadata of the run that trained the weights of a workdir or a converted directory; None if none are known.

    Raises CheckpointError if they are damaged.
    """
    path = _location(path)
    if is_converted(path):
        return _manifest(path).get("training")
    if _is_workdir(path):
        from ahs_seg_jax.checkpoints import store

        return store.read_meta(path)
    return None


def load_pretrained(
    source: str | os.PathLike[str], expected: ModelConfig | None = None, progress: convert.Progress | None = None
) -> Pretrained:
    """Weights from "tiny" (the packaged model), a converted directory, a training workdir, a file or a hub name.

    Files may be of any known layout. `expected`, the model that is to take the weights, is needed only for a file that does not show the number of heads;
    whatever the source states or shows goes before it. `progress` is called with (tensors done, tensors in all).

    Raises:
      CheckpointError: there is no such source, or it cannot be read; see `convert.read`.
    """
    if source == TINY:
        from ahs_seg_jax import packaged  # only here: it reads with what this package has

        return packaged.load_tiny()
    path = _location(source)
    if is_converted(path):
        return load_converted(path)
    if _is_workdir(path):
        return _from_workdir(path)
    if remote.is_remote(source):
        raise CheckpointError(
            f"there is no training workdir at {source}; other checkpoints are read from a disk: copy it here "
            "(gcloud storage cp -r), or mount the bucket (gcsfuse)"
        )
    return convert.read(source, expected, progress)


def _location(path: str | os.PathLike[str]) -> Any:
    """The path as an object. Raises CheckpointError if it is remote and cannot be reached."""
    try:
        remote.check(path, "the checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return remote.location(path).expanduser()


def _is_workdir(path: Any) -> bool:
    if not path.is_dir() or (not remote.is_remote(path) and readers.weight_files(path)):
        return False
    from ahs_seg_jax.checkpoints import store  # only here: it brings the whole training code along

    return store.is_checkpoint(path)


def _from_workdir(path: Any) -> Pretrained:
    from ahs_seg_jax.checkpoints import store

    params, meta = store.load_params(path)
    config = manifests.config_from_json(meta["config"]["model"], str(path))
    leaves = dict(manifests.flatten(params))
    manifest = {
        "format_version": manifests.FORMAT_VERSION,
        "source": {"path": str(path), "kind": "training workdir", "layout": "ahs_seg_jax"},
        "training": meta,
        "config": manifests.config_to_json(config),
        "contents": sorted({manifests.part_of(name) for name in leaves}),
        "statistics": manifests.statistics(leaves.items()),
        "versions": versions(),
    }
    return Pretrained(config, params, manifest)


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
        writers.refuse_existing(pathlib.Path(destination))
    else:
        writers.check_destination(destination, to)
    pretrained = load_pretrained(source, progress=progress)
    if merge:
        pretrained = _merged(pretrained)
    left_out = [] if to == "orbax" else convert.left_out(to, pretrained.config, pretrained.params)
    pretrained.manifest["written"] = {"layout": to, "merged": merge, "left_out": left_out}
    if to == "orbax":
        save_converted(destination, pretrained)
    else:
        writers.write(destination, to, pretrained.config, pretrained.params, pretrained.manifest)
    return pretrained.manifest


def _merged(pretrained: Pretrained) -> Pretrained:
    from ahs_seg_jax.models import orthogonal  # only here: reading and writing need no model code

    config, params = orthogonal.merge(pretrained.config, pretrained.params)
    params = jax.tree.map(np.asarray, params)
    leaves = dict(manifests.flatten(params))
    described = {
        "config": manifests.config_to_json(config),
        "contents": sorted({manifests.part_of(path) for path in leaves}),
        "statistics": manifests.statistics(leaves.items()),
    }
    return Pretrained(config, params, pretrained.manifest | described)


def initialise_from(
    fresh: Mapping[str, Any], pretrained: Pretrained, config: ModelConfig | None = None
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Fresh parameters with the pretrained values in their place, and a report of both kinds.

    What the file has must match in name and shape. What it lacks may stay fresh only as a whole component: rotations,
    HA-HEM's strengths, MH-FPN, DC-HSP, and the aggregator when the file is a bare CLIP. `fresh` may hold arrays or
    shapes; `config`, the model that `fresh` belongs to, adds a check of the numbers of heads, which shapes do not show.

    Returns:
      (params, {"loaded": paths, "fresh": paths}); fresh leaves are those of `fresh` itself.

    Raises:
      CheckpointError: names or shapes differ otherwise; the message lists them both ways.
    """
    wanted, given = dict(manifests.flatten(fresh)), dict(manifests.flatten(pretrained.params))
    components = {_component(path) for path in given}
    kept = [path for path in wanted if path not in given and _may_be_fresh(_component(path), components)]
    expected = {path: tuple(leaf.shape) for path, leaf in wanted.items() if path not in kept}
    lines = convert.differences(expected, {path: leaf.shape for path, leaf in given.items()})
    lines += _hints(expected, given, pretrained, config)
    if lines:
        source = pretrained.manifest["source"]["path"]
        raise CheckpointError("\n  ".join([f"{source} does not fit the model of this configuration:", *lines]))
    params = manifests.unflatten({path: given.get(path, leaf) for path, leaf in wanted.items()})
    return params, {"loaded": sorted(given), "fresh": sorted(kept)}


def _component(path: str) -> str:
    """The unit that is either wholly in a file or not at all."""
    if path.startswith(("clip/adaptation/alpha_", "clip/adaptation/beta_")):
        return "ha_hem"
    if path.startswith("clip/adaptation/"):
        return "rotations"
    first = path.partition("/")[0]
    return "aggregator" if first.startswith("guidance_up_") else first


def _may_be_fresh(component: str, in_file: set[str]) -> bool:
    if component == "aggregator":
        return in_file == {"clip"}
    return component != "clip" and component not in in_file


def _hints(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, np.ndarray],
    pretrained: Pretrained,
    config: ModelConfig | None,
) -> list[str]:
    """What to change, for the differences that people meet."""
    hints = []
    grid = "clip/image/position_embedding"
    if grid in expected and grid in given and expected[grid] != given[grid].shape:
        stored = pretrained.config.image.pretrained_grid
        hints.append(f"set model.image.pretrained_grid = {stored}; the crop may differ, it is resized to")
    extra = {_component(path) for path in given} - {_component(path) for path in expected}
    fields = {"rotations": "model.adaptation", "ha_hem": "model.adaptation = 'ha_hem'", "mh_fpn": "model.mh_fpn"}
    fields["dc_hsp"] = "model.dc_hsp"
    hints += [
        f"the file has {name}, the configuration does not: see {fields[name]}" for name in sorted(extra & set(fields))
    ]
    if config is not None:
        for tower in ("image", "text"):
            theirs, ours = getattr(pretrained.config, tower).heads, getattr(config, tower).heads
            if theirs != ours:
                hints.append(f"model.{tower}.heads is {ours}, the file's is {theirs}")
    return hints
