"""TIFF images of any size, read window by window, and labels as GeoTIFF: the extra `geo` (rasterio).

The labels lie on the image's pixels and keep its coordinate reference system and transform. Up to 254 names: 8 bits,
255 = no data; more: 16 bits, 65535 = no data, as in `Segmentation.save_png`. The colours of the names are the file's
colour table; the names stand in the band's tag `class_names` as a JSON list, and as category names, which geographic
programs show in their legends, in the file `.aux.xml` beside it.

GDAL, which rasterio calls, would read anything under the name `.tif`: lists of addresses, parts of other files,
services of the network. Here it reads TIFF only, no virtual file and no address. Of the files beside an image, the mask
`.msk` is read if it is a TIFF; those with georeferencing (`.aux.xml`, `.tfw`) are read for that alone, where the image
has none.
"""

import contextlib
import importlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ahs_seg_jax.inference.native_windows import TILE
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter.segmentation import Segmentation

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
MOST_BLOCK_BYTES = 400 * 10**6  # of what a file must decode together: 64 megapixels of 16-bit RGB
OFFLINE = {  # GDAL's settings: no address is asked, by whatever file it is named
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "/none",
    "GDAL_HTTP_PROXY": "127.0.0.1:1",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_TIMEOUT": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "1",
}
ALONE = OFFLINE | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"
}  # and no file beside the one that is opened is looked at
WITH_SIDE_FILES = OFFLINE | {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
BLOCK = 256  # side of the blocks that are written; divides TILE


assert TILE % BLOCK == 0


def rasterio() -> Any:
    """The library. Raises ImportError, which says what to install."""
    try:
        return importlib.import_module("rasterio")
    except ImportError as error:
        raise ImportError(
            "reading TIFF by windows and writing GeoTIFF need rasterio, which is not installed: "
            "pip install 'ahs_seg_jax[geo]'"
        ) from error


class TiffRaster:
    """An open TIFF as windows are read from it: a `tiling.Raster`, and which of its pixels hold data."""

    def __init__(self, dataset: Any, name: str, mask: Any = None):
        """`mask` is an open TIFF of the same size, 0 where the image has no data."""
        self.dataset, self._name, self._mask = dataset, name, mask
        self.size: tuple[int, int] = dataset.shape
        self._bands, self._palette = _bands(dataset, name), _palette(dataset)
        rows, columns = dataset.block_shapes[0]
        together = dataset.count if dataset.interleaving == rasterio().enums.Interleaving.pixel else 1
        if rows * columns * together * np.dtype(dataset.dtypes[0]).itemsize > MOST_BLOCK_BYTES:
            raise ValueError(
                f"{name} stores its pixels in blocks of {columns} x {rows}, each of which must be decoded as a whole; "
                f"rewrite it in tiles: rio convert {name} tiled.tif --co TILED=YES"
            )

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 RGB `[height, width, 3]` as stored (no orientation applies); 16 bits keep their high byte."""
        with self.reading():
            values = self.dataset.read(self._bands, window=_window(y, x, height, width))
        if self._palette is not None:
            return self._palette[values[0]]
        if values.dtype == np.uint16:
            values = (values >> 8).astype(np.uint8)
        pixels = np.ascontiguousarray(np.moveaxis(values, 0, -1))
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    def has_data(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Bool `[height, width]`: False where the file says that it has no data."""
        window = _window(y, x, height, width)
        with self.reading():
            found = self.dataset.dataset_mask(window=window) > 0
            return found if self._mask is None else found & (self._mask.read(1, window=window) > 0)

    def place(self) -> dict[str, Any]:
        """The georeferencing, as rasterio writes it.

        Raises ValueError where a file beside the image says which pixels hold no data: that is not read.
        """
        here, side = self.dataset, [path for path in map(pathlib.Path, _side_files(self._name)) if path.is_file()]
        if not side:
            return _place(here)
        with _opened(pathlib.Path(self._name), settings=WITH_SIDE_FILES) as known:
            if known.nodatavals != here.nodatavals:
                raise ValueError(
                    f"the value that stands for no data in {self._name} is in a file beside it ({side[0].name}), which "
                    f"is not read for that; store it in the image: rio edit-info --nodata {known.nodata} {self._name}"
                )
            return _place(here if here.crs or here.gcps[0] or not here.transform.is_identity else known)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Errors of GDAL in this context are ValueErrors that say what to do."""
        try:
            yield
        except rasterio().errors.RasterioError as error:
            raise ValueError(f"{self._name} is damaged or cut off ({error}); copy or download it again") from error


def _place(dataset: Any) -> dict[str, Any]:
    points, points_crs = dataset.gcps
    if points:  # which may be without a reference system, for which rasterio has no None
        return {"crs": points_crs or rasterio().crs.CRS(), "gcps": points}
    return {"crs": dataset.crs, "transform": dataset.transform}


def _side_files(name: str) -> list[str]:
    """Where GDAL looks for the georeferencing of the TIFF `name`."""
    stem, suffix = os.path.splitext(name)
    worlds = {f"{stem}.{ending}" for ending in ("tfw", "TFW", "tifw", "tiffw", "wld", "WLD")}
    return sorted({f"{name}.aux.xml", f"{name}w", *worlds}) if suffix else [f"{name}.aux.xml"]


def _bands(dataset: Any, name: str) -> list[int]:
    """The numbers of the red, green and blue band, or of the only one. Raises ValueError for other kinds of numbers."""
    kinds = sorted(set(dataset.dtypes))
    if kinds not in (["uint8"], ["uint16"]):
        raise ValueError(
            f"{name} has pixels of type {', '.join(kinds)}; save it with 8 or 16 bits, unsigned, a channel"
        )
    meanings = [meaning.name for meaning in dataset.colorinterp]
    if {"red", "green", "blue"} <= set(meanings):
        return [meanings.index(colour) + 1 for colour in ("red", "green", "blue")]
    shown = [number for number, meaning in enumerate(meanings, 1) if meaning != "alpha"]
    return shown[:3] if len(shown) >= 3 else shown[:1]


def _palette(dataset: Any) -> np.ndarray | None:
    """uint8 `[n, 3]`: the colours of a TIFF whose pixels are indices of colours."""
    if dataset.colorinterp[0].name != "palette":
        return None
    table = dataset.colormap(1)
    return np.array([table[index][:3] for index in range(len(table))], np.uint8)


def _window(y: int, x: int, height: int, width: int) -> Any:
    return rasterio().windows.Window(x, y, width, height)


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """By the file's name."""
    return pathlib.Path(path).suffix.lower() in TIFF_SUFFIXES


@contextlib.contextmanager
def open_tiff(path: str | os.PathLike[str]) -> Iterator[TiffRaster]:
    """Raises ImportError without rasterio, FileNotFoundError or ValueError for what cannot be read."""
    path = pathlib.Path(path)
    library = rasterio()
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    with contextlib.ExitStack() as stack:
        try:
            dataset = stack.enter_context(_opened(path))
            beside = _mask_beside(path)
            mask = None if beside is None else stack.enter_context(_opened(beside))
        except library.errors.RasterioError as error:
            raise ValueError(f"{path} is not a TIFF that can be read ({error})") from error
        if mask is not None and mask.shape != dataset.shape:
            raise ValueError(
                f"{path} has {dataset.width} x {dataset.height} pixels, and its mask {mask.name} {mask.width} x "
                f"{mask.height}; remove the mask, or store it in the image"
            )
        yield TiffRaster(dataset, str(path), mask)


@contextlib.contextmanager
def _opened(path: pathlib.Path, mode: str = "r", settings: dict[str, str] = ALONE, **options: Any) -> Iterator[Any]:
    """The file in rasterio, as a TIFF or not at all."""
    library = rasterio()
    # An absolute path is not one of GDAL's names for parts of a file ("GTIFF_DIR:2:other.tif") or for virtual files.
    path = path.absolute()
    if path.parts[1:2] and path.parts[1].startswith("vsi"):
        raise ValueError(f"{path} is a name of GDAL's virtual files; move the image to another folder")
    with library.Env(**settings):
        with _no_reference_needed():
            dataset = library.open(path, mode, driver="GTiff", **options)
        with dataset:
            yield dataset


def _mask_beside(path: pathlib.Path) -> pathlib.Path | None:
    """The file in which GDAL keeps the mask of a TIFF that holds none, if there is one."""
    found = (path.with_name(f"{path.name}{suffix}") for suffix in (".msk", ".MSK"))
    return next(filter(pathlib.Path.is_file, found), None)


def tiff_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w). Raises as `open_tiff`."""
    with open_tiff(path) as raster:
        return raster.size


@contextlib.contextmanager
def _no_reference_needed() -> Iterator[None]:
    """An image without georeferencing is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio().errors.NotGeoreferencedWarning)
        yield


