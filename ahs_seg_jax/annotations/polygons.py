"""Outlines of labels along the pixels' edges, exact, holes included; needs the extra `geo` (rasterio)."""

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ahs_seg_jax.vocabulary import IGNORE


class Polygon(NamedTuple):
    """An area of one class whose pixels meet at their sides."""

    class_index: int
    rings: list[np.ndarray]  # float64 [n, 2] (x, y), closed: the outline, then the holes
    pixels: int


def features() -> Any:
    """rasterio's module of shapes. Raises ImportError, which says what to install."""
    try:
        return importlib.import_module("rasterio.features")
    except ImportError as error:
        raise ImportError("this needs rasterio, which is not installed: pip install 'ahs_seg_jax[geo]'") from error


def polygons(labels: np.ndarray) -> Iterator[Polygon]:
    """The polygons of labels int32 `[H, W]` (-1 = none), in pixels from the image's top left corner."""
    yield from _polygons(features().shapes(labels.astype(np.int32), mask=labels != IGNORE))


def band_polygons(band: Any, no_class: int, first_index: int = 0) -> Iterator[Polygon]:
    """As `polygons`, of a band of an open raster (`rasterio.band`), which is read line by line."""
    shapes = ((shape, value - first_index) for shape, value in features().shapes(band) if value != no_class)
    a, b, c, d, e, f = tuple(~band.ds.transform)[:6]  # of a band, GDAL gives the corners in the raster's coordinates
    for polygon in _polygons(shapes, count=False):
        rings = [
            np.rint(np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)) for x, y in (r.T for r in polygon.rings)
        ]
        yield polygon._replace(rings=rings, pixels=_pixels(rings))


def _polygons(shapes: Any, count: bool = True) -> Iterator[Polygon]:
    for shape, value in shapes:
        rings = [np.array(ring, np.float64) for ring in shape["coordinates"]]
        yield Polygon(int(value), rings, _pixels(rings) if count else 0)


def _pixels(rings: list[np.ndarray]) -> int:
    outline, *holes = map(_size, rings)
    return round(outline - sum(holes))


def _size(ring: np.ndarray) -> float:
    """The area inside a closed ring (the shoelace formula)."""
    x, y = (ring - ring[0]).T  # from one of its corners: the products stay small
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def one_ring(rings: list[np.ndarray]) -> np.ndarray:
    """A closed ring `[n, 2]` around the same area by the even-odd rule; cuts lead from the outline to the holes."""
    joined = rings[0]
    for hole in rings[1:]:
        near = int(((joined - hole[0]) ** 2).sum(axis=1).argmin())
        joined = np.concatenate([joined[: near + 1], hole, joined[near:]])
    return joined
