"""Windows over an image of any size at its own resolution, tile by tile, in memory that does not grow with the image.

Axes: k window, t class, g side of the logits; y x a place in the image, in pixels.

A window sees `window` x `window` pixels of the image, squashed to the model's square. Its logits are interpolated to
these pixels and become probabilities, which are averaged where windows overlap, with weights that sum to one at every
pixel. So neither the tiles in which the result comes nor what is computed together changes it. Windows come in rows;
those that later tiles still need are held. A wide image is divided into strips, so that they are few: at a strip's
border one or two columns of windows are computed twice.
"""

import dataclasses
import logging
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets, cosine_labels, in_passes, labelling
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.inference.native_windows import TILE, Axis, Grid, NativeWindows
from ahs_seg_jax.inference.views import bilinear_taps, check_image, squash
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.progress import Progress

logger = logging.getLogger("ahs_seg_jax")
CLASSES_AT_ONCE = 16  # classes whose probabilities exist for a whole tile together
OVERVIEW = 1024  # longest side in pixels of what the global view is made of

Segment = Callable[[np.ndarray], ViewLogits]  # views [k, s, s, 3], RGB 0..255 -> their logits
Found = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # labels and confidence [H, W], probabilities [t, H, W]
_Window = tuple[tuple[int, int], ViewLogits]  # its row and column, the logits of this one view


class Raster(Protocol):
    """What windows are read from: an array, or a file larger than memory."""

    size: tuple[int, int]  # (h, w)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 RGB `[height, width, 3]` with the top left corner (y, x)."""


class ArrayRaster:
    """An image in memory, uint8 `[H, W, 3]`."""

    def __init__(self, image: np.ndarray):
        check_image(image)
        self.size = image.shape[:2]
        self._image = image

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """See `Raster`."""
        return self._image[y : y + height, x : x + width]


