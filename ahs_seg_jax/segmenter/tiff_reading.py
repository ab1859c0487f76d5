"""TIFF images of any size, read window by window: the extra `geo` (rasterio).

GDAL, which rasterio calls, would read anything under the name `.tif`: lists of addresses, parts of other files,
services of the network. Here it reads TIFF only, no virtual file and no address. Of the files beside an image, the mask
`.msk` is read if it is a TIFF; those with georeferencing (`.aux.xml`, `.tfw`) are read for that alone, where the image
has none.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.annotations.vector import Place
from ahs_seg_jax.data import pixel_range
from ahs_seg_jax.data.open_image import MAX_PIXELS, check_size
from ahs_seg_jax.segmenter import tiff_bands
from ahs_seg_jax.storage import paths

logger = logging.getLogger("ahs_seg_jax")
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
STRIP = 512  # rows that are read at once
SAMPLE = 4 * 10**6  # pixels that tell the range of a file's values


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

    def __init__(
        self,
        dataset: Any,
        name: str,
        mask: Any = None,
        bands: Sequence[tiff_bands.Band] | None = None,
        rescale: pixel_range.Rescale | None = None,
    ):
        """`mask` is an open TIFF of the same size, 0 where the image has no data."""
        self.dataset, self._name, self._mask, self._rescale = dataset, name, mask, rescale
        self.size: tuple[int, int] = dataset.shape
        self._asked = bands
        rows, columns = dataset.block_shapes[0]
        together = dataset.count if dataset.interleaving == rasterio().enums.Interleaving.pixel else 1
        if rows * columns * together * np.dtype(dataset.dtypes[0]).itemsize > MOST_BLOCK_BYTES:
            raise ValueError(
                f"{name} stores its pixels in blocks of {columns} x {rows}, each of which must be decoded as a whole; "
                f"rewrite it in tiles: rio convert {name} tiled.tif --co TILED=YES"
            )

    @functools.cached_property
    def bands(self) -> list[int]:
        """The numbers of the bands that are shown, from 1. Raises ValueError where the file does not tell."""
        if self._asked is None and self._alpha_is_data:
            raise ValueError(f"{self._name} {pixel_range.NO_MASK}")
        return tiff_bands.chosen(self.dataset, self._name, self._asked)

    @functools.cached_property
    def ranges(self) -> pixel_range.Limits:
        """What becomes 0 and 255 in each band, from up to SAMPLE pixels spread over the file.

        Raises ValueError where that would be a guess.
        """
        fixed = self._rescale is not None and not self._rescale.percent
        plain = self._rescale is None and set(self.dataset.dtypes) == {"uint8"} and not self._is_scaled
        if fixed or plain:
            values = np.zeros((len(self.bands), 0), np.uint8)
        else:
            shape = self._sample_shape()
            values = self._values(out_shape=(len(self.bands), *shape))[:, self._has_data(out_shape=shape)]
        found = pixel_range.limits(values, self._rescale, self._name)
        if self._rescale is not None:
            logger.info(tiff_bands.said(self._name, self.bands, found))
        return found

    @functools.cached_property
    def _alpha_is_data(self) -> bool:
        """Whether the band that the file calls transparency holds something else, such as infrared."""
        band = tiff_bands.alpha_band(self.dataset)
        if band is None:
            return False
        with self.reading():
            return not pixel_range.is_mask(self.dataset.read(band, out_shape=self._sample_shape()))

    @property
    def _is_scaled(self) -> bool:
        return any(scale != 1 for scale in self.dataset.scales) or any(self.dataset.offsets)

    def _sample_shape(self) -> tuple[int, int]:
        step = math.ceil(math.sqrt(max(1.0, self.size[0] * self.size[1] / SAMPLE)))
        height, width = self.size
        return -(-height // step), -(-width // step)

    def _values(self, **place: Any) -> np.ndarray:
        """The numbers of the bands, by their own scales and offsets."""
        with self.reading():
            stored = self.dataset.read(self.bands, **place)
        return tiff_bands.scaled(self.dataset, self.bands, stored)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """uint8 RGB `[height, width, 3]` as stored (no orientation applies), `ranges` becoming 0..255."""
        window = window_of(y, x, height, width)
        if (palette := _palette(self.dataset)) is not None and self._asked is None:
            with self.reading():
                return palette[self.dataset.read(1, window=window)]
        values = pixel_range.to_bytes(self._values(window=window), self.ranges)
        pixels = np.ascontiguousarray(np.moveaxis(values, 0, -1))
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    def has_data(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Bool `[height, width]`: False where the file says that it has no data, or holds no numbers (NaN)."""
        return self._has_data(window=window_of(y, x, height, width))

    def _has_data(self, **place: Any) -> np.ndarray:
        with self.reading():
            if self._alpha_is_data:  # then nothing but a value can mean "no data"
                stored, none = self.dataset.read(self.bands, **place), self.dataset.nodata
                found = np.ones(stored.shape[1:], bool) if none is None else (stored != none).any(axis=0)
            else:
                found = self.dataset.dataset_mask(**place) > 0
            if self._mask is not None:
                found = found & (self._mask.read(1, **place) > 0)
        if np.dtype(self.dataset.dtypes[0]).kind == "f":
            found = found & np.isfinite(self._values(**_of_bands(place, len(self.bands)))).all(axis=0)
        return found

    def place(self) -> dict[str, Any]:
        """The georeferencing, as rasterio writes it.

        Raises ValueError where a file beside the image says which pixels hold no data: that is not read.
        """
        here, side = self.dataset, [path for path in map(pathlib.Path, _side_files(self._name)) if path.is_file()]
        if not side:
            return _place(here)
        with opened(pathlib.Path(self._name), settings=WITH_SIDE_FILES) as known:
            if known.nodatavals != here.nodatavals:
                raise ValueError(
                    f"the value that stands for no data in {self._name} is in a file beside it ({side[0].name}), which "
                    f"is not read for that; store it in the image: rio edit-info --nodata {known.nodata} {self._name}"
                )
            return _place(here if here.crs or here.gcps[0] or not here.transform.is_identity else known)

    @property
    def is_map(self) -> bool:
        """Whether it has more to it than 8-bit colours: see `is_map`."""
        file = self.dataset
        placed = bool(file.crs or file.gcps[0] or not file.transform.is_identity)
        inks = file.photometric is not None and file.photometric.name == "cmyk"  # GDAL calls its bands red, green ...
        plain = set(file.dtypes) == {"uint8"} and (file.count in (1, 3) or inks) and not self._is_scaled
        return placed or not plain or file.nodata is not None or self._mask is not None

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


