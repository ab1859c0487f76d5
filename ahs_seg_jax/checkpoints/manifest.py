"""What stands beside a checkpoint's arrays: where they came from, what they hold, and the model's configuration."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import fields, parameters
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import SCENE_TEMPLATE, Vocabulary

FORMAT_VERSION = 1
INFERENCE = "inference"  # prompts and protocol of a published model


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint in memory: the model's sizes, its parameters (nested, NumPy float32) and where they came from.

    The properties are what `manifest` says, or what is taken where it says nothing, as for files of other programs.
    """

    config: ModelConfig
    params: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        """False for a bare CLIP, which has no aggregator."""
        return "aggregator" in self.params

    @property
    def training(self) -> dict[str, Any] | None:
        """The metadata of the run that trained the weights; None if none are known."""
        return self.manifest.get("training")

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of the training, those the model zoo names, or the usual one."""
        trained = (self.training or {}).get("vocabulary", {}).get("templates")
        return tuple(self._published("templates") or trained or self._of_zoo("templates") or (SCENE_TEMPLATE,))

    @property
    def trained_names(self) -> tuple[str, ...]:
        """The class names of the training; empty if they are not known."""
        return tuple((self.training or {}).get("vocabulary", {}).get("names", ()))

    @property
    def protocol(self) -> str:
        """The protocol by which the run was scored, or that of published scores."""
        trained = (self.training or {}).get("config", {}).get("eval", {}).get("protocol")
        return self._published("protocol") or trained or self._of_zoo("protocol") or "cat_seg"

    def _published(self, fact: str) -> Any:
        return self.manifest.get(INFERENCE, {}).get(fact)

    def _of_zoo(self, fact: str) -> Any:
        return self.manifest.get("zoo", {}).get(fact)


def describe(
    config: ModelConfig, source: Mapping[str, Any], training: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The manifest of weights that were read from `source` ("path", "layout", ...)."""
    about = {"format_version": FORMAT_VERSION, "source": dict(source), "config": config_to_json(config)}
    trained = {} if training is None else {"training": training}
    return about | trained | {"versions": versions()} | more


def summarise(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of parameters that are about to be written: their parts, and numbers of each part."""
    leaves = dict(parameters.flatten(params))
    return {
        "config": config_to_json(config),
        "contents": sorted({parameters.part_of(name) for name in leaves}),
        "statistics": parameters.statistics(leaves.items()),
    }


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The configuration as nested dictionaries of numbers, strings and lists."""
    return dataclasses.asdict(config)


def config_from_json(values: Any, where: str) -> ModelConfig:
    """The inverse of `config_to_json`; fields that are absent keep their defaults.

    Raises:
      CheckpointError: a field is unknown or of a wrong type, or the sizes contradict each other.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} holds a {type(values).__name__} where a model configuration is expected")
    problems: list[str] = []
    config = fields.build(ModelConfig, values, "model.", problems, partial=True)
    if problems := problems or config.problems():
        raise CheckpointError(f"{where} holds an invalid model configuration: {'; '.join(problems)}")
    return config


def parse_json(text: str | bytes, where: Any) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError if it is none, or nested without end."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # the text is no JSON or no UTF-8; or it is nested too deeply
        raise CheckpointError(f"{where} is damaged: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is damaged: it holds a {type(value).__name__} where a JSON object is expected")
    return value


def sha256(paths: Iterable[pathlib.Path]) -> str:
    """Hash of a file's bytes; of several files, the hash of their names and hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in sorted(digests)).encode()).hexdigest()


def check_source(manifest: Mapping[str, Any], where: Any) -> None:
    """Raises CheckpointError unless a manifest says where the weights came from."""
    _expect(manifest.get("source"), Mapping, "the source of the weights", where)
    _expect(manifest["source"].get("path"), str, "the path of the weights", where)


def check_training(training: Any, where: Any) -> None:
    """Raises CheckpointError where what is read of a run's metadata is of a wrong type; it may be absent.

    Read are the class names and templates, and of the configuration the model and the protocol.
    """
    if training is None:
        return
    vocabulary, config = _group(training, "vocabulary", where), _group(training, "config", where)
    protocol = _group(config, "eval", where).get("protocol", "")
    _group(config, "model", where)
    for name in ("names", "templates", "groups"):
        _expect(vocabulary.get(name, ()), list | tuple, f"the vocabulary's {name}", where)
        for text in vocabulary.get(name, ()):
            _expect(text, str, f"one of the vocabulary's {name}", where)
    _expect(vocabulary.get("synonyms", ""), str, "the vocabulary's rule of synonyms", where)
    _expect(protocol, str, "the protocol", where)


def _group(values: Any, name: str, where: Any) -> Mapping[str, Any]:
    _expect(values, Mapping, "the training", where)
    found = values.get(name, {})
    _expect(found, Mapping, name, where)
    return found


def _expect(value: Any, kind: Any, what: str, where: Any) -> None:
    if not isinstance(value, kind):
        raise CheckpointError(f"{where} is damaged: a {type(value).__name__} stands where {what} should be")


def stored_vocabulary(meta: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that a run was trained with, from the metadata of its checkpoints.

    Raises CheckpointError if it is damaged.
    """
    check_training(meta, "the checkpoint's metadata")
    stated: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in meta.get("vocabulary", {}).items()
    }
    try:
        return Vocabulary(**stated)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's metadata hold no vocabulary that can be used: {error}") from error
