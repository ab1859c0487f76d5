"""What `models.toml` says, as values."""

import dataclasses
import difflib
import functools
import importlib.resources
import os
import pathlib
import tomllib
from collections.abc import Iterable
from typing import Any

from ahs_seg_jax.checkpoints.hub.names import HubName
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.vocabulary import SCENE_TEMPLATE, imagenet_templates

VARIABLE = "AHS_SEG_ZOO"  # another table, such as one of a group's own models
COMMAND = "ahs-seg models"

Pixel = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo; models.toml explains the fields. What is not known is empty, 0 or None."""

    name: str
    title: str
    repo: str
    kind: str = "model"
    revision: str = ""
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    layout: str = ""
    activation: str | None = None
    pixel_mean: Pixel | None = None
    pixel_std: Pixel | None = None
    templates: str = ""
    protocol: str = ""
    expected: str = ""
    licence: str = ""
    citation: str = ""
    note: str = ""

    @property
    def hub_name(self) -> HubName:
        """Where its weights are."""
        return HubName(self.repo, self.kind, self.revision, self.file)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The templates of its prompts; empty if none are known."""
        return {"": (), "scene": (SCENE_TEMPLATE,), "imagenet": imagenet_templates()}[self.templates]


def table() -> dict[str, Entry]:
    """Name -> entry. Raises CheckpointError if the table that AHS_SEG_ZOO names cannot be read."""
    own = os.environ.get(VARIABLE)
    return _read(pathlib.Path(own)) if own else _packaged()


@functools.cache
def _packaged() -> dict[str, Entry]:
    text = importlib.resources.files("ahs_seg_jax.checkpoints.zoo").joinpath("models.toml").read_text("utf-8")
    return parse(text, "models.toml")


def _read(path: pathlib.Path) -> dict[str, Entry]:
    try:
        return parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise CheckpointError(f"the model zoo {path} cannot be read ({error}); {VARIABLE} names it") from error


def parse(text: str, where: str) -> dict[str, Entry]:
    """The entries of a table. Raises CheckpointError that names an unknown, missing or wrong field."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"the model zoo {where} is no TOML: {error}") from error
    return {name: _entry(name, values, where) for name, values in content.items()}


def _entry(name: str, values: Any, where: str) -> Entry:
    fields = {field.name: field for field in dataclasses.fields(Entry) if field.name != "name"}
    if not isinstance(values, dict):
        raise CheckpointError(f"the model zoo {where}: {name} is {values!r}, where a table is expected")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in given.items():
        if key not in fields:
            raise CheckpointError(f"the model zoo {where}: {name}.{key} is unknown; choose one of {', '.join(fields)}")
        if not _fits(key, value):
            raise CheckpointError(f"the model zoo {where}: {name}.{key} is {value!r}, which is no {key}")
    if absent := [key for key in ("title", "repo") if key not in given]:
        raise CheckpointError(f"the model zoo {where}: {name} has no {absent[0]}")
    return Entry(name, **given)


def _fits(key: str, value: Any) -> bool:
    if key in ("pixel_mean", "pixel_std"):
        return isinstance(value, tuple) and len(value) == 3 and all(isinstance(part, float) for part in value)
    if key == "bytes":
        return type(value) is int and value >= 0
    choices = {"kind": ("model", "space", "dataset"), "templates": ("", "scene", "imagenet")}
    return isinstance(value, str) and value in choices.get(key, (value,))


def of_place(name: HubName) -> Entry | None:
    """The entry whose facts hold of a name of the hub, whatever its revision; None if there is none.

    They hold of all files of a repository, unless the table has several models of it.
    """
    here = [entry for entry in table().values() if (entry.repo, entry.kind) == (name.repo, name.kind)]
    return here[0] if len(here) == 1 else next((entry for entry in here if entry.file == name.file), None)


def nearest(text: str, names: Iterable[str]) -> list[str]:
    """The names that a mistyped one may have meant, the nearest first."""
    return difflib.get_close_matches(text.lower().replace("_", "-"), list(names), n=3, cutoff=0.75)
