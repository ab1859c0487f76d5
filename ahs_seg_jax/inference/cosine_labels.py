"""From the cosines of training-free views to labels: average, refine, scale, softmax over all queries, the best one.

Labels need only the best query, for the softmax keeps the order; its probability needs the sum over all queries, which
is kept running. So queries come in chunks, and rows of a large image in bands.

Axes: v view, q query, c query of a chunk, h w a view's grid; H W pixels, H' W' padded to a bucket.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets, mosaic
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.inference.mosaic import Mosaic

QUERIES_AT_ONCE = 16  # queries whose logits exist at the image's size together
BAND_PIXELS = 1 << 20  # pixels of a band of rows, if the image has more
LOWEST = -1e9  # of a query that must not win; finite, so that differences are

Refine = Callable[[jax.Array], jax.Array]  # logits [c, H', W'] of a region -> refined
Refiner = Callable[[slice, slice, tuple[int, int]], Refine]  # of a region's rows and columns and its padded size


class Best(NamedTuple):
    """The best query of every pixel of a region, padded."""

    label: jax.Array  # int32 [H', W']
    value: jax.Array  # float32 [H', W']: its logit, without the scale
    total: jax.Array  # float32 [H', W']: the sum of exp(scale (logit - value)) over all queries


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """The logits of all queries over one image: those of its views, and how they become a map."""

    logits: ViewLogits
    mosaic: Mosaic
    refiner: Refiner | None = None
    margin: int = 0  # pixels that a refinement looks beyond a region

    @property
    def queries(self) -> int:
        """How many there are."""
        return self.logits.places.shape[1]

    def bands(self) -> Iterator[tuple[slice, "Region"]]:
        """The rows of every band, and the region that holds them with the margin."""
        height, width = self.mosaic.size
        at_once = max(1, BAND_PIXELS // width)
        rows = height if height <= at_once else max(at_once, self.margin)
        wide = buckets.bucket(width, buckets.OUTPUT_BUCKETS)
        high = buckets.bucket(min(height, rows + 2 * self.margin), buckets.OUTPUT_BUCKETS)
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            held = slice(max(0, start - self.margin), min(height, stop + self.margin))
            yield slice(start, stop), Region(self, held, slice(0, width), (high, wide))


class Region:
    """A rectangle of a picture, padded so that one program serves many."""

    def __init__(self, picture: Picture, rows: slice, columns: slice, padded: tuple[int, int]) -> None:
        self._picture, self.rows = picture, rows
        part = picture.mosaic.part(rows, columns)
        self._logits, part = _even(picture.logits, part)
        self._mosaic = part.padded(padded)
        self._refine = picture.refiner(rows, columns, padded) if picture.refiner else None

    def chunks(self) -> Iterator[tuple[int, jax.Array]]:
        """(first query, logits `[c, H', W']`); what fills up the last chunk are copies of the last query."""
        count = self._picture.queries
        at_once = buckets.chunk_size(count, QUERIES_AT_ONCE)
        for first in range(0, count, at_once):
            wanted = np.minimum(np.arange(first, first + at_once), count - 1)
            maps = _map(self._logits.of(wanted), self._mosaic.rows, self._mosaic.columns)
            yield first, self._refine(maps) if self._refine else maps

    def best(self, scale: float, allowed: np.ndarray | None = None) -> Best:
        """The best query of every pixel, of those that are `allowed` (bool `[q]`; None: all)."""
        return best_of(self.chunks(), self._picture.queries, scale, allowed)


def best_of(
    chunks: Iterable[tuple[int, jax.Array]], queries: int, scale: float, allowed: np.ndarray | None = None
) -> Best:
    """The best query of every pixel, of those that are `allowed` (bool `[q]`; None: all).

    `chunks` are (first query, logits `[c, H', W']`); what comes after the last of the `queries` only fills up a chunk.
    """
    best: Best | None = None
    for first, maps in chunks:
        real = np.arange(first, first + len(maps)) < queries
        if allowed is not None:
            real[: queries - first] &= allowed[first : first + len(maps)]
        if best is None:
            extent = maps.shape[1:]
            nothing = jnp.full(extent, LOWEST, jnp.float32)
            best = Best(jnp.zeros(extent, jnp.int32), nothing, jnp.zeros(extent, jnp.float32))
        best = _better(best, maps, np.int32(first), real, np.float32(scale))
    assert best is not None
    return best


def probability(logits: jax.Array, best: Best, scale: float | None) -> jax.Array:
    """The probability, among all queries of `best`, of logits `[..., H', W']`."""
    return _probability(logits, best, np.float32(scale))


def _even(logits: ViewLogits, part: Mosaic) -> tuple[ViewLogits, Mosaic]:
    """Rows and columns of views filled up to powers of two, so that one program serves pictures of many proportions.

    What is added has no weight.
    """
    rows, columns = part.rows.shape[1], part.columns.shape[1]
    high, wide = (1 << (count - 1).bit_length() for count in (rows, columns))
    more = lambda matrix, count: np.pad(matrix, ((0, 0), (0, count - matrix.shape[1]), (0, 0)))
    of_rows, of_columns = np.minimum(np.arange(high), rows - 1), np.minimum(np.arange(wide), columns - 1)
    order = (of_rows[:, None] * columns + of_columns[None]).reshape(-1)
    return (
        ViewLogits(logits.values, logits.rows[order], logits.places[order]),
        Mosaic(more(part.rows, high), more(part.columns, wide)),
    )


def labels(picture: Picture, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Label int32, an index of a query, and its probability float32 `[H, W]`."""
    label, confidence = _empty(picture)
    for rows, region in picture.bands():
        best = region.best(scale)
        label[rows], confidence[rows] = (_cut(array, rows, region, picture) for array in (best.label, 1 / best.total))
    return label, confidence


