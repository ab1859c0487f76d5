"""A TIFF larger than memory into a GeoTIFF of labels, tile by tile; a stopped run continues after its last tile."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ahs_seg_jax.data import pixel_range
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.tiles import overview
from ahs_seg_jax.pictures import legends, overlays
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter import geotiff, tiff_bands, tiff_reading
from ahs_seg_jax.segmenter.segmentation import count_labels, named_areas, summary
from ahs_seg_jax.segmenter.segmenter import Names, Segmenter, Unknown
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary import IGNORE

OVERLAY = 2048  # pixels: the longest side of a picture of a large image


@dataclasses.dataclass
class _Progress:
    """What a stopped run has done, kept beside its unfinished file."""

    key: str  # of everything that the tiles depend on
    tiles: list[list[int]]  # corners (y, x)
    counts: list[int]  # pixels without a name, then of each name
    confidence: float  # its sum over the pixels

    @classmethod
    def load(cls, path: pathlib.Path, key: str, classes: int) -> "_Progress":
        """From the file, if it is of the same run; else nothing is done."""
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            found = cls(**json.loads(path.read_text("utf-8")))
            if found.key == key:
                return found
        return cls(key, [], [0] * (classes + 1), 0.0)

    def save(self, path: pathlib.Path) -> None:
        """All or nothing."""
        writing.write_text(path, json.dumps(dataclasses.asdict(self)))


def segment_tiff(
    segmenter: Segmenter,
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    names: Names | None = None,
    windows: NativeWindows | None = None,
    *,
    unknown: Unknown = "none",
    first_index: int = 0,
    bands: Sequence[tiff_bands.Band] | None = None,
    rescale: pixel_range.RangeLike = None,
) -> dict[str, Any]:
    """Segments the TIFF `source` through windows into the GeoTIFF `destination`; returns what `summary` returns.

    Neither is ever whole in memory. The labels keep the georeferencing; pixels for which the source has no data have no
    label. Until it is complete, the result and its progress lie beside `destination` under names that begin with a dot;
    the same call continues them. `first_index` is the number of the first class in the file; `bands` and `rescale` as
    `open_tiff` has them.

    Raises ImportError without rasterio, ValueError or FileNotFoundError for what cannot be used, OSError if the result
    cannot be written.
    """
    source, destination, windows = pathlib.Path(source), pathlib.Path(destination), windows or NativeWindows()
    partial = destination.with_name(f".{destination.name}.partial.tif")
    notes = destination.with_name(f".{destination.name}.partial.json")
    with tiff_reading.open_tiff(source, bands, rescale) as raster:
        raster.read(0, 0, 1, 1)  # what cannot be shown is refused before anything is written
        words = segmenter.words(names, unknown)
        count, threshold = words.count, words.threshold
        shown, text = words.vocabulary.names[:count], segmenter.encode_prompts(words.vocabulary)
        by = segmenter.training_free or segmenter.method
        key = _key(source, windows, shown, threshold, text, first_index, bands, rescale, by, segmenter.engine.keep)
        progress = _Progress.load(notes, key, count)
        if not progress.tiles or not partial.is_file():
            progress = _Progress(progress.key, [], [0] * (count + 1), 0.0)
            geotiff.create_labels(partial, raster, shown, first_index)
        done = {(y, x) for y, x in progress.tiles}
        for tile in segmenter.tiles(raster, names, windows, unknown=unknown, done=done):
            labels = np.where(raster.has_data(tile.y, tile.x, *tile.labels.shape), tile.labels, np.int32(IGNORE))
            geotiff.write_part(partial, labels, tile.y, tile.x, shown, first_index)
            progress.tiles.append([tile.y, tile.x])
            progress.counts = (count_labels(labels, count) + progress.counts).tolist()
            progress.confidence += float(tile.confidence.sum(dtype=np.float64))
            progress.save(notes)
        size = raster.size
    with writing.Staged() as staged:  # the names appear after the labels, and not without them
        geotiff.write_categories(staged(geotiff.categories_beside(destination)), shown, first_index)
        partial.replace(destination)
    notes.unlink()
    areas = named_areas(np.array(progress.counts), shown)
    return summary(str(source), size, progress.confidence / (size[0] * size[1]), areas)


def overlay(
    source: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    longest: int = OVERLAY,
    *,
    bands: Sequence[tiff_bands.Band] | None = None,
    rescale: pixel_range.RangeLike = None,
) -> Image.Image:
    """The labels in colour over the image, both reduced to at most `longest` pixels a side, with a legend."""
    with tiff_reading.open_tiff(source, bands, rescale) as raster:
        image = overview(raster, longest)
    shown, names = geotiff.read_geotiff(labels, longest)
    colors = assign_colors(names)
    return Image.fromarray(legends.with_legend(overlays.overlay(image, shown, colors), shown, names, colors))


def _key(source: pathlib.Path, *parts: Any) -> str:
    """Hash of the file's size and time of change and of what its tiles depend on."""
    found = source.stat()
    digest = hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode())
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()