def _of_bands(place: dict[str, Any], bands: int) -> dict[str, Any]:
    return {key: (bands, *value) if key == "out_shape" else value for key, value in place.items()}


def _palette(dataset: Any) -> np.ndarray | None:
    """uint8 `[n, 3]`: the colours of a TIFF whose pixels are indices of colours."""
    if dataset.colorinterp[0].name != "palette":
        return None
    table = dataset.colormap(1)
    return np.array([table[index][:3] for index in range(len(table))], np.uint8)


def window_of(y: int, x: int, height: int, width: int) -> Any:
    return rasterio().windows.Window(x, y, width, height)


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """By the file's name."""
    return pathlib.Path(path).suffix.lower() in TIFF_SUFFIXES


@contextlib.contextmanager
def open_tiff(
    path: str | os.PathLike[str],
    bands: Sequence[tiff_bands.Band] | None = None,
    rescale: pixel_range.RangeLike = None,
) -> Iterator[TiffRaster]:
    """A TIFF to read from.

    `bands` that are shown: three, or one for grey, by number from 1 or by name. `rescale`: which values become 0 and
    255, such as (0, 3000) or "2%,98%", in the units that the bands' scales and offsets make.

    Raises ImportError without rasterio, FileNotFoundError or ValueError for what cannot be read. What the file does not
    tell (which bands are colours, what the range of the values is) raises ValueError when pixels are read.
    """
    path, rescale = pathlib.Path(path), pixel_range.Rescale.of(rescale)
    library = rasterio()
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    with contextlib.ExitStack() as stack:
        try:
            dataset = stack.enter_context(opened(path))
            beside = _mask_beside(path)
            mask = None if beside is None else stack.enter_context(opened(beside))
        except library.errors.RasterioError as error:
            raise ValueError(f"{path} is not a TIFF that can be read ({error})") from error
        if mask is not None and mask.shape != dataset.shape:
            raise ValueError(
                f"{path} has {dataset.width} x {dataset.height} pixels, and its mask {mask.name} {mask.width} x "
                f"{mask.height}; remove the mask, or store it in the image"
            )
        yield TiffRaster(dataset, str(path), mask, bands, rescale)


def read_tiff(
    path: str | os.PathLike[str],
    bands: Sequence[tiff_bands.Band] | None = None,
    rescale: pixel_range.RangeLike = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A whole TIFF: uint8 RGB `[H, W, 3]`, and bool `[H, W]`, where it holds data. Otherwise as `open_tiff`."""
    with open_tiff(path, bands, rescale) as raster:
        height, width = raster.size
        check_size(width, height, str(path), MAX_PIXELS)
        image, has_data = np.empty((height, width, 3), np.uint8), np.empty((height, width), bool)
        for top in range(0, height, STRIP):
            rows = min(STRIP, height - top)
            image[top : top + rows] = raster.read(top, 0, rows, width)
            has_data[top : top + rows] = raster.has_data(top, 0, rows, width)
        return image, has_data


def is_map(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a TIFF with more to it than 8-bit colours: a place, no data, scales, other bands or numbers.

    False without rasterio, and for what is no TIFF.
    """
    if not is_tiff(path):
        return False
    with contextlib.suppress(ImportError, ValueError, OSError), open_tiff(path) as raster:
        return raster.is_map
    return False


def place_of(path: str | os.PathLike[str] | None) -> Place:
    """Where an image's pixels lie; in pixels where it is no TIFF. Raises ValueError as `Place.of`."""
    if path is None or not is_tiff(path):
        return Place()
    paths.on_disk(path, "a TIFF image whose place is wanted")
    with open_tiff(path) as raster:
        return Place.of(raster.place())


@contextlib.contextmanager
def opened(path: pathlib.Path, mode: str = "r", settings: dict[str, str] = ALONE, **options: Any) -> Iterator[Any]:
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
