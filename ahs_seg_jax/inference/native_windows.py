"""The geometry of windows over an image at its own resolution: where they lie, and their weights where they overlap."""

import dataclasses
from typing import Literal

import numpy as np

TILE = 512  # side in pixels of the tiles in which results come, see `tiling.py`
BLENDS = ("smooth", "mean")
MOST_OVERLAP = 0.9
MOST_WINDOW = 2**14  # pixels a side: a window is held whole
USUAL_OVERLAP = 1 / 3


@dataclasses.dataclass(frozen=True)
class NativeWindows:
    """Which windows, and how they are put together.

    Raises ValueError for what is out of range.
    """

    window: int | None = None  # side in pixels of the image; None: the model's own square, nothing is resized
    stride: int | None = None  # pixels from window to window
    overlap: float | None = None  # in place of `stride`: the share of a window that the next one covers; 1/3 by default
    blend: Literal["smooth", "mean"] = "smooth"  # smooth: a window's weight falls linearly to its border; mean: equal
    global_view: bool = False  # the mean with one view of the whole image, as the protocol cat_seg has it

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= MOST_WINDOW:
            raise ValueError(
                f"the window is {self.window} pixels; give at least 1, better 100 or more, and at most {MOST_WINDOW}"
            )
        if self.stride is not None and self.overlap is not None:
            raise ValueError(f"both a stride ({self.stride}) and an overlap ({self.overlap:g}) are given; give one")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"the stride is {self.stride} pixels; give at least 1, better half a window or more")
        if self.overlap is not None and not 0 <= self.overlap <= MOST_OVERLAP:
            raise ValueError(f"the overlap is {self.overlap:g}; it must lie within 0 and {MOST_OVERLAP}, 1/3 is usual")
        if self.blend not in BLENDS:
            raise ValueError(f"the blend is {self.blend!r}; choose one of {', '.join(BLENDS)}")

    def grid(self, size: tuple[int, int], crop: int) -> "Grid":
        """The windows of an image of `size` (h, w), for a model whose square has the side `crop`. Raises ValueError."""
        window = crop if self.window is None else self.window
        overlap = USUAL_OVERLAP if self.overlap is None else self.overlap
        stride = max(1, round(window * (1 - overlap))) if self.stride is None else self.stride
        if stride > window:
            raise ValueError(f"the stride is {stride}; it must lie within 1 and the window's {window} pixels")
        return Grid(size, window, Axis(size[0], window, stride, self.blend), Axis(size[1], window, stride, self.blend))


class Axis:
    """The windows along one axis. The last one ends with the image; an image smaller than a window is one window."""

    def __init__(self, extent: int, window: int, stride: int, blend: str):
        self.length = min(window, extent)  # of every window
        self.starts = [*range(0, extent - self.length, stride), extent - self.length]
        ramp = np.arange(self.length) + 0.5
        shape = np.minimum(ramp, self.length - ramp) if blend == "smooth" else np.ones(self.length)
        total = np.zeros(extent)
        for start in self.starts:
            total[start : start + self.length] += shape
        self._shape, self._total = shape, total

    def weights(self, index: int) -> np.ndarray:
        """Float64 `[length]`: those of all windows sum to one at every pixel."""
        start = self.starts[index]
        return self._shape / self._total[start : start + self.length]

    def meeting(self, start: int, stop: int) -> list[int]:
        """Indices of the windows that hold a pixel of `start` to `stop`."""
        return [i for i, at in enumerate(self.starts) if at < stop and at + self.length > start]

    def most_meeting(self, length: int) -> int:
        """The most windows that a tile of this length meets."""
        extent = self.starts[-1] + self.length
        return max(len(self.meeting(at, at + length)) for at in range(0, extent, length))


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """All windows of an image; the side `window` is what programs are compiled for, whatever the image's size."""

    size: tuple[int, int]
    window: int
    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Windows in all."""
        return len(self.rows.starts) * len(self.columns.starts)

    def held(self, columns: int, tile: int = TILE) -> int:
        """The most windows held at once in strips of so many tile columns."""
        return self.rows.most_meeting(tile) * self.columns.most_meeting(columns * tile)

    def tiles(self, tile: int = TILE) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.size[0] // tile), -(-self.size[1] // tile)
