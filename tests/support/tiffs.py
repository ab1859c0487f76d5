"""TIFF files that tests write; needs rasterio."""

import pathlib
import warnings
from typing import Any

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")

PLACE = rasterio.Affine(0.5, 0.1, 411_000.0, -0.1, -0.5, 5_660_000.0)


def write(path: pathlib.Path, image: np.ndarray, meanings: Any = None, **options: Any) -> pathlib.Path:
    """An image `[H, W, bands]` as a TIFF; `meanings` of its bands."""
    profile = {"driver": "GTiff", "count": image.shape[2], "dtype": image.dtype.name, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", height=image.shape[0], width=image.shape[1], **profile) as file:
            file.write(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
            if meanings:
                file.colorinterp = meanings
    return path