def overview(raster: Raster, longest: int) -> np.ndarray:
    """The whole image, uint8 `[h, w, 3]` with at most `longest` pixels a side: means of squares, read row by row."""
    height, width = raster.size
    step = -(-max(raster.size) // longest)
    starts, rows = np.arange(0, width, step), []
    for y in range(0, height, step):
        band = raster.read(y, 0, min(step, height - y), width)
        sums = np.add.reduceat(band.sum(axis=0, dtype=np.int64), starts, axis=0)
        rows.append(sums / (len(band) * np.diff(starts, append=width)).reshape(-1, 1))
    return np.stack(rows).round().astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """A finished part of the result, its top left corner at (y, x)."""

    y: int
    x: int
    labels: np.ndarray  # int32 [h, w], indices into the classes
    confidence: np.ndarray  # float32 [h, w], 0..1: the probability of the most probable class
    probabilities: np.ndarray | None  # float32 [t, h, w], if asked for

    @property
    def place(self) -> tuple[slice, slice]:
        """Where it lies in an array of the whole image."""
        height, width = self.labels.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def assembled(tiles: Iterator[Tile], size: tuple[int, int]) -> Found:
    """Labels, confidence and, where the tiles have them, probabilities of the whole image of `size` (h, w)."""
    labels, confidence = np.empty(size, np.int32), np.empty(size, np.float32)
    kept: np.ndarray | None = None
    for tile in tiles:
        labels[tile.place], confidence[tile.place] = tile.labels, tile.confidence
        if tile.probabilities is not None:
            kept = np.empty((len(tile.probabilities), *size), np.float32) if kept is None else kept
            kept[:, *tile.place] = tile.probabilities
    return labels, confidence, kept


def label_tiles(
    segment: Segment,
    raster: Raster,
    windows: NativeWindows,
    crop: int,
    *,
    classes: np.ndarray | None = None,
    logit_scale: float | None = None,
    at_once: int = 1,
    columns: int | None = None,
    tile: int = TILE,
    done: Container[tuple[int, int]] = (),
    probabilities: bool = False,
) -> Iterator[Tile]:
    """The tiles of an image, strip by strip, and in a strip row by row.

    `segment` gives the logits of `at_once` views of side `crop`; `classes` int32 `[q]`, ascending, are the classes of
    their queries (None: every query is one). With a `logit_scale` the logits are cosines, which are averaged before
    they go through a softmax with this scale. `columns` of tiles make a strip (None: one strip).
    Tiles whose corner (y, x) is among `done`, which an earlier run has made, are left out.
    """
    grid = windows.grid(raster.size, crop)
    whole = _alone(segment(_views([overview(raster, OVERVIEW)], crop, at_once)), 0) if windows.global_view else None
    tile_rows, tile_columns = grid.tiles(tile)
    wide = tile_columns if columns is None else columns
    strips = [range(left, min(left + wide, tile_columns)) for left in range(0, tile_columns, wide)]
    of_strips = [grid.columns.meeting(strip.start * tile, strip.stop * tile) for strip in strips]
    progress = Progress(len(grid.rows.starts) * sum(map(len, of_strips)), logger.info, "segmented", "windows")
    for strip, window_columns in zip(strips, of_strips, strict=True):
        held: dict[tuple[int, int], ViewLogits] = {}
        for row in range(tile_rows):
            wanted = [column for column in strip if (row * tile, column * tile) not in done]
            rows = grid.rows.meeting(row * tile, (row + 1) * tile) if wanted else []
            held = {key: value for key, value in held.items() if key[0] in rows}
            missing = [(r, c) for r in rows for c in window_columns if (r, c) not in held]
            held.update(progress.each(_segmented(segment, raster, grid, missing, crop, at_once)))
            for column in wanted:
                corner = row * tile, column * tile
                yield _label(grid, held, whole, corner, tile, _Reading(classes, logit_scale, probabilities))


def _segmented(
    segment: Segment, raster: Raster, grid: Grid, keys: list[tuple[int, int]], crop: int, at_once: int
) -> Iterator[_Window]:
    """The logits of windows, by row and column."""
    height, width = grid.rows.length, grid.columns.length
    for start in range(0, len(keys), at_once):
        group = keys[start : start + at_once]
        read = [raster.read(grid.rows.starts[r], grid.columns.starts[c], height, width) for r, c in group]
        logits = segment(_views(read, crop, at_once))
        yield from ((key, _alone(logits, view)) for view, key in enumerate(group))


def _alone(logits: ViewLogits, view: int) -> ViewLogits:
    """The logits of one view, so that holding it does not hold the group that it was computed with."""
    row = logits.rows[view : view + 1]
    values = in_passes.take_rows({"values": logits.values}, row)["values"]
    return ViewLogits(values, np.zeros(1, np.int32), logits.places[view : view + 1])


def _views(images: list[np.ndarray], crop: int, at_once: int) -> np.ndarray:
    """Float32 `[at_once, s, s, 3]`, filled up with copies of the last image."""
    views = [squash(image, crop) for image in images]
    return np.stack(views + views[-1:] * (at_once - len(views)))


class _Reading(NamedTuple):
    """What a tile's logits become."""

    classes: np.ndarray | None  # int32 [q], ascending; None: every query is one
    logit_scale: float | None
    probabilities: bool

    def by_class(self, found: Found) -> Found:
        """Of classes, from labels, confidence and perhaps probabilities `[q, h, w]` of queries."""
        if self.classes is None:
            return found
        labels, confidence, kept = found
        starts = np.searchsorted(self.classes, np.arange(self.classes[-1] + 1))
        return self.classes[labels], confidence, None if kept is None else np.maximum.reduceat(kept, starts)


class _Placed(NamedTuple):
    """Along one axis: where a window's pixels lie in a tile, its logits' taps there, and its weights."""

    start: np.int32  # from the tile's corner
    taps: resize.Taps  # [n] each
    weights: np.ndarray  # float32 [n], 0 where the window has ended


_Part = tuple[ViewLogits, _Placed, _Placed]  # the logits of a view, and where its rows and columns lie


def _label(
    grid: Grid,
    held: dict[tuple[int, int], ViewLogits],
    whole: ViewLogits | None,
    corner: tuple[int, int],
    tile: int,
    reading: _Reading,
) -> Tile:
    """The tile whose corner (y, x) is given."""
    y, x = corner
    height, width = (min(tile, extent - at) for extent, at in zip(grid.size, corner, strict=True))
    share, side = 1.0 if whole is None else 0.5, next(iter(held.values())).values.shape[-1]
    rows = {r: _placed(grid.rows, r, y, grid.window, side, share) for r in grid.rows.meeting(y, y + tile)}
    columns = {c: _placed(grid.columns, c, x, grid.window, side) for c in grid.columns.meeting(x, x + tile)}
    parts: list[_Part] = [(held[r, c], rows[r], columns[c]) for r in rows for c in columns]
    if whole is not None:
        stretched = [_stretched(extent, at, tile, side) for extent, at in zip(grid.size, corner, strict=True)]
        parts.append((whole, stretched[0]._replace(weights=share * stretched[0].weights), stretched[1]))
    return Tile(y, x, *reading.by_class(_best(parts, (tile, grid.window), (height, width), reading)))


def _best(parts: list[_Part], sides: tuple[int, int], size: tuple[int, int], reading: _Reading) -> Found:
    """Labels, confidence and probabilities of a tile of `size` (h, w); `sides` are those of programs: tile, window."""
    tile, window = sides
    height, width = size
    queries = parts[0][0].places.shape[1]
    chunk = min(CLASSES_AT_ONCE, buckets.bucket(queries, buckets.CLASS_BUCKETS))

    def chunks() -> Iterator[tuple[int, jax.Array]]:
        """(first query, what it and those after it have in the tile, with margins)."""
        for first in range(0, queries, chunk):
            total = jnp.zeros((chunk, tile + window, tile + window), jnp.float32)
            # The copies of the last query that fill up the last chunk come after it, so they are never the best.
            wanted = np.minimum(np.arange(first, first + chunk), queries - 1)
            for logits, rows, columns in parts:
                total = _add(total, logits.of(wanted)[0], rows, columns, sigmoid=reading.logit_scale is None)
            yield first, total

    every = np.empty((queries if reading.probabilities else 0, height, width), np.float32)

    def keep(first: int, found: jax.Array) -> None:
        if reading.probabilities:
            every[first : first + chunk] = np.asarray(found[: queries - first, :height, :width])

    best = jnp.zeros((tile, tile), jnp.int32), jnp.full((tile, tile), -1.0, jnp.float32)
    if reading.logit_scale is None:
        for first, total in chunks():
            best = _choose(total, best, np.int32(first))
            keep(first, total)
    else:
        cut = lambda: ((first, total[:, :tile, :tile]) for first, total in chunks())
        found = cosine_labels.best_of(cut(), queries, reading.logit_scale)
        best = found.label, 1 / found.total
        for first, logits in cut() if reading.probabilities else ():  # they need the sum over all queries
            keep(first, cosine_labels.probability(logits, found, reading.logit_scale))
    labels, confidence = (np.asarray(array)[:height, :width] for array in best)
    return labels, confidence, every if reading.probabilities else None


def _placed(axis: Axis, index: int, corner: int, window: int, side: int, share: float = 1.0) -> _Placed:
    """What of a window lies in a tile from `corner` on, n = `window`; its logits have `side` rows or columns."""
    start = axis.starts[index] - corner
    cut = max(0, -start)  # pixels before the tile
    taps = tuple(tap[cut:] for tap in bilinear_taps(side, axis.length))
    return _filled(max(0, start), taps, share * axis.weights(index)[cut:], window)


def _stretched(extent: int, corner: int, tile: int, side: int) -> _Placed:
    """What of a view of the whole image lies in a tile, n = `tile`."""
    taps = tuple(tap[corner : corner + tile] for tap in bilinear_taps(side, extent))
    return _filled(0, taps, np.ones(len(taps[0])), tile)


def _filled(start: int, taps: Sequence[np.ndarray], weights: np.ndarray, length: int) -> _Placed:
    """Zeros behind what there is, so that one program serves every place and every size."""
    padded = [np.pad(array, (0, length - len(array))) for array in (*taps, weights.astype(np.float32))]
    return _Placed(np.int32(start), (padded[0], padded[1], padded[2]), padded[3])


def _added(total: jax.Array, logits: jax.Array, rows: _Placed, columns: _Placed, *, sigmoid: bool) -> jax.Array:
    """Weighted probabilities, or logits, `[c, h, w]` of the classes, and a window's, from its logits `[c, g, g]`."""
    values = resize.interpolated(logits, rows.taps, columns.taps)
    values = jax.nn.sigmoid(values) if sigmoid else values
    values = values * rows.weights.reshape(1, -1, 1) * columns.weights.reshape(1, 1, -1)
    place = (0, rows.start, columns.start)
    return jax.lax.dynamic_update_slice(total, jax.lax.dynamic_slice(total, place, values.shape) + values, place)


def _chosen(total: jax.Array, best: labelling.Best, first: jax.Array) -> labelling.Best:
    """The best of the classes before, and of those from `first` on; of equals, the first."""
    label, value = best
    shown = total[:, : label.shape[0], : label.shape[1]]
    better = shown.max(axis=0) > value
    index = first + shown.argmax(axis=0).astype(jnp.int32)
    return jnp.where(better, index, label), jnp.maximum(shown.max(axis=0), value)


_add = Compiled(_added, "add_window", static=("sigmoid",), donate=("total",))
_choose = Compiled(_chosen, "choose_class")
