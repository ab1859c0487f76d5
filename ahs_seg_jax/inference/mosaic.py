"""Maps at an image's size from the grids of its views, where overlapping views are averaged before anything else.

Resizes, weights and the sum over windows that form a grid of rows and columns are linear and act along one axis at a
time, so all of them are one matrix for the rows and one for the columns, however many windows and resizes there are.

Axes: v view, row by row; R C rows and columns of views; t class; h w a view's grid; H W pixels of the map.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference.native_windows import Axis
from ahs_seg_jax.models.ops import resize

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, eq=False)
class Mosaic:
    """The map of logits `[v, t, h, w]` is `sum over r, c of rows[:, r] logits[r, c] columns[:, c]^T`."""

    rows: np.ndarray  # float32 [H, R, h]
    columns: np.ndarray  # float32 [W, C, w]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.rows), len(self.columns)

    def part(self, rows: slice, columns: slice = slice(None)) -> "Mosaic":
        """The mosaic of a rectangle of the map."""
        return Mosaic(self.rows[rows], self.columns[columns])

    def padded(self, size: tuple[int, int]) -> "Mosaic":
        """With zeros behind, so that one program serves maps of many sizes."""
        more = lambda matrix, extent: np.pad(matrix, ((0, extent - len(matrix)), (0, 0), (0, 0)))
        return Mosaic(more(self.rows, size[0]), more(self.columns, size[1]))

    def before(self, rows: np.ndarray, columns: np.ndarray) -> "Mosaic":
        """Followed by a linear map along each axis: matrices `[H', H]` and `[W', W]`."""
        return Mosaic(_then(rows, self.rows), _then(columns, self.columns))


def _then(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    product = second.astype(np.float64) @ first.reshape(len(first), -1).astype(np.float64)
    return product.reshape(len(second), *first.shape[1:]).astype(np.float32)


def of_windows(axis: Axis, grid: int, lengths: tuple[int, int]) -> np.ndarray:
    """Float32 `[extent, windows, grid]`: one axis of windows whose grids are stretched and averaged.

    `lengths` are what a grid is stretched to, and how much of that lies before the window, as padding that is cut off.
    """
    stretched, before = lengths
    one = resize.bilinear_matrix(grid, stretched)[before : before + axis.length]
    matrix = np.zeros((axis.starts[-1] + axis.length, len(axis.starts), grid), np.float32)
    for index, start in enumerate(axis.starts):
        matrix[start : start + axis.length, index] = axis.weights(index)[:, None] * one
    return matrix


def pooled(extent: int, side: int) -> np.ndarray:
    """Float32 `[extent // side, extent]`: the mean of every `side` pixels; what is left at the end is cut off."""
    count = extent // side
    matrix = np.zeros((count, extent), np.float32)
    matrix[:, : count * side] = np.kron(np.eye(count), np.full((1, side), 1 / side))
    return matrix


def mapped(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The map float32 `[t, H, W]` of logits `[v, t, h, w]`, v = R C, by a mosaic's matrices."""
    _, classes, h, w = logits.shape
    grids = logits.reshape(rows.shape[1], columns.shape[1], classes, h, w)
    wide = jnp.einsum("rcthw,Wcw->rthW", grids, columns, precision=_HIGHEST)
    return jnp.einsum("rthW,Hrh->tHW", wide, rows, precision=_HIGHEST)


def joined(parts: Sequence[Mosaic]) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """The matrices of several mosaics, as arguments of a program."""
    return [(part.rows, part.columns) for part in parts]
