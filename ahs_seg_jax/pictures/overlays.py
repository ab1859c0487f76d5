"""Labels drawn over an image, and the fonts and numbers beside them."""

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


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """The image with its labels laid over it: uint8 `[H, W, 3]`. Unlabelled pixels are darkened.

    `colors` uint8 `[t, 3]`; `alpha` in 0..1 is the colours' share. Class borders are drawn in full colour.
    Raises ValueError if the labels cover other pixels than the image.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels have shape {list(labels.shape)} but the image {list(image.shape)}; both must agree")
    labelled = labels >= 0
    chosen = colors[np.where(labelled, labels, 0)].astype(np.float32)
    share = np.where(_borders(labels), 1.0, alpha)[..., None].astype(np.float32)
    blended = image * (1 - share) + chosen * share
    return np.where(labelled[..., None], blended, image * UNLABELLED).round().astype(np.uint8)


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
