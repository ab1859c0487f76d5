"""Which classes of a long vocabulary a view keeps for the aggregation: a number of them, or as many as a margin asks.

Axes: t class, n position.
"""

import dataclasses
from typing import TypeAlias

import numpy as np

from ahs_seg_jax.inference import buckets

KEPT_BUCKETS = (16, 32, 64, 128, 256, 512, 1024)  # classes that a margin keeps; few sizes, so that few programs compile


@dataclasses.dataclass(frozen=True)
class Margin:
    """Keeps the classes whose correlation comes near the best one somewhere in the view, and never more than `most`.

    Near is within `width` standard deviations of that position's correlations with all classes; so it means the same
    for models whose cosines differ in size.
    """

    width: float
    most: int | None = None

    def __post_init__(self) -> None:
        if not self.width >= 0:
            raise ValueError(f"the margin is {self.width}; give a number of standard deviations, 0 or more")
        if self.most is not None and self.most < 1:
            raise ValueError(f"a margin keeps at most {self.most} classes; give a number from 1 on, or None")

    def __str__(self) -> str:
        return f"as many as a margin of {self.width:g} asks for"


AUTO_MARGIN = 2.0  # all labels of 40 drawn scenes were equal; at 1.5, 99.7 % (docs/many_images.md)

Keep: TypeAlias = int | Margin | None  # None: all classes


def most_kept(keep: Keep, classes: int) -> int:
    """Classes that a view keeps at most."""
    most = keep.most if isinstance(keep, Margin) else keep
    return classes if most is None else min(classes, most)


def cuts(keep: Keep, classes: int) -> bool:
    """Whether views of so many classes may keep different ones."""
    return most_kept(keep, classes) < classes or (isinstance(keep, Margin) and classes > KEPT_BUCKETS[0])


def kept(correlation: np.ndarray, keep: Keep) -> np.ndarray:
    """Indices of the classes, ascending, that a view of the correlations float32 `[t, n]` keeps.

    Of a number, and where a margin asks for more than it may keep, those with the largest correlation anywhere; among
    equals the first ones.
    """
    classes, best = len(correlation), correlation.max(axis=1)
    count, order = most_kept(keep, classes), np.argsort(-best, kind="stable")
    if isinstance(keep, Margin):
        distance = nearest(correlation)
        wanted = buckets.bucket(int((distance <= keep.width).sum()), KEPT_BUCKETS)
        if wanted < count:
            count, order = wanted, np.argsort(distance, kind="stable")
    return np.sort(order[:count])


def nearest(correlation: np.ndarray) -> np.ndarray:
    """How near each class comes to the best one: float32 `[t]`, the least over positions, in standard deviations."""
    spread = correlation.std(axis=0)
    behind = (correlation.max(axis=0) - correlation) / np.where(spread > 0, spread, 1)
    found: np.ndarray = behind.min(axis=1)
    return found
