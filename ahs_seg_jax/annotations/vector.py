"""Polygons as GeoJSON and GeoPackage, in the coordinates of the raster that was segmented.

Properties: the class's name and index, its pixels, and square metres (`area_m2`) where the reference system is a
projection. Without georeferencing the coordinates are pixels from the top left corner, y downwards.
"""

import dataclasses
import importlib
import itertools
import json
import os
import struct
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.annotations.polygons import Polygon

AT_ONCE = 1000  # polygons that are written together


@dataclasses.dataclass(frozen=True)
class Place:
    """Where pixels lie: x = a col + b row + c, y = d col + e row + f, in a reference system of rasterio's, or None."""

    transform: tuple[float, float, float, float, float, float] = (1, 0, 0, 0, 1, 0)
    crs: Any = None

    @classmethod
    def of(cls, known: dict[str, Any]) -> "Place":
        """From what `TiffRaster.place` knows. Raises ValueError if only control points are known."""
        if "gcps" in known:
            raise ValueError(
                "the image has control points but no transform, so polygons have no exact place; warp it first: "
                "gdalwarp image.tif warped.tif"
            )
        return cls(tuple(known["transform"])[:6], known["crs"] or None)

    def placed(self, ring: np.ndarray) -> np.ndarray:
        """Corners `[n, 2]` in pixels, in the coordinates of the reference system."""
        a, b, c, d, e, f = self.transform
        x, y = ring.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    @property
    def square_metres(self) -> float | None:
        """Of a pixel; None where coordinates are degrees or pixels."""
        if self.crs is None or not self.crs.is_projected:
            return None
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d) * float(self.crs.linear_units_factor[1]) ** 2


def require_pyogrio() -> Any:
    """The library. Raises ImportError, which says what to install."""
    try:
        return importlib.import_module("pyogrio.raw")
    except ImportError as error:
        raise ImportError("GeoPackage needs pyogrio, which is not installed: pip install 'ahs_seg_jax[geo]'") from error


def _properties(polygon: Polygon, names: Sequence[str], place: Place) -> dict[str, Any]:
    found = {"name": names[polygon.class_index], "index": polygon.class_index, "pixels": polygon.pixels}
    if (unit := place.square_metres) is not None:
        found["area_m2"] = round(polygon.pixels * unit, 4)
    return found


def write_geojson(
    path: str | os.PathLike[str], polygons: Iterable[Polygon], names: Sequence[str], place: Place
) -> None:
    """A feature a line. The reference system stands in `crs`, as GDAL and QGIS write and read it.

    Raises ValueError if the reference system has no EPSG number.
    """
    head = '{"type": "FeatureCollection",\n'
    if place.crs is not None:
        number = place.crs.to_epsg()
        if number is None:
            raise ValueError(
                "the image's reference system has no EPSG number, which GeoJSON needs; write gpkg, or warp the image "
                "to one that has: gdalwarp -t_srs EPSG:..."
            )
        crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{number}"}}
        head += f'"crs": {json.dumps(crs)},\n'
    with open(path, "w", encoding="utf-8") as file:
        file.write(head + '"features": [')
        separator = "\n"
        for polygon in polygons:
            rings = [place.placed(ring).tolist() for ring in polygon.rings]
            feature = {
                "type": "Feature",
                "properties": _properties(polygon, names, place),
                "geometry": {"type": "Polygon", "coordinates": rings},
            }
            file.write(separator + json.dumps(feature, ensure_ascii=False))
            separator = ",\n"
        file.write("\n]}\n")


def write_geopackage(
    path: str | os.PathLike[str], polygons: Iterable[Polygon], names: Sequence[str], place: Place
) -> None:
    """The layer `labels`. Raises ImportError without pyogrio."""
    library = require_pyogrio()
    fields = ["name", "index", "pixels"] + ["area_m2"] * (place.square_metres is not None)
    rest, append = iter(polygons), False
    while (some := list(itertools.islice(rest, AT_ONCE))) or not append:
        rows = [_properties(polygon, names, place) for polygon in some]
        kinds: dict[str, Any] = {"name": object, "index": np.int64, "pixels": np.int64, "area_m2": np.float64}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            library.write(
                os.fspath(path),
                geometry=np.array([_wkb(polygon, place) for polygon in some] or [], object),
                field_data=[np.array([row[field] for row in rows], kinds[field]) for field in fields],
                fields=fields,
                layer="labels",
                driver="GPKG",
                geometry_type="Polygon",
                crs=None if place.crs is None else place.crs.to_wkt(),
                append=append,
            )
        append = True


def _wkb(polygon: Polygon, place: Place) -> bytes:
    """Well-known binary of OGC: little-endian, type 3."""
    parts = [struct.pack("<BII", 1, 3, len(polygon.rings))]
    for ring in polygon.rings:
        parts += [struct.pack("<I", len(ring)), place.placed(ring).astype("<f8").tobytes()]
    return b"".join(parts)
