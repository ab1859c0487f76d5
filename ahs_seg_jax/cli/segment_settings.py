"""What the results of `ahs-seg segment` depend on, from the texts of its options."""

import dataclasses
import json
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
    keep: int | Literal["model"] | None
    memory_gb: float | None
    windows: NativeWindows | None = None
    first_index: int = 0  # of the classes in files of labels
    bands: tuple[Band, ...] | None = None  # red, green, blue; None: as the image says
    rescale: Rescale | None = None  # which values become 0 and 255
    snap: str | None = None  # folder of masks that labels snap to
    every: int = 1  # frames of a film: each, or every so many
    smooth: float = 0.0  # share of the frames before in a film's probabilities
    activation: str | None = None  # which only confirms what a whole model states
    method: str | None = None  # None: what suits the model

    def described(self) -> dict[str, Any]:
        """JSON values. Memory bound and activation are left out: results do not depend on them."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        del values["memory_gb"], values["activation"]
        return values


def parse_keep(text: str) -> int | Literal["model"] | None:
    """`model`, `all`, or a number. Raises ValueError for anything else."""
    if text in ("model", "all"):
        return "model" if text == "model" else None
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"--keep is {text!r}; give model, all, or a number of classes")


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
