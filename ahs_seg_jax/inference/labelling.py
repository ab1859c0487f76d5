"""From the logits of the views to probabilities and labels at the size of the image.

Axes: v view, t class, g side of the logits, n side of the blended map; H W output pixels, H' W' padded to a bucket.

Output sizes are padded to OUTPUT_BUCKETS and cropped on the host, so that few programs are compiled. Classes come in
chunks, so that the probabilities of all classes never exist together at the output size.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.inference.protocols import Blended
from ahs_seg_jax.inference.views import bilinear_taps
from ahs_seg_jax.models.ops import resize

CLASSES_AT_ONCE = 8  # classes whose probabilities exist at the output size together
ROWS_AT_ONCE = 128  # output rows whose probabilities exist together; divides every output bucket
LABELLED_AT_ONCE = 32  # classes whose logits become labels in one call
# On a CPU what exists together should fit its caches. Elsewhere every step of a loop is a handful of starts of small
# programs, which take longer than what they compute: then all of a call's classes come in one step, and as many rows as
# these bytes hold, which is all of a picture of 2 megapixels.
STEP_BYTES = 2**28

Best = tuple[jax.Array, jax.Array]  # int32 and float32 [H', W']: the most probable class, its probability


def step_of(rows: int, columns: int, platform: str) -> tuple[int, int]:
    """(classes, output rows) whose probabilities exist together, for an output of a bucket's `rows` and `columns`."""
    if platform == "cpu":
        return CLASSES_AT_ONCE, ROWS_AT_ONCE
    most = STEP_BYTES // (4 * LABELLED_AT_ONCE * columns)
    fitting = (n for n in range(rows, ROWS_AT_ONCE, -ROWS_AT_ONCE) if n <= most and rows % n == 0)
    return LABELLED_AT_ONCE, next(fitting, ROWS_AT_ONCE)


def _taps_of(x: jax.Array, size: tuple[int, int]) -> tuple[resize.Taps, resize.Taps]:
    return bilinear_taps(x.shape[-2], size[0]), bilinear_taps(x.shape[-1], size[1])


def probabilities(logits: jax.Array, size: tuple[int, int], protocol: Blended) -> jax.Array:
    """Probabilities float32 `[t, H, W]` of the views' logits `[v, t, g, g]` at the output size (H, W)."""
    blended = protocol.blend(logits)
    return resize.interpolated(blended, *_taps_of(blended, size))


