"""What stands beside a converted checkpoint: where it came from, what it holds, and the model's configuration."""

import dataclasses
import hashlib
import pathlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig

FORMAT_VERSION = 1
_CHUNK = 1 << 20  # elements a step of the statistics, so that no large float64 copy is made


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The configuration as nested dictionaries of numbers, strings and lists."""
    return dataclasses.asdict(config)


def config_from_json(values: Mapping[str, Any], where: str) -> ModelConfig:
    """The inverse of `config_to_json`; fields that are absent keep their defaults.

    Raises:
      CheckpointError: a field is unknown, or the sizes contradict each other.
    """
    config = _build(ModelConfig, values, where, "model")
    if problems := config.problems():
        raise CheckpointError(f"{where} holds an invalid model configuration: {'; '.join(problems)}")
    return config


def _build(cls: Any, values: Any, where: str, path: str) -> Any:
    fields = typing.get_type_hints(cls)
    if not isinstance(values, Mapping) or (unknown := sorted(set(values) - set(fields))):
        found = f"a {type(values).__name__}" if not isinstance(values, Mapping) else f"unknown fields {unknown}"
        raise CheckpointError(f"{where}: {path} has {found}; it was written by another version of ahs_seg_jax")
    built = {}
    for name, value in values.items():
        kind = fields[name]
        if dataclasses.is_dataclass(kind):
            built[name] = _build(kind, value, where, f"{path}.{name}")
        else:
            built[name] = tuple(value) if typing.get_origin(kind) is tuple else value
    return cls(**built)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dictionaries, paths joined by `/`."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from path -> leaf."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def part_of(path: str) -> str:
    """The part of the model a parameter belongs to: `clip/image`, `clip/text`, `aggregator`, ..."""
    first, _, rest = path.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "clip" and "/" in rest else first


def statistics(leaves: Iterable[tuple[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Part of the model -> number of parameters, mean, standard deviation, least and greatest value."""
    sums: dict[str, list[float]] = {}
    for path, leaf in leaves:
        total = sums.setdefault(part_of(path), [0, 0.0, 0.0, np.inf, -np.inf])
        flat = np.asarray(leaf).reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK].astype(np.float64)
            total[0] += chunk.size
            total[1] += float(chunk.sum())
            total[2] += float(chunk @ chunk)
            total[3] = min(total[3], float(chunk.min()))
            total[4] = max(total[4], float(chunk.max()))
    return {part: _summary(*total) for part, total in sorted(sums.items())}


def _summary(count: float, total: float, squares: float, low: float, high: float) -> dict[str, float]:
    mean = total / count
    std = max(squares / count - mean**2, 0.0) ** 0.5
    return {"parameters": int(count), "mean": mean, "std": std, "min": low, "max": high}


def sha256(paths: Iterable[pathlib.Path]) -> str:
    """Hash of a file's bytes; of several files, the hash of their names and hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(digests)).encode()).hexdigest()
