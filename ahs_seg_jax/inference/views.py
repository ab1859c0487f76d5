"""What the model sees of an image: one squashed view, or windows and a global view."""

import dataclasses

import numpy as np
from PIL import Image

from ahs_seg_jax.models.ops import resize

PROTOCOLS = ("whole", "cat_seg")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Geometry of the sliding-window protocol, in pixels. The defaults are CAT-Seg's."""

    shortest: int = 640  # the image's shortest edge after the first resize
    longest: int = 2560  # bound of its longest edge
    size: int = 640  # side of the square it is squashed to
    window: int = 384
    stride: int = 256

    def __post_init__(self) -> None:
        if self.window > self.size or (self.size - self.window) % self.stride:
            raise ValueError(
                f"windows of {self.window} at stride {self.stride} do not cover {self.size} pixels exactly; "
                "size - window must be a multiple of stride, 0 included"
            )

    @property
    def starts(self) -> range:
        """Where windows begin along each axis."""
        return range(0, self.size - self.window + 1, self.stride)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corner (y, x) of every window, row by row."""
        return [(y, x) for y in self.starts for x in self.starts]


CAT_SEG = Windows()


def check_protocol(protocol: str) -> None:
    """Raises ValueError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")


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


def make_views(image: np.ndarray, protocol: str, crop: int, windows: Windows = CAT_SEG) -> np.ndarray:
    """What the model sees of an image uint8 `[H, W, 3]`: float32 `[v, s, s, 3]`, RGB 0..255.

    `whole`: one view of side s = `crop`. `cat_seg`: the windows row by row, then the global view, s = window.
    Raises ValueError or TypeError for an unknown protocol or an image of another type or shape.
    """
    check_protocol(protocol)
    check_image(image)
    if protocol == "whole":
        return squash(image, crop)[None]
    height, width = shortest_edge_size(image.shape[0], image.shape[1], windows.shortest, windows.longest)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    squashed, side = squash(resized, windows.size), windows.window
    return np.stack([*(squashed[y : y + side, x : x + side] for y, x in windows.corners), squash(resized, side)])


def views_shape(protocol: str, crop: int, windows: Windows = CAT_SEG) -> tuple[int, int, int, int]:
    """Shape (v, s, s, 3) of what `make_views` returns."""
    if protocol == "whole":
        return 1, crop, crop, 3
    return len(windows.corners) + 1, windows.window, windows.window, 3