# ------------------------------------------------------------------------------------------------ labels


def create_labels(path: pathlib.Path, like: TiffRaster, names: Sequence[str]) -> None:
    """A file without data yet, on the pixels of `like`, with its georeferencing, and the names' colours."""
    height, width = like.size
    with _opened(
        path,
        "w",
        height=height,
        width=width,
        count=1,
        dtype=f"uint{label_files.bits(len(names))}",
        nodata=label_files.no_class(len(names)),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="deflate",
        bigtiff="IF_SAFER",
        **like.place(),
    ) as file:
        colors = assign_colors(tuple(names)).tolist()
        file.write_colormap(1, {index: (*color, 255) for index, color in enumerate(colors)})
        file.update_tags(1, **{label_files.CLASS_NAMES: json.dumps(list(names), ensure_ascii=False)})


def write_part(path: pathlib.Path, labels: np.ndarray, y: int, x: int, names: Sequence[str]) -> None:
    """Writes labels int32 `[h, w]`, -1 = no data, at the place (y, x) of a file of `create_labels`."""
    with _opened(path, "r+") as file:
        file.write(label_files.to_numbers(labels, len(names)), 1, window=_window(y, x, *labels.shape))


def categories_beside(path: pathlib.Path) -> pathlib.Path:
    """The file in which GDAL looks for the category names of the labels in `path`."""
    return path.with_name(f"{path.name}.aux.xml")


def write_categories(path: pathlib.Path, names: Sequence[str]) -> None:
    """Writes a file of `categories_beside`."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in names:
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
    with open_tiff(path) as raster:
        names = _stored_names(raster.dataset)
        if names is None:
            raise ValueError(f"{path} does not name its classes; it was not written by this program")
        step = 1 if longest is None else -(-max(raster.size) // longest)
        shape = tuple(-(-extent // step) for extent in raster.size)
        with raster.reading():
            stored = raster.dataset.read(1, out_shape=shape)
        return label_files.to_labels(stored), names


def _stored_names(dataset: Any) -> tuple[str, ...] | None:
    """The names that `create_labels` wrote, or None."""
    try:
        names = json.loads(dataset.tags(1)[label_files.CLASS_NAMES])
    except (KeyError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
