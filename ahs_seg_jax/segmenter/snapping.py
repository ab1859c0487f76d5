"""Masks that labels snap to: of a segmenter without names (SAM), superpixels, parcels of a cadastre; or files."""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ahs_seg_jax.annotations import polygons
from ahs_seg_jax.annotations.vector import Place
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.vocabulary import IGNORE

MasksLike: TypeAlias = np.ndarray | Sequence[Any] | str | os.PathLike[str]
SUFFIXES = (".png", ".npy", ".json", ".geojson")  # of files of masks


def snapped(labels: np.ndarray, masks: MasksLike, least: float, place: Place | None = None) -> np.ndarray:
    """Labels int32 `[H, W]` in which a mask has the class that most of its pixels have.

    That class must have the share `least` of all pixels of the mask; a mask without one stays as it is, as do pixels
    outside all masks. Where masks overlap, the smaller one counts. `masks` as `Segmentation.snap` takes them; `place`
    is where the image lies, for GeoJSON. Raises ValueError or TypeError for masks that cannot be used.
    """
    if not 0 < least <= 1:
        raise ValueError(f"least is {least}; it is a share of a mask's pixels, above 0 and at most 1")
    if isinstance(masks, str | os.PathLike):
        masks = read_masks(masks, labels.shape, place or Place())
    if isinstance(masks, np.ndarray) and masks.ndim == 2 and masks.dtype != bool:
        return _by_numbers(labels, masks, least)
    found, sizes = labels.copy(), []
    decided = []
    for mask in _each(masks, labels.shape):
        counts = np.bincount(labels[mask] - IGNORE, minlength=2)[1:]
        if counts.max() > 0 and counts.max() >= least * mask.sum():
            decided.append((mask, int(counts.argmax())))
            sizes.append(int(mask.sum()))
    for number in np.argsort(sizes, kind="stable")[::-1]:
        mask, index = decided[number]
        found[mask] = index
    return found


def _by_numbers(labels: np.ndarray, numbers: np.ndarray, least: float) -> np.ndarray:
    """As `snapped`, of masks that do not overlap: each pixel has the number of its mask, 0 = none."""
    _check_shape(numbers.shape, labels.shape)
    given, masks = np.unique(numbers, return_inverse=True)
    classes = int(labels.max()) + 2
    table = np.bincount(masks.ravel() * classes + labels.ravel() - IGNORE, minlength=len(given) * classes)
    table = table.reshape(len(given), classes)
    named = table[:, 1:] if classes > 1 else np.zeros((len(given), 1), np.int64)
    decided = (named.max(axis=1) >= least * table.sum(axis=1)) & (named.max(axis=1) > 0) & (given != 0)
    mask_of_pixel = masks.reshape(labels.shape)
    return np.where(decided[mask_of_pixel], named.argmax(axis=1).astype(np.int32)[mask_of_pixel], labels)


def _each(masks: Any, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Bool `[H, W]`, one at a time."""
    for number, mask in enumerate(masks):
        if isinstance(mask, dict):  # of SAM, or an annotation of COCO
            mask = mask.get("segmentation", mask)
        if isinstance(mask, dict):
            _check_shape(mask.get("size"), shape)  # before so many pixels are made
            mask = label_files.decode_mask(mask)
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            raise TypeError(
                f"mask {number} is a {type(mask).__name__}; pass bool arrays [H, W], run-length codes of COCO, SAM's "
                "dictionaries, or one array of integers with each pixel's mask"
            )
        _check_shape(mask.shape, shape)
        yield mask.astype(bool)


def _check_shape(found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, list | tuple) or tuple(found) != shape:
        stated = list(found) if isinstance(found, tuple) else found
        raise ValueError(f"a mask has shape {stated}, the labels {list(shape)}; both must agree")


# ------------------------------------------------------------------------------------------------ files


def read_masks(path: str | os.PathLike[str], shape: tuple[int, ...], place: Place) -> np.ndarray | list[Any]:
    """The masks of a file, by its suffix.

    .png: each pixel's mask, 0 = none; .npy: an array as `snapped` takes it; .json: a list of SAM's or COCO's masks, or
    a COCO file of one image; .geojson: polygons in the coordinates of `place`. Raises ValueError for others.
    """
    path = pathlib.Path(path)
    if path.suffix == ".png":
        with Image.open(path, formats=label_files.FORMATS) as file:
            _check_shape((file.height, file.width), shape)  # before the pixels are decoded
            if file.mode not in ("L", "P", "I", *label_files.SIXTEEN_BIT):
                raise ValueError(f"{path} has pixels of {file.mode}; save one number a pixel, its mask, 0 = none")
            return np.asarray(file)
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)  # so that a header cannot claim what is not there
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no file of masks that is known; give one of {', '.join(SUFFIXES)}")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if path.suffix == ".geojson":
        try:
            return _rasterized(path, found, shape, place)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no GeoJSON of polygons ({type(error).__name__}: {error})") from error
    entries = found["annotations"] if isinstance(found, dict) and "annotations" in found else found
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds no list of masks; give a list of SAM's or COCO's, or a COCO file")
    images = {entry.get("image_id") for entry in entries if isinstance(entry, dict)}
    if len(images) > 1:
        raise ValueError(f"{path} holds masks of {len(images)} images; give those of one image")
    return entries


def _rasterized(path: pathlib.Path, found: Any, shape: tuple[int, ...], place: Place) -> np.ndarray:
    """Each pixel's polygon, from 1; 0 = none. A pixel belongs to the polygon around its middle."""
    from rasterio.transform import Affine

    stated = (found.get("crs") or {}).get("properties", {}).get("name", "")
    here = None if place.crs is None else place.crs.to_epsg()
    if stated.rpartition(":")[2].isdigit() and here is not None and int(stated.rpartition(":")[2]) != here:
        raise ValueError(
            f"{path} is in {stated}, the image in EPSG:{here}; bring it there: ogr2ogr -t_srs EPSG:{here} out.geojson "
            f"{path}"
        )
    shapes = [(feature["geometry"], number) for number, feature in enumerate(found.get("features", []), 1)]
    if not shapes:
        return np.zeros(shape, np.int32)
    return polygons.features().rasterize(shapes, shape, transform=Affine(*place.transform), dtype="int32")
