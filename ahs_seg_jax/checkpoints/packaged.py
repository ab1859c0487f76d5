"""The small model that the package ships: a safetensors file of at most 4 MB, written by `scripts/export_tiny.py`.

It holds what inference needs: rotations folded into the weights, no DC-HSP (which acts in training only), float16. Of
the table of token embeddings, two thirds of all parameters, only the rows of tokens that occurred in training are
stored. The other rows were never trained; they are drawn anew, so that unknown words differ from one another and mean
nothing.
"""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from ahs_seg_jax.checkpoints import hashes
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import orthogonal, parameters
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary import Vocabulary, names_beyond, words_of

TINY = "tiny"
LIMIT_BYTES = 4 * 10**6
TABLE, ROWS = "clip/text/token_embedding", "token_rows"
_FORMAT = 1


def save(
    path: str | os.PathLike[str], pretrained: Pretrained, trained: Vocabulary, accuracy: float | None = None
) -> int:
    """Writes a trained model in the packaged form; returns its bytes. `trained` are the names of its training.

    `accuracy` is what `self_test_accuracy` gave for the file, if it is known: the doctor expects it.

    Raises CheckpointError if the file would exceed LIMIT_BYTES, or the model is not finite.
    """
    config, params = inference_only(pretrained)
    leaves = {name: np.asarray(leaf, np.float32) for name, leaf in parameters.flatten(params)}
    stored: dict[str, np.ndarray] = {name: leaf.astype(np.float16) for name, leaf in leaves.items()}
    hashes.check_finite(stored.items(), f"what is to be written to {path}")
    rows = np.unique(trained.tokens(config.text.context, config.text.tokenizer)).astype(np.int32)
    table = leaves[TABLE]
    spread = float(np.delete(table, rows, axis=0).std())
    stored[TABLE], stored[ROWS] = table[rows].astype(np.float16), rows
    about = {
        "format": _FORMAT,
        "config": manifests.config_to_json(config),
        "templates": trained.templates,
        "names": trained.names,
        "protocol": pretrained.protocol,
        "untrained_rows_std": spread,
        "self_test_accuracy": accuracy,
        hashes.HASHES: hashes.digests(stored.items()),
    }
    about = hashes.sealed(json.loads(json.dumps(about)))
    data = safetensors.numpy.save(stored, {key: json.dumps(value) for key, value in about.items()})
    if len(data) > LIMIT_BYTES:
        raise CheckpointError(f"the packaged model would take {len(data)} bytes; the limit is {LIMIT_BYTES}")
    writing.write_bytes(pathlib.Path(path), data)
    return len(data)


def load(path: str | os.PathLike[str]) -> Pretrained:
    """Reads a file of `save`; parameters are float32. Raises CheckpointError if it is damaged or of another version."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            leaves = {name: file.get_tensor(name) for name in file.keys()}
        about, checks = hashes.unsealed(about, str(path))
        hashes.check(leaves, checks, str(path))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError, CheckpointError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); install the package again") from error
    if about.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {about.get('format')}, this program reads {_FORMAT}; update it")
    config = manifests.config_from_json(about["config"], str(path))
    rows = leaves.pop(ROWS)
    table = untrained_rows((config.text.vocab_size, config.text.width), about["untrained_rows_std"])
    table[rows] = leaves[TABLE]
    leaves = {name: leaf.astype(np.float32) for name, leaf in leaves.items()} | {TABLE: table}
    training = {
        "vocabulary": {"names": about["names"], "templates": about["templates"]},
        "config": {"eval": {"protocol": about["protocol"]}},
    }
    source, accuracy = {"path": str(path), "layout": "packaged"}, about["self_test_accuracy"]
    manifest = manifests.describe(config, source, training, self_test_accuracy=accuracy)
    return Pretrained(config, parameters.unflatten(leaves), manifest)


def strange_words(names: Sequence[str]) -> list[str]:
    """The names that hold a word which the packaged model never met: what it says about them means nothing."""
    return names_beyond(names, words_of(load_tiny().trained_names))


def load_tiny() -> Pretrained:
    """The packaged small model."""
    with importlib.resources.as_file(
        importlib.resources.files("ahs_seg_jax.checkpoints").joinpath("tiny.safetensors")
    ) as path:
        return load(path)


def inference_only(pretrained: Pretrained) -> tuple[Any, Mapping[str, Any]]:
    """Configuration and parameters of what inference computes: merged rotations, no DC-HSP."""
    config, params = orthogonal.merge(pretrained.config, pretrained.params)
    return config.replace(dc_hsp=False), {name: part for name, part in params.items() if name != "dc_hsp"}


def untrained_rows(shape: tuple[int, int], std: float) -> np.ndarray:
    """Float32 of this shape and spread, the same on every machine: from raw bits, whose sequence NumPy guarantees."""
    bits = np.random.PCG64(0).random_raw(shape[0] * shape[1]) >> np.uint64(40)  # 24 of them
    uniform = bits.astype(np.float32) * np.float32(2.0**-23) - 1
    return (uniform * np.float32(std * 3**0.5)).reshape(shape)
