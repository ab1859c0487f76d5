"""Models as they are published: safetensors, what is known of them, their results, and a card made of these."""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ahs_seg_jax.checkpoints import hashes, model_card, words
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.formats import layouts, writers
from ahs_seg_jax.checkpoints.hub import names, upload
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import paths, writing

WEIGHTS, MANIFEST, RESULTS, CARD = "model.safetensors", "manifest.json", "results", "README.md"
_KEPT = ("training", "zoo", manifests.INFERENCE)  # of a manifest, when a published model is read


def folder_of(path: Any) -> pathlib.Path | None:
    """The folder of a published model, if `path` is one, or its file of weights; None for all else."""
    if paths.is_remote(path) or not (path.is_dir() or path.name == WEIGHTS):
        return None
    folder = path if path.is_dir() else path.parent
    return folder if (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file() else None


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """What is known of a published model; nothing, where another program's manifest lies there.

    Raises CheckpointError if it is damaged, or of a newer version.
    """
    where = folder / MANIFEST
    content, _ = hashes.unsealed(manifests.parse_json(where.read_bytes(), where), str(where))
    version = content.get("format_version")
    if version is None:
        return {}
    if not isinstance(version, int) or version > manifests.FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format version {version}, this program reads up to {manifests.FORMAT_VERSION}; update it"
        )
    return content


def kept(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a published manifest that still holds of the weights when they are read."""
    return {key: manifest[key] for key in _KEPT if key in manifest}


def of_memory(
    config: ModelConfig,
    params: dict[str, Any],
    manifest: Mapping[str, Any],
    templates: Sequence[str],
    protocol: str,
) -> Pretrained:
    """A model in use, with the prompts and the protocol that it is used with; `manifest` is what is known of it."""
    known = dict(manifest) or manifests.describe(config, {"path": "a model in memory", "layout": "ahs_seg_jax"})
    return Pretrained(
        config, params, known | {manifests.INFERENCE: {"templates": list(templates), "protocol": protocol}}
    )


def publish(
    pretrained: Pretrained,
    repository: str,
    results: Sequence[Any] = (),
    *,
    licence: str = "",
    private: bool = False,
) -> str:
    """Uploads a model to `owner/name` on the hub, in one commit; returns the address of its page.

    `results` are paths of results files. `licence` is one of the hub's names, such as "mit". The repository is made if
    it does not exist; a model that was published there before is replaced.

    Raises:
      CheckpointError: the name is none, nobody is logged in who may write there, something else lies there, a
        results file is none, or the tokenizer that the model's words need cannot be read.
    """
    name = check_name(repository)
    read = [_results(path) for path in results]
    upload.check_access(name)
    with tempfile.TemporaryDirectory(prefix="ahs_seg_publish_") as folder:
        write(pathlib.Path(folder), pretrained, read, name.repo, licence)
        return upload.upload(pathlib.Path(folder), name, private)


def check_name(repository: str) -> names.HubName:
    """The name as one of the hub. Raises CheckpointError if it is none of a repository of models."""
    name = names.parse(repository)
    if name is None or name.kind != "model" or name.revision or name.file:
        raise CheckpointError(f"{repository} is no name of a model on the hub; give owner/name")
    return name


def results_of(source: str | os.PathLike[str]) -> list[Any]:
    """The results files of a run."""
    return sorted((paths.location(source) / RESULTS).glob("*.json"))


def write(
    folder: pathlib.Path, pretrained: Pretrained, results: Sequence[dict[str, Any]], name: str, licence: str = ""
) -> None:
    """Writes what `publish` uploads. `results` are the contents of results files."""
    config = words.portable(pretrained.config)
    layout = "ahs_seg" if pretrained.is_complete else layouts.of_towers(config)
    writers.write(folder / WEIGHTS, layout, pretrained.config, pretrained.params)
    manifest = {key: value for key, value in pretrained.manifest.items() if key != manifests.INFERENCE}
    inference = {"templates": list(pretrained.templates), "protocol": pretrained.protocol}
    content = manifest | manifests.summarise(config, pretrained.params) | {manifests.INFERENCE: inference}
    content["written"] = {"layout": layout, "file": WEIGHTS}
    writing.write_text(folder / MANIFEST, json.dumps(hashes.sealed(content), indent=2) + "\n")
    (folder / RESULTS).mkdir()
    for number, result in enumerate(results):
        writing.write_json(folder / RESULTS / f"{result.get('benchmark', number)}_{number}.json", result)
    writing.write_text(folder / CARD, model_card.text(name, pretrained, results, licence))


def _results(path: Any) -> dict[str, Any]:
    content = manifests.parse_json(path.read_bytes(), path)
    if not isinstance(content.get("scores"), dict) or "protocol" not in content:
        raise CheckpointError(f"{path} is no results file of an evaluation; move it elsewhere")
    return content
