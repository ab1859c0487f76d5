"""Checkpoints of other programs to our parameters and back, exactly, by the tables of `layouts`."""

import concurrent.futures
import dataclasses
import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ahs_seg_jax import threads
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints import words
from ahs_seg_jax.checkpoints.formats import beside, readers, sizes, torch_files
from ahs_seg_jax.checkpoints.formats.entry import Entry, source_shapes, target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS, TOWERS, entries, is_ignored
from ahs_seg_jax.checkpoints.formats.others import OTHERS
from ahs_seg_jax.checkpoints.formats.stated import (
    OPENAI,
    Facts,
    Stated,
    agreed,
    applied,
    described,
    of_config,
    with_assumed_pixels,
)
from ahs_seg_jax.checkpoints.formats.tensor_file import WEIGHT_FILES
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import ModelConfig

Progress = Callable[[int, int], None]  # (tensors done, tensors in all)
Tensors = Iterator[tuple[tuple[str, ...], np.ndarray]]  # (names that hold it, tensor)

SHOWN = 10  # names of each kind of difference in an error
COMPARED = 2000  # names that are compared with it; more take minutes
COLUMNS_AT_ONCE = 64  # of a transposed matrix that is copied; from 64 to 128 is fastest
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_CLIP_LAYOUTS = ("openai_clip", "hf_clip", *OTHERS)


def read(
    source: str | os.PathLike[str],
    expected: ModelConfig | None = None,
    progress: Progress | None = None,
    statements: Iterable[Stated | None] = (),
) -> Pretrained:
    """Reads a file or Hugging Face directory of any known layout. Values are float32, whatever the file has.

    `expected` is the model that is to take the weights, if known: it gives what a file neither shows nor states,
    such as the number of heads (see `sizes.model_config`). `statements` are what others than the file say of it.

    Raises:
      CheckpointError: the file cannot be read, or does not hold exactly the tensors of its layout: then the message
        lists what is missing, unexpected and of the wrong shape; or statements contradict each other.
    """
    with readers.open_tensors(source) as file:
        layout = sizes.recognise(file.shapes, file.where)
        config, facts = _config_of(layout, file, expected, statements)
        _check_sizes(layout, config, file)
        table = entries(layout, config)
        _check_names(layout, table, file)
        _check_activation(facts, file.where)
        _check_zeros(layout, file)
        with concurrent.futures.ThreadPoolExecutor(1) as elsewhere:  # the hash takes as long as the rest
            digest = elsewhere.submit(manifests.sha256, file.paths)
            leaves = _fill(table, file, progress)
            report = _report(layout, config, table, len(leaves), file, facts, digest.result())
    return Pretrained(config, parameters.unflatten(leaves), report)


def _config_of(
    layout: str, file: readers.TensorFile, expected: ModelConfig | None, statements: Iterable[Stated | None]
) -> tuple[ModelConfig, Facts]:
    """The configuration of what a file holds, and what was stated of it."""
    folder = file.paths[0].parent
    if file.config is not None:
        config = words.found_beside(manifests.config_from_json(file.config, file.where), folder, file.where)
        return config, agreed([*statements, of_config(config, "the file's own configuration")], file.where)
    found = _stated_by(layout, file)
    stated = [*statements, *found.stated]
    if layout in OTHERS:
        return _other(layout, file, expected, stated)
    reader = sizes.Words()
    if found.text_tower != reader.tower:
        reader = sizes.Words(found.text_tower, words.path_beside(folder, file.where))
    config = sizes.model_config(layout, file.shapes, file.where, found.sizes, expected, reader)
    facts = agreed(stated, file.where)
    return applied(config, facts), with_assumed_pixels(facts)


def _other(
    layout: str, file: readers.TensorFile, expected: ModelConfig | None, statements: Iterable[Stated | None]
) -> tuple[ModelConfig, Facts]:
    """The configuration of a file with other towers than CLIP's."""
    other, folder, about = OTHERS[layout], file.paths[0].parent, None
    path = folder / beside.HF_CONFIG
    if other.config_json and path.is_file():
        about = manifests.parse_json(path.read_bytes(), path)
    config = other.model_config(file.shapes, about, file.where, expected)
    config = words.found_beside(config, folder, file.where)
    facts = agreed([*statements, dataclasses.replace(other.stated, stated_by=f"its layout, {layout}")], file.where)
    return applied(config if expected is None else sizes.with_invisible(config, expected), facts), facts


def _check_zeros(layout: str, file: readers.TensorFile) -> None:
    for name in OTHERS[layout].zeros if layout in OTHERS else ():
        if name in file.tensors and np.any(file.tensors[name].load()):
            raise CheckpointError(f"{file.where}: {name} is not zero; {layout} has no such tensor, none is computed")


