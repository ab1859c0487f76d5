"""PASCAL VOC 2012 with the augmented annotations: 20 classes, or the 20 and background.

Background is scored in two ways: `voc_21` has it as a class of its own, the first; in `voc_20b`, CAT-Seg's, it is
whatever is given one of 39 further names.
"""

import pathlib

import numpy as np

from ahs_seg_jax.data.benchmarks.benchmark import BACKGROUND, Benchmark, Listing, pair_up, require
from ahs_seg_jax.pictures.label_files import read_values

VOC2012 = "VOCdevkit/VOC2012"
IMAGES = f"{VOC2012}/JPEGImages"
LABELS = f"{VOC2012}/SegmentationClassAug"
VAL_LIST = f"{VOC2012}/ImageSets/Segmentation/val.txt"
OBJECTS = 20
DOWNLOADS = f"""{IMAGES}/*.jpg and {VAL_LIST}
  http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar
{LABELS}/*.png
  SegmentationClassAug.zip, as used by DeepLab (www.dropbox.com/s/oeu149j8qtbs1x0/SegmentationClassAug.zip)"""


def find(root: pathlib.Path, split: str) -> Listing:
    """Images of the validation list with their augmented annotations."""
    require(root, [IMAGES, LABELS, VAL_LIST])
    names = (root / VAL_LIST).read_text().split()
    listed = [{name: root / folder / f"{name}{suffix}" for name in names} for folder, suffix in _KINDS]
    images, labels = ({name: path for name, path in files.items() if path.is_file()} for files in listed)
    found = pair_up(images, labels)
    lost = len(names) - len(images.keys() | labels.keys())
    problem = (f"{lost} name(s) of {VAL_LIST} have neither image nor label",) if lost else ()
    return Listing(found.pairs, (*found.problems, *problem))


_KINDS = ((IMAGES, ".jpg"), (LABELS, ".png"))

VOC_20 = Benchmark(
    name="voc_20",
    counts={"val": (1_449,)},
    find=find,
    read_values=read_values,
    values=lambda: np.arange(1, OBJECTS + 1),
    unlabelled=frozenset({0, 255}),
    downloads=DOWNLOADS,
    frequent=("person", "cat", "dog", "bus", "train"),
    ignored_share=(0.5, 0.95),
)
VOC_20B = Benchmark(
    name="voc_20b",
    counts={"val": (1_449,)},
    find=find,
    read_values=read_values,
    values=lambda: np.append(np.arange(1, OBJECTS + 1), 0),
    unlabelled=frozenset({255}),
    downloads=DOWNLOADS,
    frequent=("background", "person", "cat", "dog", "bus", "train"),
    ignored_share=(0.0, 0.25),
    background=BACKGROUND,
    scored=OBJECTS,
)
VOC_21 = Benchmark(
    name="voc_21",
    counts={"val": (1_449,)},
    find=find,
    read_values=read_values,
    values=lambda: np.arange(OBJECTS + 1),
    unlabelled=frozenset({255}),
    downloads=DOWNLOADS,
    frequent=(BACKGROUND, "person", "cat", "dog", "bus", "train"),
    ignored_share=(0.0, 0.25),
)
