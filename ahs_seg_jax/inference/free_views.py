"""The views of training-free methods: windows over an image resized by its short side, or all of it as one view.

Unlike the protocols of trained models, these keep the picture's proportions, so how many views there are, and the shape
of a view of the whole image, depend on its size; and overlapping views' logits are averaged, not their probabilities.

Source: the methods' programs; parity: golden/training_free_small.npz.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from ahs_seg_jax.inference.mosaic import Mosaic, of_windows
from ahs_seg_jax.inference.native_windows import Axis
from ahs_seg_jax.inference.protocols import Protocol
from ahs_seg_jax.inference.views import check_image, resized_8_bit, shortest_edge_size
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.towers.config import ImageTowerConfig
from ahs_seg_jax.models.training_free.settings import METHODS, TrainingFree

LONGEST = 2048  # pixels: bound of a resized image's long side


@dataclasses.dataclass(frozen=True)
class FreeViews(Protocol):
    """What a training-free method sees of an image, and where it lies. Sizes in pixels."""

    short_side: int  # the image is resized to it, its proportions kept; smaller images are enlarged
    window: int  # side of a window on the resized image; 0: all of it is one view
    stride: int
    patch: int
    fill: tuple[float, float, float]  # RGB of what pads a window: the pixel mean, which becomes 0
    padded: bool = False  # windows are padded to whole patches
    through_resized: bool = True  # a whole view's logits go to the resized image's size first

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the resized image, for an image of `size`; at least a patch, however long the image is."""
        height, width = shortest_edge_size(*size, self.short_side, LONGEST)
        return max(height, self.patch), max(width, self.patch)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """The image uint8 `[H, W, 3]` as the windows see it."""
        check_image(image)
        return resized_8_bit(image, self.resized_size(image.shape[:2]))

    def views(self, image: np.ndarray, crop: int) -> np.ndarray:
        """See `Protocol`; row by row, of the protocol's own side whatever the crop."""
        resized = self.resized(image)
        rows, columns = self._axes(image.shape[:2])
        parts = [resized[y : y + rows.length, x : x + columns.length] for y in rows.starts for x in columns.starts]
        shape = self.views_shape(crop, image.shape[:2])
        views = np.empty(shape, np.float32)
        views[:] = self.fill
        top, left = (shape[1] - rows.length) // 2, (shape[2] - columns.length) // 2
        for view, part in zip(views, parts, strict=True):
            view[top : top + rows.length, left : left + columns.length] = part
        return views

    def views_shape(self, crop: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """See `Protocol`."""
        rows, columns = self._axes(size)
        height, width = (axis.length + (-axis.length % self.patch if self._pads else 0) for axis in (rows, columns))
        return len(rows.starts) * len(columns.starts), height, width, 3

    def mosaic(self, size: tuple[int, int]) -> Mosaic:
        """How the views' grids become a map at the image's size (H, W)."""
        between = list(zip(self.resized_size(size), size, strict=True))
        if self.window or self.through_resized:
            return self.mosaic_of_resized(size).before(*(resize.bilinear_matrix(*sides) for sides in between))
        rows, columns = (resize.bilinear_matrix(side // self.patch, extent)[:, None] for side, extent in between)
        return Mosaic(rows, columns)

    def mosaic_of_resized(self, size: tuple[int, int]) -> Mosaic:
        """The same at the resized image's size."""
        rows, columns = (self._stretched(axis) for axis in self._axes(size))
        return Mosaic(rows, columns)

    @property
    def _pads(self) -> bool:
        return self.padded and self.window > 0

    def _axes(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        rows, columns = (Axis(extent, self.window or extent, self.stride, "mean") for extent in self.resized_size(size))
        return rows, columns

    def _stretched(self, axis: Axis) -> np.ndarray:
        missing = -axis.length % self.patch if self._pads else 0
        grid = (axis.length + missing) // self.patch
        return of_windows(axis, grid, (axis.length + missing, missing // 2))


def free_protocols(settings: TrainingFree, tower: ImageTowerConfig) -> dict[str, FreeViews]:
    """The protocols of a method on a tower, by name; the first is what the settings say."""
    short_side, window, stride = settings.sizes(tower.pretrained_grid * tower.patch_size)
    method = METHODS[settings.method]
    common: dict[str, Any] = {
        "short_side": short_side,
        "stride": stride,
        "patch": tower.patch_size,
        "fill": tower.pixel_mean,
        "padded": method.padded,
        "through_resized": method.through_resized,
    }
    found = {"slide": FreeViews("slide", window=window, **common), "whole": FreeViews("whole", window=0, **common)}
    return found if window else {"whole": found["whole"]}


@functools.lru_cache(maxsize=32)
def mosaic_of(protocol: FreeViews, size: tuple[int, int]) -> Mosaic:
    """`protocol.mosaic(size)`, kept for the next image of this size."""
    return protocol.mosaic(size)
