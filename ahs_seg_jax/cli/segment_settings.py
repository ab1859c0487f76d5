"""What the results of `ahs-seg segment` depend on, from the texts of its options."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from ahs_seg_jax.data.pixel_range import Rescale
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.segmenter.tiff_bands import Band


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the results depend on, besides the images."""

    classes: tuple[str, ...]
    model: str
    protocol: str | None
    unknown: str | float | tuple[str, ...]
    keep: int | Literal["model", "auto"] | None
    memory_gb: float | None
    windows: NativeWindows | None = None
    first_index: int = 0  # of the classes in files of labels
    bands: tuple[Band, ...] | None = None  # red, green, blue; None: as the image says
    rescale: Rescale | None = None  # which values become 0 and 255
    snap: str | None = None  # folder of masks that labels snap to
    every: int = 1  # frames of a film: each, or every so many
    smooth: float = 0.0  # share of the frames before in a film's probabilities
    activation: str | None = None  # of CLIP; None: what its file states
    weights: str = ""  # a hash of what is known of them; a model of the same name may be another one later
    method: str | None = None  # None: what suits the model

    def described(self) -> dict[str, Any]:
        """JSON values. The memory bound is left out: results do not depend on it."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        del values["memory_gb"]
        return values


def hash_of_weights(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest says of the weights themselves, wherever they lie: hashes of files, the step of a training."""
    source = {key: value for key, value in manifest.get("source", {}).items() if key != "path"}
    known = {"source": source, **{key: manifest.get(key) for key in ("config", "statistics", "training")}}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def parse_keep(text: str) -> int | Literal["model", "auto"] | None:
    """`model`, `auto`, `all`, or a number. Raises ValueError for anything else."""
    named: dict[str, Literal["model", "auto"] | None] = {"model": "model", "auto": "auto", "all": None}
    if text in named:
        return named[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"--keep is {text!r}; give model, auto, all, or a number of classes")


def parse_windows(text: str, **options: Any) -> NativeWindows | None:
    """`native` with its options, or an empty text without any. Raises ValueError for anything else."""
    # Not `in (None, False)`: 0 is equal to False, and an overlap of 0 is one.
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if text == "native":
        return NativeWindows(**given)
    if text:
        raise ValueError(f"--windows is {text!r}; give native, or leave it out for the windows of --protocol")
    misplaced = [f"--{name.replace('_', '-')}" for name in given if (name, given[name]) != ("blend", "smooth")]
    if misplaced:
        raise ValueError(f"{', '.join(misplaced)} needs --windows native")
    return None
