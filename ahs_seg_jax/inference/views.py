"""Images on the host: checks, and the resizes that make views of them."""

import numpy as np

from ahs_seg_jax.models.ops import resize


def check_image(image: np.ndarray) -> None:
    """Raises TypeError or ValueError unless `image` is uint8 RGB `[H, W, 3]` with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        seen = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image is {seen}; pass a NumPy array of dtype uint8, RGB 0..255")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image has shape {list(image.shape)}; it must be [H, W, 3], RGB, with at least one pixel")


def bilinear_taps(size_in: int, size_out: int) -> resize.Taps:
    """The two source indices (int32 `[m]`) and the second one's weight (float32 `[m]`) of a bilinear resize."""
    index, weight = resize.linear_taps(size_in, size_out)
    return index[:, 0].astype(np.int32), index[:, 1].astype(np.int32), weight[:, 1].astype(np.float32)


_ROWS_AT_ONCE = 32  # output rows of a squash, so that what is computed of them stays in a processor's caches


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Float32 `[size, size, 3]` of an image `[H, W, 3]`: bilinear, no anti-aliasing, the aspect ratio is lost."""
    result = np.empty((size, size, image.shape[2]), np.float32)
    top, bottom, down = bilinear_taps(image.shape[0], size)
    left, right, across = bilinear_taps(image.shape[1], size)
    across = across[:, None]
    for start in range(0, size, _ROWS_AT_ONCE):
        band = slice(start, start + _ROWS_AT_ONCE)
        weight = down[band, None, None]
        rows, below = image[top[band]].astype(np.float32), image[bottom[band]].astype(np.float32)
        rows *= 1 - weight
        below *= weight
        rows += below
        np.multiply(rows.take(left, 1), 1 - across, out=result[band])
        result[band] += rows.take(right, 1) * across
    return result


_BITS = 11  # of the weights in `resized_8_bit`


def resized_8_bit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[H', W', 3]` of an image uint8 `[H, W, 3]`: bilinear without anti-aliasing in integers, byte for byte as
    OpenCV resizes 8-bit images (parity: golden/training_free_small.npz). `size` is (H', W').

    Columns come first. Along rows OpenCV drops four bits before the second product and rounds at the end.
    """
    low, high, first, second = _integer_taps(image.shape[1], size[1], across=True)
    top, bottom, above, below = _integer_taps(image.shape[0], size[0], across=False)
    needed = np.unique(np.concatenate([top, bottom]))  # the other rows of a large image are not looked at
    rows = image[needed]
    columns = first * rows[:, low] + second * rows[:, high] >> 4
    a, b = (
        weight[:, None, None] * columns[np.searchsorted(needed, index)] >> 16
        for weight, index in ((above, top), (below, bottom))
    )
    return np.clip((a + b + 2) >> 2, 0, 255).astype(np.uint8)


def _integer_taps(
    size_in: int, size_out: int, *, across: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two source indices `[m]` and their weights in 2^-11: for columns (`across`) `[m, 1]`, for rows `[m]`.

    At the border a column is a copy of the last one; a row keeps its two weights, which add the same row twice.
    """
    source = ((np.arange(size_out) + 0.5) * size_in / size_out - 0.5).astype(np.float32)
    low = np.floor(source)
    fraction = source - low
    low = low.astype(np.int64)
    if across:
        fraction = np.where((low < 0) | (low >= size_in - 1), np.float32(0), fraction)
    scale = np.float32(2**_BITS)
    weights = [np.rint(part * scale).astype(np.int32) for part in (np.float32(1) - fraction, fraction)]
    first, second = (weight[:, None] for weight in weights) if across else weights
    return np.clip(low, 0, size_in - 1), np.clip(low + 1, 0, size_in - 1), first, second


def shortest_edge_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) after a resize that keeps the aspect: shortest edge `shortest`, longest at most `longest`."""
    scale = min(shortest / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