def _stated_by(layout: str, file: readers.TensorFile) -> beside.Beside:
    """What a file states by its kind, which only programs for OpenAI's CLIPs write, or by what lies beside it."""
    if layout not in _CLIP_LAYOUTS:
        return beside.Beside((dataclasses.replace(OPENAI, stated_by=f"its layout, {layout}"),))
    if file.kind == torch_files.TORCHSCRIPT:
        return beside.Beside((dataclasses.replace(OPENAI, stated_by="its kind, a TorchScript archive of OpenAI's"),))
    first = file.paths[0]
    about = first.with_name(f"{first.name}.manifest.json")  # what `writers` puts beside a file
    if about.is_file():
        written = manifests.parse_json(about.read_bytes(), about).get("config")
        return beside.Beside((of_config(manifests.config_from_json(written, str(about)), about.name),))
    certain = file.kind.startswith("directory") or first.name in WEIGHT_FILES
    return beside.read(first.parent, layout, certain)


def _check_sizes(layout: str, config: ModelConfig, file: readers.TensorFile) -> None:
    """Raises CheckpointError for layers that the file cannot hold and sizes that no model has, before they are used."""
    layers = {"image": config.image.layers, "text": config.text.layers, "aggregator": config.aggregator.layers}
    for part, count in layers.items():
        if not 0 < count <= len(file.tensors):
            raise CheckpointError(
                f"{file.where} has {len(file.tensors)} tensors, and by their names or its configuration {count} layers "
                f"of the {part} part; the file is malformed"
            )
    # A bare CLIP has no more; the rest, of the model which is to take it, may not fit what the file does not show.
    if problems := config.tower_problems() if layout in _CLIP_LAYOUTS else config.problems():
        raise CheckpointError(f"{file.where} has sizes that no model has: {'; '.join(problems[:3])}")


def _check_names(layout: str, table: list[Entry], file: readers.TensorFile) -> None:
    found = {name: tensor for name, tensor in file.tensors.items() if not is_ignored(layout, name)}
    lines = differences(source_shapes(table), {name: tensor.shape for name, tensor in found.items()})
    if not lines:
        lines = [
            f"{name} is {tensor.dtype}; floating-point numbers are expected"
            for name, tensor in found.items()
            if tensor.dtype not in _FLOATS
        ][:SHOWN]
    if lines:
        raise CheckpointError(
            "\n  ".join([f"{file.where} looks like {layout}, but does not match that layout:", *lines])
        )


def _check_activation(facts: Facts, where: str) -> None:
    if "activation" not in facts:
        raise CheckpointError(
            f"{where} does not say whether it computes QuickGELU (OpenAI's, MetaCLIP's) or GELU (LAION's, DataComp's), "
            "and the tensors of both are alike: state it by --activation quick_gelu or gelu (Python: "
            "activation=..., in a training configuration config.activation), or put the model's config.json or "
            "open_clip_config.json beside the file"
        )


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Both ways: names missing and unexpected (with the nearest of the other side), and shapes that differ."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and tuple(found[name]) != tuple(expected[name])]
    lines = _listed(f"{len(missing)} missing", [_with_nearest(name, unexpected, "found") for name in missing[:SHOWN]])
    lines += _listed(
        f"{len(unexpected)} unexpected", [_with_nearest(name, missing, "expected") for name in unexpected[:SHOWN]]
    )
    shapes = [f"{name}: {tuple(found[name])}, expected {tuple(expected[name])}" for name in wrong[:SHOWN]]
    return lines + _listed(f"{len(wrong)} of the wrong shape", shapes)


def _listed(title: str, shown: list[str]) -> list[str]:
    if not shown:
        return []
    count = int(title.split()[0])
    rest = [f"  ... and {count - len(shown)} more"] if count > len(shown) else []
    return [f"{title}:", *(f"  {line}" for line in shown), *rest]


def _with_nearest(name: str, others: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, others[:COMPARED], n=1, cutoff=0.8)
    return f"{name} (nearest name {what}: {near[0]})" if near else name


def _fill(table: list[Entry], file: readers.TensorFile, progress: Progress | None) -> dict[str, np.ndarray]:
    """Path -> parameter. Each thread reads one tensor at a time, so that the model is never in memory twice."""
    leaves = {path: parameters.empty(shape) for path, shape in target_shapes(table).items()}
    groups = _by_source(table)

    def fill(item: tuple[str, list[Entry]]) -> None:
        source, group = item
        tensor = file.tensors[source].load()
        if parameters.not_finite([(source, tensor)]):
            raise CheckpointError(f"{file.where}: {source} holds values that are not finite")
        for alias in group[0].aliases:
            _check_alias(file, source, tensor, alias)
        for entry in group:
            row = ... if entry.layer is None else entry.layer
            _copy(entry.forward(tensor), leaves[entry.target][row])

    for done, _ in enumerate(threads.in_order(fill, groups.items(), threads.cores()), 1):
        if progress:
            progress(done, len(groups))
    return leaves


