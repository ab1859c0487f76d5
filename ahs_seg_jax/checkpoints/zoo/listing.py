"""What there is to say of a model of the zoo on this machine."""

import dataclasses
from typing import Any

from ahs_seg_jax.checkpoints.hub import choice, download
from ahs_seg_jax.checkpoints.zoo import records
from ahs_seg_jax.checkpoints.zoo.table import Entry


def describe(entry: Entry) -> dict[str, Any]:
    """The entry's fields, with what was recorded here, and `path`: where its weights lie, empty if they do not.

    JSON types only. Nothing is asked or downloaded.
    """
    known = records.pinned(entry)
    facts = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    facts |= {name: list(facts[name]) for name in ("pixel_mean", "pixel_std") if facts[name] is not None}
    return facts | {"page": known.hub_name.page, "path": _path(known)}


def _path(entry: Entry) -> str:
    candidates = (entry.file,) if entry.file else (*choice.TRANSFORMERS, *choice.OPEN_CLIP)
    paths = (download.cached_file(dataclasses.replace(entry.hub_name, file=file)) for file in candidates)
    return next((str(path) for path in paths if path is not None), "")
