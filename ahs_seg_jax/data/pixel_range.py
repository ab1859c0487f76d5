"""Numbers of any range to the bytes 0..255 that the program works on; which numbers become 0 and 255 is never guessed.

The range of 8 and of 16 bits is known, and that of real numbers is 0..1. An image of 16 bits or of real numbers that
uses less than an eighth of it, as reflectances 0..3000 do, would be almost black: its range must be said.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

LEAST_SHARE = 1 / 8  # of the range that an image must use
AT_ONCE = 2**22  # values that are converted together
OUTLIERS = 0.1  # percent of the values at either end that do not count
RangeLike: TypeAlias = "Rescale | str | Sequence[float] | None"
Limits: TypeAlias = tuple[tuple[float, float], ...]  # what becomes 0 and 255, for each band


class UnknownRange(ValueError):
    """An image does not tell what its numbers mean; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Rescale:
    """The values `low` to `high` become 0 to 255; or those at two percentiles of each band, if they are `percent`."""

    low: float
    high: float
    percent: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"rescale is {self.low:g},{self.high:g}; give the lower value first, then a higher one")
        if self.percent and not (self.low >= 0 and self.high <= 100):
            raise ValueError(f"rescale is {self.low:g}%,{self.high:g}%; percentiles lie within 0%..100%")

    @classmethod
    def of(cls, given: RangeLike) -> "Rescale | None":
        """From a pair of numbers, or a text such as "0,3000" or "2%,98%". Raises ValueError for anything else."""
        if given is None or isinstance(given, Rescale):
            return given
        parts = given.split(",") if isinstance(given, str) else list(given)
        texts = [str(part).strip() for part in parts]
        percent = [text.endswith("%") for text in texts]
        try:
            low, high = (float(text.removesuffix("%")) for text in texts)
        except ValueError:
            low, high, percent = 0.0, 0.0, [True, False]
        if len(set(percent)) != 1:
            raise ValueError(
                f"rescale is {given!r}; give two values such as '0,3000', or two percentiles such as '2%,98%'"
            )
        return cls(low, high, percent[0])


def limits(values: np.ndarray, rescale: Rescale | None, name: str) -> Limits:
    """What becomes 0 and 255 in each band of `values` `[bands, n]`, pixels with data only; NaN does not count.

    Raises ValueError, with `name` and the remedy, where that would be a guess.
    """
    if values.dtype.kind not in "uif":
        raise UnknownRange(f"{name} has numbers of type {values.dtype}; only integers and real numbers can be shown")
    if rescale is not None and not rescale.percent:
        return ((rescale.low, rescale.high),) * len(values)
    bands = [band[np.isfinite(band)] for band in values]
    if rescale is not None:
        return tuple(_percentiles(band, rescale.low, rescale.high) for band in bands)
    known = _known_range(values.dtype)
    if values.dtype != np.uint8:
        _check_use(np.concatenate(bands), known, name)
    assert known is not None
    return (known,) * len(values)


def _known_range(kind: np.dtype) -> tuple[float, float] | None:
    if kind in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(kind).max)
    return (0.0, 1.0) if kind.kind == "f" else None


def _percentiles(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    found = np.percentile(values, (low, high), method="nearest")
    return float(found[0]), max(float(found[1]), float(found[0]) + 1e-6 * max(1.0, abs(float(found[0]))))


def _check_use(values: np.ndarray, known: tuple[float, float] | None, name: str) -> None:
    if not values.size:
        return
    low, high = np.percentile(values, (OUTLIERS, 100 - OUTLIERS), method="nearest").tolist()
    if known is None:
        problem = f"of type {values.dtype}, whose range is not known"
    elif low < known[0] or high > known[1]:
        problem = "of real numbers, which are taken as they are within 0..1 only"
    elif high - low < LEAST_SHARE * (known[1] - known[0]):
        problem = f"of {known[0]:g}..{known[1]:g}, less than an eighth of the range: it would lose its contrast"
    else:
        return
    raise UnknownRange(
        f"{name} has values {low:g}..{high:g} {problem}; say which values become black and white: --rescale "
        f"{low:g},{high:g}, or percentiles, --rescale 2%,98% (in Python: rescale=({low:g}, {high:g}), or "
        "rescale='2%,98%')"
    )


def to_bytes(values: np.ndarray, ranges: Limits) -> np.ndarray:
    """uint8 of `values` `[bands, n, ...]`: the bands' `ranges` become 0..255; what lies outside is cut, NaN is 0."""
    if values.dtype == np.uint8 and set(ranges) == {(0.0, 255.0)}:
        return values
    if values.dtype == np.uint16 and set(ranges) == {(0.0, 65535.0)}:
        return (values >> 8).astype(np.uint8)
    low, high = (np.array(ends, np.float32).reshape(-1, *[1] * (values.ndim - 1)) for ends in zip(*ranges, strict=True))
    found = np.empty(values.shape, np.uint8)
    step = max(1, AT_ONCE * values.shape[1] // max(1, values.size))
    for start in range(0, values.shape[1], step):
        shares = (values[:, start : start + step].astype(np.float32) - low) / (high - low)
        found[:, start : start + step] = (255 * np.clip(np.nan_to_num(shares, nan=0.0), 0, 1)).round()
    return found


def check_high_bytes(pixels: np.ndarray, name: str, remedy: str) -> None:
    """Raises ValueError if uint8 `pixels`, the high bytes of 16 bits, use less than an eighth of the range."""
    flat, counts = pixels.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, len(flat), AT_ONCE):  # NumPy counts in numbers of 64 bits
        counts += np.bincount(flat[start : start + AT_ONCE], minlength=256)
    shares = np.cumsum(counts) / pixels.size
    low, high = np.searchsorted(shares, (OUTLIERS / 100, 1 - OUTLIERS / 100)).tolist()
    if high - low < LEAST_SHARE * 256:
        raise UnknownRange(
            f"{name} has 16 bits and values of about {256 * low}..{256 * high + 255} only, less than an eighth of the "
            f"range: it would lose its contrast; {remedy}"
        )


def is_mask(alpha: np.ndarray) -> bool:
    """Whether most values of a fourth band are its lowest or highest possible, as those of transparency are."""
    most = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
    return bool(((alpha == 0) | (alpha == most)).mean() >= 0.5) if alpha.size else True


NO_MASK = (
    "has four bands, the last of which is no transparency: it has many values between none and all. Say which are red, "
    "green and blue: --bands 3,2,1 where blue comes first (in Python: bands=(3, 2, 1))"
)
