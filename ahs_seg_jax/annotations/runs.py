"""Labels as runs: how many pixels in a row have one value. Every run-length code is made of these."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from ahs_seg_jax.vocabulary import IGNORE


class Runs(NamedTuple):
    """The runs of one value in an image whose pixels lie in one row."""

    value: int
    starts: np.ndarray  # int64 [n], rising
    lengths: np.ndarray  # int64 [n], at least 1

    def counts(self, pixels: int) -> list[int]:
        """The numbers of pixels without and with the value in turn, the first without; they sum to `pixels`."""
        edges = np.stack([self.starts, self.starts + self.lengths], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=pixels)
        return (counts if counts[-1] else counts[:-1]).tolist()


def runs_of(values: np.ndarray, order: Literal["rows", "columns"], without: int = IGNORE) -> Iterator[Runs]:
    """The runs of every value of int `[h, w]` but `without`, by rising value; the pixels row by row, or by columns."""
    flat = values.ravel("C" if order == "rows" else "F")
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths, found = np.diff(starts, append=len(flat)), flat[starts]
    by_value = np.argsort(found, kind="stable")
    borders = np.flatnonzero(np.diff(found[by_value])) + 1
    for group in np.split(by_value, borders):
        if len(group) and found[group[0]] != without:
            yield Runs(int(found[group[0]]), starts[group], lengths[group])
