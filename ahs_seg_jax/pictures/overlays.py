"""Labels drawn over an image, and the fonts and numbers beside them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import ImageDraw, ImageFont

BACKGROUND = (255, 255, 255)
TEXT = (20, 20, 20)
FAINT = (110, 110, 110)
UNLABELLED = 0.35  # brightness left to unlabelled pixels
GAP = 8  # pixels between the parts of a panel
HEADER = 24  # height of the line that names the parts
TEXT_SIZE = 14
BAND = 2**18  # pixels that are worked on at once, so that they stay in a processor's caches


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """The image with its labels laid over it: uint8 `[H, W, 3]`. Unlabelled pixels are darkened.

    `colors` uint8 `[t, 3]`; `alpha` in 0..1 is the colours' share. Class borders are drawn in full colour.
    Raises ValueError if the labels cover other pixels than the image.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels have shape {list(labels.shape)} but the image {list(image.shape)}; both must agree")
    # What a class makes of each of a channel's 256 values is looked up: arithmetic on every pixel takes several times
    # as long. The last row is for pixels without a class.
    share, values = np.float32(alpha), np.arange(256, dtype=np.float32)
    table = np.empty((3, len(colors) + 1, 256), np.uint8)
    table[:, :-1] = np.rint(values * (1 - share) + (colors.T.astype(np.float32) * share)[..., None])
    table[:, -1] = np.rint(np.arange(256) * UNLABELLED)
    picture, labelled = np.empty_like(image), labels >= 0
    for band in bands(image.shape):
        rows = np.where(labelled[band], labels[band], len(colors)).astype(np.intp) * 256
        for channel in range(3):
            picture[band, :, channel] = table[channel].reshape(-1).take(rows + image[band, :, channel])
    border = _borders(labels) & labelled
    picture[border] = colors[labels[border]]
    return picture


def bands(shape: Sequence[int]) -> Iterator[slice]:
    """Rows of a picture `[H, W, ...]` that make up BAND pixels, one band after the other."""
    height = max(1, BAND // max(1, shape[1]))
    for start in range(0, shape[0], height):
        yield slice(start, start + height)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Bool `[H, W]`: the pixel to the right or below has another label."""
    different = np.zeros(labels.shape, bool)
    different[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    different[:-1] |= labels[:-1] != labels[1:]
    return different


def font(size: int = TEXT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of every picture, `size` pixels high."""
    return ImageFont.load_default(size)


def percent(share: float) -> str:
    """Percent as people read it: "-" for none, "< 0.1 %" for next to nothing."""
    if share == 0:
        return "-"
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def fitted(text: str, width: int, draw: ImageDraw.ImageDraw, chosen: Any = None) -> str:
    """The text, shortened with an ellipsis to `width` pixels in the `chosen` font (by default `font()`)."""
    chosen = chosen or font()
    if draw.textlength(text, chosen) <= width:
        return text
    while text and draw.textlength(f"{text}…", chosen) > width:
        text = text[:-1]
    return f"{text}…"
