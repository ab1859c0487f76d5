"""Which files of a repository hold the weights that this program can read, and which small ones describe them."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.vocabulary.tokenizer import TOKENIZER

CONFIG, OPEN_CLIP_CONFIG, MANIFEST = "config.json", "open_clip_config.json", "manifest.json"
OWN_TOKENIZER = ("siglip", "metaclip_2")  # the kinds of model that need their tokenizer.json
DESCRIPTIONS = (
    *(CONFIG, OPEN_CLIP_CONFIG, MANIFEST),
    *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"),
)
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TRANSFORMERS = ("model.safetensors", INDICES[0], "pytorch_model.bin", INDICES[1])  # in the order of preference
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")


@dataclasses.dataclass(frozen=True)
class Choice:
    """The files of weights, as paths within the repository; several are the shards that `index` lists."""

    files: tuple[str, ...]
    index: str = ""


def small_files(names: Iterable[str], file: str = "") -> list[str]:
    """The files that say what the weights are, beside `file` or at the top of the repository."""
    wanted = {sibling(file, name) for name in (*DESCRIPTIONS, *(() if file else INDICES))}
    return sorted(wanted & set(names))


def words_file(small: Mapping[str, pathlib.Path], names: Iterable[str], file: str = "") -> list[str]:
    """The tokenizer.json beside weights whose words CLIP's tokenizer cannot read, or nothing.

    So say config.json, or the manifest of a model that this program published.
    """
    wanted = sibling(file, TOKENIZER)
    kind = _field(small.get(sibling(file, CONFIG)), "model_type")
    named = _field(small.get(sibling(file, MANIFEST)), "config", "text", "tokenizer")
    return [wanted] if wanted in set(names) and (kind in OWN_TOKENIZER or named == TOKENIZER) else []


def _field(path: pathlib.Path | None, *keys: str) -> Any:
    """A field of a JSON file, None if there is none: who reads the file says what is wrong with it."""
    try:
        value: Any = json.loads(path.read_bytes()) if path else None
        for key in keys:
            value = value[key]
        return value
    except (ValueError, RecursionError, TypeError, LookupError):
        return None


def sibling(file: str, name: str) -> str:
    """The path of `name` in the folder of `file`."""
    return f"{file.rpartition('/')[0]}/{name}".lstrip("/")


def weights(names: Iterable[str], small: Mapping[str, pathlib.Path], where: str, file: str = "") -> Choice:
    """What to download of a repository that holds `names`; `small` says where its small files lie here.

    safetensors are taken before pickles. A `model.safetensors` beside a `config.json` of another library (timm's holds
    an image tower alone) gives way to open_clip's file.

    Raises:
      CheckpointError: `file` is not there, no file can be the weights, or several can; the message lists them.
    """
    names = list(names)
    if file:
        if file not in names:
            raise CheckpointError(f"{where} has no file {file}; its files of weights are: {_listed(names)}")
        return Choice((file,))
    of_transformers = () if _belongs_to_another_library(small) else TRANSFORMERS
    for candidate in sorted((*of_transformers, *OPEN_CLIP), key=lambda name: ".safetensors" not in name):
        if candidate in names:
            return _shards(candidate, small[candidate], names, where) if candidate in INDICES else Choice((candidate,))
    found = [name for name in names if "/" not in name and name.endswith(SUFFIXES)]
    if len(found) == 1:
        return Choice((found[0],))
    if not found:
        raise CheckpointError(f"{where} holds no weights that this program reads ({', '.join(SUFFIXES)})")
    raise CheckpointError(
        f"{where} holds several files of weights ({_listed(found)}): name one, such as {where}/{min(found)}"
    )


def _belongs_to_another_library(small: Mapping[str, pathlib.Path]) -> bool:
    """Whether config.json is not one of transformers, while open_clip's configuration stands beside it."""
    if OPEN_CLIP_CONFIG not in small or CONFIG not in small:
        return False
    try:
        return "model_type" not in json.loads(small[CONFIG].read_bytes())
    except (ValueError, RecursionError):  # who reads the configuration says what is wrong with it
        return False


def _shards(index: str, path: pathlib.Path, names: list[str], where: str) -> Choice:
    try:
        shards = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: {index} is malformed: its weight_map does not give a file for each tensor"
        ) from error
    if absent := [shard for shard in shards if shard not in names]:
        raise CheckpointError(f"{where} is incomplete: {index} names {absent[0]}, which is not there")
    return Choice(tuple(shards), index)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(name for name in names if name.endswith(SUFFIXES))) or "none"
