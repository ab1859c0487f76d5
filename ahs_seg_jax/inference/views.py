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


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Float32 `[size, size, 3]` of an image `[H, W, 3]`: bilinear, no anti-aliasing, the aspect ratio is lost."""
    values = image  # rows are chosen first: a large image as float32 would take four times its memory
    for axis in (0, 1):
        low, high, weight = bilinear_taps(values.shape[axis], size)
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = (values.take(index, axis).astype(np.float32) for index in (low, high))
        values = first * (1 - weight) + second * weight
    return values


def shortest_edge_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) after a resize that keeps the aspect: shortest edge `shortest`, longest at most `longest`."""
    scale = min(shortest / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
