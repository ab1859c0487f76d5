"""ADE20K: the scene parsing benchmark of 150 classes, and the full data set of 2021 with 847.

Published scores of the 847 classes are of photographs that their preparation wrote again: `ade20k_847_jpeg` are those
pixels, `ade20k_847` the data set's own.
"""

import dataclasses
import pathlib
import pickle
from typing import Any

import numpy as np
from PIL import Image

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Listing, by_stem, packaged_numbers, pair_up, require, some
from ahs_seg_jax.errors import NotAnIndexMask
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.pictures.label_files import read_values

CHALLENGE = "ADEChallengeData2016"
FULL = "ADE20K_2021_17_01"
VALIDATION = f"{FULL}/images/ADE/validation"
INDEX = f"{FULL}/index_ade20k.pkl"
FULL_IMAGES = 2000
PUBLISHED_QUALITY = 75  # Pillow's default, with which the published preparation (MaskFormer's) saves photographs
DOWNLOADS_150 = f"""{CHALLENGE}/images/validation/*.jpg and annotations/validation/*.png
  http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"""
DOWNLOADS_847 = f"""{VALIDATION}/**/*.jpg, with *_seg.png beside each
  {FULL}.zip of the full data set, after registration at https://ade20k.csail.mit.edu"""


def find_150(root: pathlib.Path, split: str) -> Listing:
    """Images and annotations of "val"."""
    folders = [f"{CHALLENGE}/{kind}/validation" for kind in ("images", "annotations")]
    require(root, folders)
    return pair_up(by_stem(root / folders[0], "*.jpg"), by_stem(root / folders[1], "*.png"))


def find_847(root: pathlib.Path, split: str) -> Listing:
    """Photographs and the `_seg.png` beside them. If some are missing, the index of the data set says which."""
    require(root, [VALIDATION])
    folder = root / VALIDATION
    labels = by_stem(folder, "**/*_seg.png")
    found = pair_up(by_stem(folder, "**/*.jpg"), {stem.removesuffix("_seg"): path for stem, path in labels.items()})
    if len(found.pairs) >= FULL_IMAGES or not (root / INDEX).is_file():
        return found
    known = {pair.name for pair in found.pairs}
    prefix = f"{VALIDATION}/"
    indexed = [path.removesuffix(".jpg") for path in indexed_files(root / INDEX) if path.startswith(prefix)]
    missing = sorted({path.removeprefix(prefix) for path in indexed} - known)
    if not missing:
        return found
    problem = f"{len(missing)} images of {INDEX} are not there with their labels: {some(missing)}"
    return Listing(found.pairs, (*found.problems, problem))


def object_ids(path: pathlib.Path) -> np.ndarray:
    """Object ids `int32 [h, w]` of a `_seg.png`: red tens are the hundreds of the id in base 256, green the rest."""
    with Image.open(path, formats=label_files.FORMATS) as file:
        if file.mode not in ("RGB", "RGBA"):
            raise NotAnIndexMask(f"its pixels are {file.mode}, not red and green parts of an object id")
        pixels = np.asarray(file)
    return (pixels[..., 0] // 10).astype(np.int32) * 256 + pixels[..., 1]


class _Inert:
    """Stands in for whatever a pickle wants to build: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Lists of what is not read."""

    def extend(self, items: Any) -> None:
        """Lists of what is not read."""


class _InertUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries and text; never imports or calls what a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        return _Inert


def indexed_files(path: pathlib.Path) -> list[str]:
    """Paths, below the folder of the downloads, of the images that `index_ade20k.pkl` lists.

    Nothing of the pickle is executed. Empty if the file is not a dictionary with lists "folder" and "filename".
    """
    try:
        with path.open("rb") as file:
            index = _InertUnpickler(file).load()
    except Exception:  # a broken pickle raises what it likes, and this list is only a help
        return []
    folders, names = (index.get(key) for key in ("folder", "filename")) if isinstance(index, dict) else (None, None)
    if not (isinstance(folders, list) and isinstance(names, list)):
        return []
    return [f"{folder}/{name}".replace("\\", "/") for folder, name in zip(folders, names, strict=False)]


ADE20K_150 = Benchmark(
    name="ade20k_150",
    counts={"val": (2_000,)},
    find=find_150,
    read_values=read_values,
    values=lambda: np.arange(1, 151),
    unlabelled=frozenset({0}),
    downloads=DOWNLOADS_150,
    frequent=("wall", "building", "sky", "floor", "tree"),
    ignored_share=(0.005, 0.3),
    shares=lambda: packaged_numbers("ade20k_150_shares.txt", np.float64),
)
ADE20K_847 = Benchmark(
    name="ade20k_847",
    counts={"val": (FULL_IMAGES,)},
    find=find_847,
    read_values=object_ids,
    values=lambda: packaged_numbers("ade20k_847_values.txt"),
    unlabelled=None,
    downloads=DOWNLOADS_847,
    frequent=("wall", "building", "sky", "floor", "tree"),
    ignored_share=(0.0, 0.4),
    short_edge=512,
)
ADE20K_847_JPEG = dataclasses.replace(
    ADE20K_847, name="ade20k_847_jpeg", same_as="ade20k_847", jpeg_quality=PUBLISHED_QUALITY
)
