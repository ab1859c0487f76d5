"""Values of the labels' pixels as the downloads store them, before any map is applied."""

import pathlib

import numpy as np
from PIL import Image

from ahs_seg_jax.errors import NotAnIndexMask

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")


def index_png(path: pathlib.Path) -> np.ndarray:
    """Values `uint8` or `uint16 [h, w]` of a grey or palette PNG; of a palette its indices, never its colours.

    Raises NotAnIndexMask for a PNG of colours, OSError or ValueError for one that cannot be decoded.
    """
    with Image.open(path) as file:
        if file.mode not in ("L", "P", *SIXTEEN_BIT):
            raise NotAnIndexMask(
                f"its pixels are {file.mode}, not one number each: palette files that some program saved anew lose "
                "their indices so; unpack the original again"
            )
        return np.asarray(file)
