"""COCO's images of 2017 with the masks of `stuffthingmaps`: COCO-Stuff (171 classes), and COCO-Object.

COCO-Object has the 80 things and, as the first class, background: all stuff and all that is unlabelled.
"""

import pathlib

import numpy as np

from ahs_seg_jax.data.benchmarks.benchmark import (
    BACKGROUND,
    Benchmark,
    Listing,
    by_stem,
    packaged_numbers,
    pair_up,
    require,
)
from ahs_seg_jax.pictures.label_files import read_values

DOWNLOADS = """coco-stuff/images/train2017/*.jpg       http://images.cocodataset.org/zips/train2017.zip
coco-stuff/images/val2017/*.jpg         http://images.cocodataset.org/zips/val2017.zip
coco-stuff/annotations/train2017/*.png  and val2017, both of stuffthingmaps_trainval2017.zip
                                        (github.com/nightrome/cocostuff)"""
VAL_DOWNLOADS = """coco-stuff/images/val2017/*.jpg         http://images.cocodataset.org/zips/val2017.zip
coco-stuff/annotations/val2017/*.png    of stuffthingmaps_trainval2017.zip (github.com/nightrome/cocostuff)"""
THINGS = 80  # the first classes of COCO-Stuff
UNLABELLED = 255


def find(root: pathlib.Path, split: str) -> Listing:
    """Images and masks of "train" or "val"."""
    folders = [f"coco-stuff/{kind}/{split}2017" for kind in ("images", "annotations")]
    require(root, folders)
    return pair_up(by_stem(root / folders[0], "*.jpg"), by_stem(root / folders[1], "*.png"))


def _values() -> np.ndarray:
    return packaged_numbers("coco_stuff_values.txt")


COCO_STUFF = Benchmark(
    name="coco_stuff",
    counts={"train": (118_287,), "val": (5_000,)},
    find=find,
    read_values=read_values,
    values=_values,
    unlabelled=frozenset({UNLABELLED}),
    downloads=DOWNLOADS,
    frequent=("person", "tree", "sky-other", "grass", "wall-concrete"),
    ignored_share=(0.0, 0.3),
)
COCO_OBJECT = Benchmark(
    name="coco_object",
    counts={"val": (5_000,)},
    find=find,
    read_values=read_values,
    values=lambda: np.append(UNLABELLED, _values()[:THINGS]),
    unlabelled=frozenset(_values()[THINGS:].tolist()),
    rest=0,
    downloads=VAL_DOWNLOADS,
    frequent=(BACKGROUND, "person"),
    ignored_share=(0.0, 0.0),
)
