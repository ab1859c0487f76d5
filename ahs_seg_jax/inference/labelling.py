"""From the logits of the views to probabilities and labels at the size of the image."""

import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.views import CAT_SEG, Windows, bilinear_taps, check_protocol
from ahs_seg_jax.models.ops import resize

CLASSES_AT_ONCE = 8  # classes whose probabilities exist at the output size together
ROWS_AT_ONCE = 128  # and output rows of them; divides every output bucket


def _blend(logits: jax.Array, protocol: str, windows: Windows) -> jax.Array:
    """Probabilities `[t, n, n]` of the views' logits `[v, t, g, g]`."""
    if protocol == "whole":
        return jax.nn.sigmoid(logits[0])
    side, size, across = windows.window, windows.size, len(windows.starts)
    # Columns stand before rows from here to the sum: so no step gathers across rows.
    probabilities = jax.nn.sigmoid(resize.turned(logits, *_taps_of(logits, (side, side))))
    rows = [_overlapped(list(probabilities[i * across : (i + 1) * across]), windows, -2) for i in range(across)]
    whole = resize.turned(probabilities[-1], *_taps_of(probabilities, (size, size)))
    return (jnp.swapaxes(_overlapped(rows, windows, -1), -1, -2) + whole) / 2


def _overlapped(parts: Sequence[jax.Array], windows: Windows, axis: int) -> jax.Array:
    """Windows beside each other along an axis as one array, the mean where they overlap."""
    edges = sorted({edge for start in windows.starts for edge in (start, start + windows.window)})
    pieces = []
    for low, high in itertools.pairwise(edges):
        covering = [
            jax.lax.slice_in_dim(part, low - start, high - start, axis=axis)
            for part, start in zip(parts, windows.starts, strict=True)
            if start <= low and high <= start + windows.window
        ]
        pieces.append(functools.reduce(operator.add, covering) / len(covering))
    return jnp.concatenate(pieces, axis)


def _taps_of(x: jax.Array, size: tuple[int, int]) -> tuple[resize.Taps, resize.Taps]:
    return bilinear_taps(x.shape[-2], size[0]), bilinear_taps(x.shape[-1], size[1])


def probabilities(logits: jax.Array, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG) -> jax.Array:
    """Probabilities float32 `[t, H, W]` of the views' logits `[v, t, g, g]` at the output size (H, W)."""
    check_protocol(protocol)
    blended = _blend(logits, protocol, windows)
    return resize.interpolated(blended, *_taps_of(blended, size))


def padded_probabilities(
    logits: jax.Array | np.ndarray, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG
) -> jax.Array:
    """As `probabilities`, padded to the output buckets `[t, H', W']`, so that sizes of a bucket share one program."""
    check_protocol(protocol)
    n = logits.shape[-1] if protocol == "whole" else windows.size
    row_taps, column_taps = (_padded_taps(n, extent) for extent in size)
    return _blend_to_size(logits, row_taps, column_taps, protocol=protocol, windows=windows)


def _blended_at(
    logits: jax.Array, row_taps: resize.Taps, column_taps: resize.Taps, protocol: str, windows: Windows
) -> jax.Array:
    return resize.interpolated(_blend(logits, protocol, windows), row_taps, column_taps)


_blend_to_size = Compiled(_blended_at, "probabilities", static=("protocol", "windows"))


def label_map(logits: jax.Array, size: tuple[int, int], protocol: str, windows: Windows = CAT_SEG) -> jax.Array:
    """The most probable class of every pixel: int32 `[H', W']`, the output size (H, W) padded to OUTPUT_BUCKETS.

    Crop the result to `[:H, :W]`. Equals the argmax of `probabilities`, the first of equals, at the memory of
    CLASSES_AT_ONCE classes, of which ROWS_AT_ONCE output rows exist together. Returns before the device has finished.
    """
    return best_classes(logits, size, protocol, windows)[0]


Best = tuple[jax.Array, jax.Array]  # int32 and float32 [H', W']: the most probable class, its probability


def best_classes(
    logits: jax.Array | np.ndarray,
    size: tuple[int, int],
    protocol: str,
    windows: Windows = CAT_SEG,
    before: Best | None = None,
    first: int = 0,
) -> Best:
    """Label and probability of the most probable class of every pixel, padded as in `label_map`.

    Classes may come in parts: `before` is the result for the classes up to `first`, where these logits begin.
    """
    check_protocol(protocol)
    n = logits.shape[-1] if protocol == "whole" else windows.size
    row_taps, column_taps = (_padded_taps(n, extent) for extent in size)
    if before is None:
        extent = (len(row_taps[0]), len(column_taps[0]))
        before = jnp.zeros(extent, jnp.int32), jnp.full(extent, -1.0, jnp.float32)
    return _best_classes(logits, np.int32(first), before, row_taps, column_taps, protocol=protocol, windows=windows)


def _padded_taps(size_in: int, size_out: int) -> resize.Taps:
    low, high, weight = bilinear_taps(size_in, size_out)
    padding = (0, buckets.bucket(size_out, buckets.OUTPUT_BUCKETS) - size_out)
    return np.pad(low, padding), np.pad(high, padding), np.pad(weight, padding)


def _best_of_all(
    logits: jax.Array,
    first: jax.Array,
    before: Best,
    row_taps: resize.Taps,
    column_taps: resize.Taps,
    protocol: str,
    windows: Windows,
) -> Best:
    views, classes, g, _ = logits.shape
    # Padding classes come last and have probability 0: a tie goes to the first class, so they never win.
    padded = jnp.pad(logits, ((0, 0), (0, -classes % CLASSES_AT_ONCE), (0, 0), (0, 0)), constant_values=-100.0)
    chunks = jnp.moveaxis(padded.reshape(views, -1, CLASSES_AT_ONCE, g, g), 1, 0)
    # Bands of rows, so that what exists at the output size is small enough for a processor's cache.
    by_band = lambda x: x.reshape(-1, ROWS_AT_ONCE, *x.shape[1:])
    row_bands = tuple(by_band(jnp.asarray(tap)) for tap in row_taps)

    def step(best: Best, chunk: tuple[jax.Array, jax.Array]) -> tuple[Best, None]:
        first, chunk_logits = chunk
        blended = _blend(chunk_logits, protocol, windows)
        wide = jnp.swapaxes(resize.along(jnp.swapaxes(blended, -1, -2), column_taps), -1, -2)

        def band(parts: tuple[jax.Array, jax.Array, resize.Taps]) -> Best:
            label, value, taps = parts
            resized = resize.along(wide, taps)
            better = resized.max(axis=0) > value
            index = first + resized.argmax(axis=0).astype(jnp.int32)
            return jnp.where(better, index, label), jnp.maximum(resized.max(axis=0), value)

        return jax.lax.map(band, (*best, row_bands)), None

    firsts = first + jnp.arange(chunks.shape[0], dtype=jnp.int32) * CLASSES_AT_ONCE
    (labels, values), _ = jax.lax.scan(step, (by_band(before[0]), by_band(before[1])), (firsts, chunks))
    return labels.reshape(before[0].shape), values.reshape(before[1].shape)


_best_classes = Compiled(_best_of_all, "label_map", static=("protocol", "windows"))
