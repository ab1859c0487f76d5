"""Labels as GeoTIFF: the extra `geo` (rasterio).

The labels lie on the image's pixels and keep its coordinate reference system and transform. Up to 254 names: 8 bits,
255 = no data; more: 16 bits, 65535 = no data, as in `Segmentation.save_png`. The colours of the names are the file's
colour table; the names stand in the band's tag `class_names` as a JSON list, and as category names, which geographic
programs show in their legends, in the file `.aux.xml` beside it.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ahs_seg_jax.inference.native_windows import TILE
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter.segmentation import Segmentation
from ahs_seg_jax.segmenter.tiff_reading import TiffRaster, open_tiff, opened, window_of

BLOCK = 256  # side of the blocks that are written; divides TILE


assert TILE % BLOCK == 0


def create_labels(path: pathlib.Path, like: TiffRaster, names: Sequence[str], first_index: int = 0) -> None:
    """A file without data yet, on the pixels of `like`, with its georeferencing, and the names' colours."""
    label_files.check_first_index(first_index, len(names))
    height, width = like.size
    with opened(
        path,
        "w",
        height=height,
        width=width,
        count=1,
        dtype=f"uint{label_files.bits(len(names), first_index)}",
        nodata=label_files.no_class(len(names), first_index),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        bigtiff="IF_SAFER",
        **like.place(),
    ) as file:
        colors = assign_colors(tuple(names)).tolist()
        file.write_colormap(1, {number: (*color, 255) for number, color in enumerate(colors, first_index)})
        tags = {label_files.CLASS_NAMES: json.dumps(list(names), ensure_ascii=False)}
        file.update_tags(1, **tags, **({label_files.FIRST_INDEX: str(first_index)} if first_index else {}))


def write_part(
    path: pathlib.Path, labels: np.ndarray, y: int, x: int, names: Sequence[str], first_index: int = 0
) -> None:
    """Writes labels int32 `[h, w]`, -1 = no data, at the place (y, x) of a file of `create_labels`."""
    with opened(path, "r+") as file:
        numbers = label_files.to_numbers(labels, len(names), first_index)
        file.write(numbers, 1, window=window_of(y, x, *labels.shape))


def categories_beside(path: pathlib.Path) -> pathlib.Path:
    """The file in which GDAL looks for the category names of the labels in `path`."""
    return path.with_name(f"{path.name}.aux.xml")


def write_categories(path: pathlib.Path, names: Sequence[str], first_index: int = 0) -> None:
    """Writes a file of `categories_beside`."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in ("",) * first_index + tuple(names):
        ElementTree.SubElement(categories, "Category").text = name
    ElementTree.ElementTree(root).write(path, "utf-8")


def save_geotiff(result: Segmentation, path: str | os.PathLike[str], like: str | os.PathLike[str]) -> None:
    """Writes the labels of a result with the georeferencing of the TIFF `like`, whose pixels were segmented.

    Raises ValueError if it has another size, OSError if the file cannot be written.
    """
    path = pathlib.Path(path)
    with open_tiff(like) as raster:
        if raster.size != result.labels.shape:
            raise ValueError(
                f"{like} has {raster.size[1]} x {raster.size[0]} pixels, the result {result.labels.shape[1]} x "
                f"{result.labels.shape[0]}; give the file that was segmented"
            )
        create_labels(path, raster, result.names)
    write_part(path, result.labels, 0, 0, result.names)
    write_categories(categories_beside(path), result.names)


def read_geotiff(path: str | os.PathLike[str], longest: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int32 `[H, W]` (-1 = no data) and names of a file written here; `longest` thins the pixels out.

    Raises ValueError for another TIFF.
    """
    with open_labels(path) as (raster, names, _, first_index):
        step = 1 if longest is None else -(-max(raster.size) // longest)
        shape = tuple(-(-extent // step) for extent in raster.size)
        with raster.reading():
            stored = raster.dataset.read(1, out_shape=shape)
        return label_files.to_labels(stored, first_index), names


@contextlib.contextmanager
def open_labels(path: str | os.PathLike[str]) -> Iterator[tuple[TiffRaster, tuple[str, ...], int, int]]:
    """A file written here, not read yet; its names, the number for no data, and the number of the first class.

    Raises ValueError for another TIFF.
    """
    with open_tiff(path) as raster:
        names = _stored_names(raster.dataset)
        if names is None:
            raise ValueError(f"{path} does not name its classes; it was not written by this program")
        text = raster.dataset.tags(1).get(label_files.FIRST_INDEX, "0")
        first_index = int(text) if text.isascii() and text.isdigit() else 0
        yield raster, names, label_files.no_class(len(names), first_index), first_index


def _stored_names(dataset: Any) -> tuple[str, ...] | None:
    """The names that `create_labels` wrote, or None."""
    try:
        names = json.loads(dataset.tags(1)[label_files.CLASS_NAMES])
    except (KeyError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