def _copy(value: np.ndarray, target: np.ndarray) -> None:
    """Copies; a transposed matrix in strips: copied whole it misses the caches, and takes 3 times as long."""
    if value.ndim != 2 or value.strides[0] >= value.strides[1]:
        target[...] = value
        return
    for start in range(0, value.shape[1], COLUMNS_AT_ONCE):
        columns = slice(start, start + COLUMNS_AT_ONCE)
        target[:, columns] = value[:, columns]


def _check_alias(file: readers.TensorFile, source: str, tensor: np.ndarray, alias: str) -> None:
    other = file.tensors[alias].load()
    same_memory = other.__array_interface__["data"] == tensor.__array_interface__["data"]
    if not (same_memory and other.strides == tensor.strides) and not np.array_equal(other, tensor):
        raise CheckpointError(
            f"{file.where}: {alias} differs from {source}, but all blocks share these rotation parameters; "
            "the file is not an AHS-Seg checkpoint of the shared kind"
        )


def _by_source(table: list[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in table:
        groups.setdefault(entry.source, []).append(entry)
    return groups


def _report(
    layout: str,
    config: ModelConfig,
    table: list[Entry],
    parameters_filled: int,
    file: readers.TensorFile,
    facts: Facts,
    digest: str,
) -> dict[str, Any]:
    dtypes = Counter(file.tensors[name].dtype for name in source_shapes(table))
    source = {
        "path": file.where,
        "kind": file.kind,
        "layout": layout,
        "sha256": digest,
        "dtypes": dict(dtypes),
        "converted_to_float32": sum(count for dtype, count in dtypes.items() if dtype != "float32"),
        "stated": described(facts),
    }
    key_map = {
        "tensors_in_file": len(file.tensors),
        "tensors_used": len(_by_source(table)),
        "aliases": sum(len(entry.aliases) for entry in table),
        "ignored": sorted(name for name in file.tensors if is_ignored(layout, name)),
        "parameters": parameters_filled,
    }
    return manifests.describe(config, source, key_map=key_map)


def state_dict(layout: str, config: ModelConfig, params: Mapping[str, Any]) -> Tensors:
    """(names, tensor) of a file of this layout, one tensor at a time; several names are aliases of one tensor.

    Raises:
      CheckpointError: the parameters are not those of `config`, or the layout cannot hold them.
    """
    leaves = dict(parameters.flatten(params))
    table = entries(layout, written_config(layout, config))
    expected = target_shapes(table)
    without = set(left_out(layout, config, params))
    kept = {path: np.shape(leaf) for path, leaf in leaves.items() if path not in without}
    if lines := differences(expected, kept):
        raise CheckpointError("\n  ".join([f"these parameters cannot be written as {layout}:", *lines]))
    for source, group in _by_source(table).items():
        tensor = np.empty(group[0].shape, np.float32)
        for entry in group:
            row = ... if entry.layer is None else entry.layer
            entry.select(tensor)[...] = entry.inverse(np.asarray(leaves[entry.target])[row])
        yield (source, *group[0].aliases), tensor


def tensor_names(layout: str, config: ModelConfig) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(names, shape) of what `state_dict` yields, in the same order."""
    groups = _by_source(entries(layout, config)).items()
    return [((source, *group[0].aliases), group[0].shape) for source, group in groups]


def left_out(layout: str, config: ModelConfig, params: Mapping[str, Any]) -> list[str]:
    """Parameters that a file of this layout leaves out without changing what the rest computes.

    Raises:
      CheckpointError: leaving something out would change the outputs (rotations, MH-FPN).
    """
    paths = [path for path, _ in parameters.flatten(params)]
    towers = config.image.tower, config.text.tower
    if towers not in TOWERS[layout]:
        others = [name for name, valid in TOWERS.items() if towers in valid and name in LAYOUTS]
        raise CheckpointError(
            f"{layout} has no place for the towers {' and '.join(map(repr, towers))} (of images and of texts); write "
            f"{' or '.join(others)}, or keep the converted folder"
        )
    if layout == "ahs_seg":
        return []
    if config.adaptation != "none" or any(path.startswith("clip/adaptation/") for path in paths):
        raise CheckpointError(
            f"{layout} has no place for the rotations (adaptation = {config.adaptation}); fold them into the weights "
            "first (--merge), or write ahs_seg"
        )
    if layout in _CLIP_LAYOUTS:
        return [path for path in paths if not path.startswith("clip/")]
    if config.mh_fpn:
        raise CheckpointError(f"{layout} has no place for MH-FPN, which guides the aggregation; write ahs_seg instead")
    return [path for path in paths if path.startswith("dc_hsp/")]  # acts through its training losses only


def written_config(layout: str, config: ModelConfig) -> ModelConfig:
    """The configuration of what a file of this layout holds of a model."""
    if layout == "ahs_seg":
        return config
    return config.replace(mh_fpn=False, dc_hsp=False, adaptation="none")
