"""COCO-Stuff (171 classes) as it is downloaded: COCO's images of 2017 and the index masks of `stuffthingmaps`.

coco-stuff/images/{train,val}2017/*.jpg
coco-stuff/annotations/{train,val}2017/*.png     a value of `vocabularies/coco_stuff_values.txt`, or unlabelled
"""

import importlib.resources
import logging
import os
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.data import folder
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary

FOLDER = "coco-stuff"
ROOT_VARIABLE = "AHS_SEG_DATA"
PUBLISHED_IMAGES = {"train": 118_287, "val": 5_000}
HELP = f"""COCO-Stuff is read from <root>/{FOLDER}, <root> being data.root or the environment variable {ROOT_VARIABLE}:
  {FOLDER}/images/train2017/*.jpg       http://images.cocodataset.org/zips/train2017.zip
  {FOLDER}/images/val2017/*.jpg         http://images.cocodataset.org/zips/val2017.zip
  {FOLDER}/annotations/train2017/*.png  and val2017, both of stuffthingmaps_trainval2017.zip (github.com/nightrome/cocostuff)
download and unpack these, then name <root>"""
log = logging.getLogger(__name__)


class CocoStuffSource(folder.FolderSource):
    """One split ("train" or "val") as a `sources.Source`; `root` holds `coco-stuff/`.

    Values of the masks that belong to none of the 171 classes are unlabelled. Raises `folder.DataProblems` if a folder
    is missing or a file lacks its partner; `open_coco_stuff` looks inside the files as well.
    """

    def __init__(self, root: str | os.PathLike[str], split: str):
        super().__init__(pathlib.Path(root) / FOLDER, f"{split}2017", Vocabulary.named("coco_stuff"))
        self._class_of = value_table()

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        # -1, which decoding makes of 255, and whatever lies beyond 8 bits, take the table's last entry: unlabelled.
        return self._class_of[np.minimum(super()._read_label(path), 255)]

    def fingerprint(self) -> dict[str, Any]:
        """As a folder's."""
        return super().fingerprint() | {"source": "coco_stuff"}


def value_table() -> np.ndarray:
    """`int32 [256]`: the class index of each value of a mask, -1 for those of no class."""
    text = importlib.resources.files("ahs_seg_jax.data").joinpath("vocabularies", "coco_stuff_values.txt").read_text()
    values = np.array(text.split(), np.int32)
    table = np.full(256, IGNORE, np.int32)
    table[values] = np.arange(len(values))
    return table


def open_coco_stuff(root: str | os.PathLike[str], split: str) -> CocoStuffSource:
    """A checked split; `root` "" means the environment variable AHS_SEG_DATA. Opening "train" checks "val" as well.

    Raises ValueError that says what to download and where to put it if there is nothing, `folder.DataProblems` if
    there is something else than should be. A number of images other than the published one is a warning in the log.
    """
    root = root or os.environ.get(ROOT_VARIABLE, "")
    if not str(root):
        raise ValueError(f"data.root is empty, and so is {ROOT_VARIABLE}. {HELP}")
    base = pathlib.Path(root) / FOLDER
    splits = folder.SPLITS if split == "train" else (split,)
    missing = [f"{kind}/{s}2017" for kind in ("images", "annotations") for s in splits]
    missing = [part for part in missing if not (base / part).is_dir()]
    if missing:
        raise ValueError(f"{base} lacks {', '.join(missing)}. {HELP}")
    if problems := folder.split_problems(base, [f"{s}2017" for s in splits], classes=None, check="sample"):
        raise folder.DataProblems(base, problems)
    source = CocoStuffSource(root, split)
    if len(source) != PUBLISHED_IMAGES[split]:
        log.warning(
            "%s holds %d images of %s2017; the published set has %d", base, len(source), split, PUBLISHED_IMAGES[split]
        )
    return source