def labels_among(picture: Picture, scale: float, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `labels`, of the queries that are `allowed` (bool `[q]`); probabilities are still those among all queries.

    Where none is allowed: query 0 with probability 0.
    """
    label, confidence = _empty(picture)
    for rows, region in picture.bands():
        best, among = region.best(scale), region.best(scale, allowed)
        value = probability(among.value, best, scale)
        label[rows], confidence[rows] = (_cut(array, rows, region, picture) for array in (among.label, value))
    return label, confidence


def small_classes(label: np.ndarray, count: int, share: float, exempt: Sequence[int]) -> np.ndarray:
    """Bool `[count]`: the classes that have at most this share of the pixels that no `exempt` class has.

    `label` int `[H, W]` are indices of classes. Exempt classes, such as a background, are never among them.
    """
    pixels = np.bincount(label.ravel(), minlength=count)
    pixels[list(exempt)] = 0
    small = pixels <= share * pixels.sum()
    small[list(exempt)] = False
    return small


def every_map(picture: Picture) -> jax.Array:
    """Logits float32 `[n, H, W]` of all queries; what fills up the last chunk are copies of the last query."""
    (_, region), *others = picture.bands()
    assert not others
    height, width = picture.mosaic.size
    return jnp.concatenate([maps[:, :height, :width] for _, maps in region.chunks()])


def probabilities(picture: Picture, scale: float, classes: np.ndarray, count: int) -> np.ndarray:
    """Float32 `[count, H, W]`: of each class the largest probability of its queries; `classes` int `[q]`, ascending."""
    result = np.zeros((count, *picture.mosaic.size), np.float32)
    for rows, region in picture.bands():
        best = region.best(scale)
        for first, maps in region.chunks():
            found = np.asarray(probability(maps, best, scale))
            for query in range(first, min(first + len(maps), picture.queries)):
                if classes[query] < count:
                    part = _cut(found[query - first], rows, region, picture)
                    np.maximum(result[classes[query], rows], part, out=result[classes[query], rows])
    return result


def _empty(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(picture.mosaic.size, np.int32), np.empty(picture.mosaic.size, np.float32)


def _cut(array: jax.Array | np.ndarray, rows: slice, region: Region, picture: Picture) -> np.ndarray:
    start = rows.start - region.rows.start
    return np.asarray(array)[start : start + rows.stop - rows.start, : picture.mosaic.size[1]]


def _taken_higher(best: Best, maps: jax.Array, first: jax.Array, real: jax.Array, scale: jax.Array) -> Best:
    """The best of the queries before, and of those from `first` on that are `real`; of equals, the first."""
    maps = jnp.where(real[:, None, None], maps, LOWEST)
    top = maps.max(0)
    higher = jnp.maximum(best.value, top)
    # The first of the largest. A reduction of pairs, as argmax is, takes several times as long on a CPU.
    index = jax.lax.broadcasted_iota(jnp.int32, maps.shape, 0)
    place = jnp.where(maps == top[None], index, maps.shape[0]).min(0)
    total = best.total * jnp.exp(scale * (best.value - higher)) + jnp.exp(scale * (maps - higher[None])).sum(0)
    return Best(jnp.where(top > best.value, first + place, best.label), higher, total)


def _share(values: jax.Array, best: Best, scale: jax.Array) -> jax.Array:
    """Probabilities of logits `[..., H', W']`."""
    lead = (1,) * (values.ndim - best.value.ndim)
    value, total = (x.reshape(*lead, *x.shape) for x in (best.value, best.total))
    return jnp.exp(scale * (values - value)) / total


_map = Compiled(mosaic.mapped, "map_queries")
_better = Compiled(_taken_higher, "best_query", donate=("best",))
_probability = Compiled(_share, "probabilities_of_queries")
