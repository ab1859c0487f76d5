"""PASCAL-Context: photographs of PASCAL VOC 2010 with every pixel labelled.

In 59 classes, in 60 (the 59, and as the first one background: every other label and no label), or in all 459.
"""

import collections
import json
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Listing, Pair, packaged_numbers, pair_up, require, some
from ahs_seg_jax.pictures import label_files

VOC2010 = "VOCdevkit/VOC2010"
IMAGES = f"{VOC2010}/JPEGImages"
SEGMENTS = f"{VOC2010}/trainval_merged.json"
MATRICES = f"{VOC2010}/trainval"
VAL_LISTS = (f"{VOC2010}/ImageSets/SegmentationContext/val.txt", f"{VOC2010}/ImageSets/Main/val.txt")
COUNTS = {"val": (5_105, 5_104)}
PHOTOGRAPHS = f"""{IMAGES}/*.jpg
  http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar"""
DOWNLOADS_59 = f"""{PHOTOGRAPHS}
{SEGMENTS}
  https://codalabuser.blob.core.windows.net/public/trainval_merged.json"""
DOWNLOADS_459 = f"""{PHOTOGRAPHS} (it holds ImageSets/Main/val.txt as well)
{MATRICES}/*.mat
  https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"""


def find_59(root: pathlib.Path, split: str) -> Listing:
    """Images of phase "val" in the JSON file, each with its segments in the order of the file."""
    require(root, [IMAGES, SEGMENTS])
    path = root / SEGMENTS
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
        images = {image["image_id"]: image for image in content["images"] if image["phase"] == split}
        segments = collections.defaultdict(list)
        for image_id, *segment in content["annos_segmentation"]:
            if image_id in images:
                segments[image_id].append(tuple(segment))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the annotation file of PASCAL in Detail ({type(error).__name__}: {error}); "
            "an interrupted download looks like this: download it again"
        ) from error
    pairs, absent, bare = [], [], []
    for image_id, image in sorted(images.items(), key=lambda item: item[1]["file_name"]):
        photograph = root / IMAGES / image["file_name"]
        if not photograph.is_file():
            absent.append(photograph.name)
        elif image_id not in segments:
            bare.append(photograph.name)
        else:
            label = (image["height"], image["width"], tuple(segments[image_id]))
            pairs.append(Pair(photograph.stem, photograph, label))
    problems = [f"{len(absent)} label(s) without image in {IMAGES}: {some(absent)}"] if absent else []
    problems += [f"{len(bare)} image(s) without label in {SEGMENTS}: {some(bare)}"] if bare else []
    return Listing(tuple(pairs), tuple(problems))


def _compact(item: dict[str, Any]) -> Any:
    """Segments as short tuples while the file is read, and nothing of what nobody reads: the file is large."""
    if {"image_id", "category_id", "segmentation"} <= item.keys():
        return (item["image_id"], item["category_id"], item["segmentation"])
    return item


def painted(label: tuple[int, int, tuple[tuple[int, Any], ...]]) -> np.ndarray:
    """Category ids `int32 [h, w]` of an image's segments, later ones over earlier ones; 0 where there is none."""
    height, width, segments = label
    values = np.zeros((height, width), np.int32)
    for category, runs in segments:
        if tuple(runs["size"]) != (height, width):
            raise ValueError(f"a segment of {runs['size']} in an image of {[height, width]} (height, width)")
        values[label_files.decode_mask(runs)] = category
    return values


def find_459(root: pathlib.Path, split: str) -> Listing:
    """Photographs of VOC 2010's validation list that have a matrix."""
    require(root, [IMAGES, MATRICES])
    lists = [root / path for path in VAL_LISTS if (root / path).is_file()]
    if not lists:
        require(root, VAL_LISTS[-1:])
    names = lists[0].read_text().split()
    photographs = {name: root / IMAGES / f"{name}.jpg" for name in names}
    matrices = {name: root / MATRICES / f"{name}.mat" for name in names}
    return pair_up(
        {name: path for name, path in photographs.items() if path.is_file()},
        {name: path for name, path in matrices.items() if path.is_file()},
    )


def label_map(path: pathlib.Path) -> np.ndarray:
    """`LabelMap` of a .mat file: 1..459 `uint16 [h, w]`, 0 where unlabelled.

    Raises ValueError if the file holds no such matrix.
    """
    import scipy.io  # takes a second to import, and only this function needs it

    content = scipy.io.loadmat(path, variable_names=["LabelMap"])
    if "LabelMap" not in content or content["LabelMap"].ndim != 2:
        raise ValueError("it holds no matrix LabelMap")
    return content["LabelMap"]


PASCAL_CONTEXT_59 = Benchmark(
    name="pascal_context_59",
    counts=COUNTS,
    find=find_59,
    read_values=painted,
    values=lambda: packaged_numbers("pascal_context_59_values.txt"),
    unlabelled=None,
    downloads=DOWNLOADS_59,
    frequent=("sky", "grass", "person", "tree", "wall", "ground", "building"),
    ignored_share=(0.0, 0.5),
)
PASCAL_CONTEXT_60 = Benchmark(
    name="pascal_context_60",
    counts=COUNTS,
    find=find_59,
    read_values=painted,
    values=lambda: np.append(0, packaged_numbers("pascal_context_59_values.txt")),
    unlabelled=None,
    rest=0,
    downloads=DOWNLOADS_59,
    frequent=("sky", "grass", "person", "tree", "wall", "ground", "building"),
    ignored_share=(0.0, 0.0),
)
PASCAL_CONTEXT_459 = Benchmark(
    name="pascal_context_459",
    counts=COUNTS,
    find=find_459,
    read_values=label_map,
    values=lambda: np.arange(1, 460),
    unlabelled=frozenset({0}),
    downloads=DOWNLOADS_459,
    frequent=("sky", "grass", "person", "tree", "wall", "ground", "building"),
    ignored_share=(0.0, 0.3),
)
