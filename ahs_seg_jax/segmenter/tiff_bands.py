"""Which bands of an open TIFF are shown, by number or by name, and what its numbers mean."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.data import pixel_range

COLOURS = ("red", "green", "blue")
Band = int | str  # a number from 1, or the name of a colour or of a band


def parse_bands(text: str) -> tuple[Band, ...] | None:
    """`"3,2,1"` -> `(3, 2, 1)`, `"nir, red, green"` -> names, an empty text -> None. Raises ValueError."""
    found = tuple(int(part) if re.fullmatch("[0-9]+", part) else part for part in map(str.strip, text.split(",")))
    if found == ("",):
        return None
    if len(found) not in (1, 3) or "" in found or 0 in found:
        raise ValueError(f"--bands is {text!r}; give three numbers from 1, or names, such as 3,2,1, or one for grey")
    return found


def chosen(dataset: Any, name: str, bands: Sequence[Band] | None) -> list[int]:
    """The numbers of red, green and blue, or of the only band. Raises ValueError where the file does not tell."""
    meanings = [meaning.name for meaning in dataset.colorinterp]
    if bands is not None:
        return [_number(dataset, name, meanings, band) for band in bands]
    if set(COLOURS) <= set(meanings):
        return [meanings.index(colour) + 1 for colour in COLOURS]
    shown = [number for number, meaning in enumerate(meanings, 1) if meaning != "alpha"]
    if len(shown) in (1, 3):
        return shown
    raise ValueError(
        f"{name} has {len(shown)} bands ({_listed(dataset, meanings)}) and does not say which are red, green and blue; "
        "give --bands, for example --bands 3,2,1 where blue comes first (in Python: bands=(3, 2, 1))"
    )


def _number(dataset: Any, name: str, meanings: Sequence[str], band: Band) -> int:
    if isinstance(band, int):
        if 1 <= band <= dataset.count:
            return band
        raise ValueError(f"{name} has {dataset.count} bands, and --bands names {band}; count them from 1")
    called = [(text or "").casefold() for text in dataset.descriptions]
    for names in (called, meanings):
        if band.casefold() in names:
            return list(names).index(band.casefold()) + 1
    raise ValueError(f"{name} has no band {band!r}; it has {_listed(dataset, meanings)}")


def _listed(dataset: Any, meanings: Sequence[str]) -> str:
    names = [text or meaning for text, meaning in zip(dataset.descriptions, meanings, strict=True)]
    return ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))


def alpha_band(dataset: Any) -> int | None:
    """The number of the band that the file calls transparency."""
    meanings = [meaning.name for meaning in dataset.colorinterp]
    return meanings.index("alpha") + 1 if "alpha" in meanings else None


def scaled(dataset: Any, bands: Sequence[int], values: np.ndarray) -> np.ndarray:
    """The values `[bands, ...]` by the bands' own scales and offsets, float32 where there are any."""
    scales, offsets = ([given[band - 1] for band in bands] for given in (dataset.scales, dataset.offsets))
    if all(scale == 1 for scale in scales) and not any(offsets):
        return values
    shape = (-1, *[1] * (values.ndim - 1))
    factors, summands = (np.array(given, np.float32).reshape(shape) for given in (scales, offsets))
    return values.astype(np.float32) * factors + summands


def said(name: str, bands: Sequence[int], ranges: pixel_range.Limits) -> str:
    """What was chosen, in one line."""
    parts = [f"band {band}: {low:g}..{high:g}" for band, (low, high) in zip(bands, ranges, strict=True)]
    return f"{name}: {', '.join(parts)} become 0..255"
