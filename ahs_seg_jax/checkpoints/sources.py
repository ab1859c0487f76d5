"""The one place that knows what the name of weights may be: a path, a model of the zoo, a name on the hub.

A path that exists comes first, then the zoo, then the hub. A name that is both a path here and a model of the zoo is
refused, for nobody could say which of them was meant.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.checkpoints.formats import beside
from ahs_seg_jax.checkpoints.formats.stated import Stated, agreed
from ahs_seg_jax.checkpoints.hub import choice, download, names
from ahs_seg_jax.checkpoints.zoo import records
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.storage import paths

ZOO = "zoo:"  # before a name that is also one of a folder here


@dataclasses.dataclass(frozen=True)
class Located:
    """Weights that lie at `path`, here or in a bucket. `about` is what a manifest says of how they came there.

    `layout` is the one that their tensors must have; empty if that is not known.
    """

    path: Any
    layout: str = ""
    stated: Stated | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def locate(source: str | os.PathLike[str]) -> Located:
    """Where the weights lie that `source` names; what the hub has is downloaded, unless it lies in the hub's cache.

    Only a text can name a model of the zoo or of the hub; a path object is a path.

    Raises:
      CheckpointError: there is nothing of this name, it has two meanings, or it cannot be downloaded.
    """
    entry = _entry(source) if isinstance(source, str) else None
    if entry is not None:
        return _from_zoo(entry)
    if isinstance(source, str) and names.is_explicit(source) and (name := names.parse(source)):
        return _from_hub(name)
    path = _path(source)
    if paths.is_remote(source) or path.exists():
        return Located(path)
    if name := _hub_name(source):
        return _from_hub(name)
    raise CheckpointError(_nothing(source))


def is_there(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a path that exists, or has the form of another name. Nothing is asked or downloaded."""
    if isinstance(source, str) and (source.startswith(ZOO) or source in zoo.table() or names.is_explicit(source)):
        return True
    return paths.is_remote(source) or _path(source).exists() or _hub_name(source) is not None


def _path(source: str | os.PathLike[str]) -> Any:
    """The path as an object. Raises CheckpointError if it is remote and cannot be reached, or `~` names nobody."""
    try:
        paths.check(source, "the checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    try:
        return paths.location(source).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"there is no checkpoint at {source}: {error}") from error


def _entry(source: str) -> zoo.Entry | None:
    """The model of the zoo that a text names. Raises CheckpointError if it names a path as well, or nothing."""
    table = zoo.table()
    name = source.removeprefix(ZOO)
    if source != name and name not in table:
        near = ", ".join(zoo.nearest(name, table)) or "none is similar"
        raise CheckpointError(f"the model zoo has no {name} ({near}); `{zoo.COMMAND}` lists what it has")
    if name not in table:
        return None
    if source == name and os.path.exists(name):
        raise CheckpointError(
            f"{name} is a path here and a model of the zoo: write {os.path.join('.', name)} for the path, "
            f"{ZOO}{name} for the model"
        )
    return table[name]


def _hub_name(source: str | os.PathLike[str]) -> names.HubName | None:
    """The hub name that a text can be: its first part is no path here, and the whole does not look like one."""
    if not isinstance(source, str):
        return None
    name = names.parse(source)
    if name is None or os.path.exists(source.partition("/")[0]) or source.endswith("/"):
        return None
    return None if not name.file and name.repo.endswith(choice.SUFFIXES) else name


def _nothing(source: str | os.PathLike[str]) -> str:
    near = zoo.nearest(os.fspath(source), zoo.table())
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    return (
        f"there is no checkpoint at {source}{meant} Give a file ({', '.join(choice.SUFFIXES)}), a converted or Hugging "
        f"Face directory, a training workdir, a model of the zoo (`{zoo.COMMAND}` lists them), or a name on the hub "
        "such as openai/clip-vit-base-patch16"
    )


def _from_zoo(entry: zoo.Entry) -> Located:
    known = records.pinned(entry)
    found = download.fetch(known.hub_name, known.sha256)
    records.record(entry, found)
    return Located(found.path, entry.layout, _stated(entry), {"hub": _described(found), "zoo": _facts(entry)})


def _from_hub(name: names.HubName) -> Located:
    entry = zoo.of_place(name)
    found = download.fetch(name, examine=functools.partial(_examine, where=str(name)))
    if entry is None:
        return Located(found.path, about={"hub": _described(found)})
    return Located(found.path, "", _stated(entry), {"hub": _described(found), "zoo": _facts(entry)})


def _stated(entry: zoo.Entry) -> Stated:
    return Stated(entry.activation, entry.pixel_mean, entry.pixel_std, stated_by="the model zoo")


def _described(found: download.Fetched) -> dict[str, Any]:
    return {"repository": found.name.place, "revision": found.name.revision, "file": found.name.file}


def _facts(entry: zoo.Entry) -> dict[str, Any]:
    """What a manifest keeps of an entry."""
    facts = ("name", "title", "protocol", "expected", "licence", "citation")
    return {fact: getattr(entry, fact) for fact in facts} | {"templates": list(entry.prompts)}


def _examine(small: download.Small, files: tuple[str, ...], where: str) -> None:
    """Raises CheckpointError if what lies beside the weights describes a model that is not computed here."""
    if not any(pathlib.PurePosixPath(file).name in beside.FILES for file in small):
        return
    folder, name = next(iter(small.values())).parent, pathlib.PurePosixPath(files[0]).name
    certain = name in (*choice.TRANSFORMERS, *choice.OPEN_CLIP) or len(files) > 1
    try:
        agreed(beside.read(folder, "openai_clip" if name in choice.OPEN_CLIP else "hf_clip", certain).stated, where)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), where)) from error
