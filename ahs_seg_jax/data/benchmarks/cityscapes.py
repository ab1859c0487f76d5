"""Cityscapes: street scenes with fine annotations, in the 19 classes that are scored (its train ids)."""

import pathlib

import numpy as np

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Listing, pair_up, require
from ahs_seg_jax.pictures.label_files import read_values

FOLDER = "cityscapes"
IMAGES, LABELS = "leftImg8bit", "gtFine"
DOWNLOADS = f"""{FOLDER}/{IMAGES}/{{train,val}}/CITY/*_leftImg8bit.png     leftImg8bit_trainvaltest.zip
{FOLDER}/{LABELS}/{{train,val}}/CITY/*_gtFine_labelIds.png       gtFine_trainvaltest.zip
  both after registration at https://www.cityscapes-dataset.com
  (a root that holds {IMAGES}/ and {LABELS}/ itself, without {FOLDER}/, will do)"""
# The ids whose train ids are 0..18, and those that are not scored: the data set's own table. Its id -1, licence plate,
# is never drawn: such pixels have the id of the vehicle.
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NOT_SCORED = frozenset(range(34)) - frozenset(SCORED)


def find(root: pathlib.Path, split: str) -> Listing:
    """Images of "train" or "val" with their fine labels, of every city; the root is the data set's own or above it."""
    own = root if (root / IMAGES).is_dir() and (root / LABELS).is_dir() else root / FOLDER
    require(root, [f"{(own / kind / split).relative_to(root).as_posix()}" for kind in (IMAGES, LABELS)])
    images, labels = (
        {
            f"{path.parent.name}/{path.name.removesuffix(ending)}": path
            for path in (own / kind / split).glob(f"*/*{ending}")
            if not path.name.startswith(".")
        }
        for kind, ending in ((IMAGES, "_leftImg8bit.png"), (LABELS, "_gtFine_labelIds.png"))
    )
    return pair_up(images, labels)


CITYSCAPES = Benchmark(
    name="cityscapes",
    counts={"train": (2_975,), "val": (500,)},
    find=find,
    read_values=read_values,
    values=lambda: np.array(SCORED),
    unlabelled=NOT_SCORED,
    downloads=DOWNLOADS,
    frequent=("road", "building", "vegetation", "car", "sidewalk", "sky"),
    ignored_share=(0.02, 0.3),
)