def labels(
    logits: ViewLogits, size: tuple[int, int], protocol: Blended, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Label int32 and probability float32 `[H, W]` of the most probable class of every pixel of one image.

    Only classes that are `allowed` (bool `[t]`; None: all) count; where there is none, class 0 with probability 0.
    """
    best, shown = None, logits.shown()
    if allowed is not None:
        shown = shown[allowed[shown]]
        if not len(shown):
            return np.zeros(size, np.int32), np.zeros(size, np.float32)
    # The number of classes of a call is the same for every picture, however many its views have kept.
    at_once = buckets.chunk_size(logits.places.shape[1], LABELLED_AT_ONCE)
    for start in range(0, len(shown), at_once):
        # The copies of the last class that fill up the last chunk are equal to it and come later: never the best.
        classes = buckets.padded(shown[start : start + at_once], at_once)
        best = best_classes(logits.of(classes), size, protocol, before=best, first=start)
    label, value = (np.asarray(array)[: size[0], : size[1]] for array in best or ())
    return shown.astype(np.int32)[label], value


def all_probabilities(logits: ViewLogits, count: int, size: tuple[int, int], protocol: Blended) -> np.ndarray:
    """Probabilities float32 `[t, H, W]` of the first t = `count` classes of one image."""
    result = np.empty((count, *size), np.float32)
    at_once = buckets.chunk_size(count, CLASSES_AT_ONCE)
    for start in range(0, count, at_once):
        classes = buckets.padded(np.arange(start, min(start + at_once, count)), at_once)
        row_taps, column_taps = _output_taps(protocol, logits.values.shape[-1], size)
        part = np.asarray(_blend_to_size(logits.of(classes), row_taps, column_taps, protocol=protocol))
        result[start : start + at_once] = part[: count - start, : size[0], : size[1]]
    return result


def _blended_at(logits: jax.Array, row_taps: resize.Taps, column_taps: resize.Taps, protocol: Blended) -> jax.Array:
    return resize.interpolated(protocol.blend(logits), row_taps, column_taps)


_blend_to_size = Compiled(_blended_at, "probabilities", static=("protocol",))


def label_map(logits: jax.Array, size: tuple[int, int], protocol: Blended) -> jax.Array:
    """The most probable class of every pixel: int32 `[H', W']`, the output size (H, W) padded to OUTPUT_BUCKETS.

    Crop the result to `[:H, :W]`. Equals the argmax of `probabilities`, the first of equals, at the memory of the
    classes and output rows of one step. Returns before the device has finished.
    """
    return best_classes(logits, size, protocol)[0]


def best_classes(
    logits: jax.Array,
    size: tuple[int, int],
    protocol: Blended,
    before: Best | None = None,
    first: int = 0,
) -> Best:
    """Label and probability of the most probable class of every pixel, padded as in `label_map`.

    Classes may come in parts: `before` is the result for the classes up to `first`, where these logits begin.
    """
    row_taps, column_taps = _output_taps(protocol, logits.shape[-1], size)
    extent = (len(row_taps[0]), len(column_taps[0]))
    if before is None:
        before = jnp.zeros(extent, jnp.int32), jnp.full(extent, -1.0, jnp.float32)
    step = step_of(*extent, jax.default_backend())
    return _best_classes(logits, np.int32(first), before, row_taps, column_taps, protocol=protocol, step=step)


def _output_taps(protocol: Blended, side: int, size: tuple[int, int]) -> tuple[resize.Taps, resize.Taps]:
    """Row and column taps from the blended map of logits of side `side` to the padded output of `size`."""
    rows, columns = (_padded_taps(protocol.blended_side(side), extent) for extent in size)
    return rows, columns


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
    protocol: Blended,
    step: tuple[int, int],
) -> Best:
    """`step` are the classes and the output rows whose probabilities exist together."""
    views, classes, g, _ = logits.shape
    at_once, rows = min(step[0], classes), step[1]
    # Padding classes come last and have probability 0: a tie goes to the first class, so they never win.
    padded = jnp.pad(logits, ((0, 0), (0, -classes % at_once), (0, 0), (0, 0)), constant_values=-100.0)
    chunks = jnp.moveaxis(padded.reshape(views, -1, at_once, g, g), 1, 0)
    by_band = lambda x: x.reshape(-1, rows, *x.shape[1:])
    row_bands = tuple(by_band(jnp.asarray(tap)) for tap in row_taps)

    def one_step(best: Best, chunk: tuple[jax.Array, jax.Array]) -> tuple[Best, None]:
        first, chunk_logits = chunk
        blended = protocol.blend(chunk_logits)
        wide = jnp.swapaxes(resize.along(jnp.swapaxes(blended, -1, -2), column_taps), -1, -2)

        def band(parts: tuple[jax.Array, jax.Array, resize.Taps]) -> Best:
            label, value, taps = parts
            resized = resize.along(wide, taps)
            better = resized.max(axis=0) > value
            index = first + resized.argmax(axis=0).astype(jnp.int32)
            return jnp.where(better, index, label), jnp.maximum(resized.max(axis=0), value)

        return jax.lax.map(band, (*best, row_bands)), None

    firsts = first + jnp.arange(chunks.shape[0], dtype=jnp.int32) * at_once
    (labels, values), _ = jax.lax.scan(one_step, (by_band(before[0]), by_band(before[1])), (firsts, chunks))
    return labels.reshape(before[0].shape), values.reshape(before[1].shape)


_best_classes = Compiled(_best_of_all, "label_map", static=("protocol", "step"))
