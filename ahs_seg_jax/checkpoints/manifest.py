"""What stands beside a converted checkpoint: where it came from, what it holds, and the model's configuration."""

import dataclasses
import hashlib
import pathlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.vocabulary import Vocabulary

FORMAT_VERSION = 1


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


def sha256(paths: Iterable[pathlib.Path]) -> str:
    """Hash of a file's bytes; of several files, the hash of their names and hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(digests)).encode()).hexdigest()


def stored_vocabulary(meta: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that a run was trained with, from the metadata of its checkpoints."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in meta["vocabulary"].items()
    }
    return Vocabulary(**fields)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint in memory: the model's sizes, its parameters (nested, NumPy float32) and where they came from."""

    config: ModelConfig
    params: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        """False for a bare CLIP, which has no aggregator."""
        return "aggregator" in self.params
