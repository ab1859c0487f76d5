"""COCO-Stuff (171 classes): prepared as the other benchmarks are, or straight from the files that are downloaded.

coco-stuff/images/{train,val}2017/*.jpg
coco-stuff/annotations/{train,val}2017/*.png     a value of `benchmarks/coco_stuff_values.txt`, or unlabelled
"""

import logging
import os
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.data import folder
from ahs_seg_jax.data.benchmarks.benchmark import resolve_root
from ahs_seg_jax.data.benchmarks.coco_stuff import COCO_STUFF
from ahs_seg_jax.data.prepared import layout
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.pictures.label_files import read_values
from ahs_seg_jax.storage import paths

FOLDER = "coco-stuff"
HELP = f"""download and unpack, below the folder of the data:
{COCO_STUFF.downloads}"""
log = logging.getLogger(__name__)


class CocoStuffSource(folder.FolderSource):
    """One split ("train" or "val") of the downloads as a `source.Source`; `root` holds `coco-stuff/`.

    Values of the masks that belong to none of the 171 classes are unlabelled. Raises `folder.DataProblems` if a folder
    is missing or a file lacks its partner; `open_coco_stuff` looks inside the files as well.
    """

    def __init__(self, root: str | os.PathLike[str], split: str):
        super().__init__(pathlib.Path(root) / FOLDER, f"{split}2017", COCO_STUFF.vocabulary)

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        return COCO_STUFF.classes_of(folder.read_or_corrupt(read_values, path))

    def fingerprint(self) -> dict[str, Any]:
        """As a folder's."""
        return super().fingerprint() | {"source": "coco_stuff"}

    @property
    def doctor_problems(self) -> tuple[str, ...]:
        """A number of images other than the published one; only prepared data are examined further."""
        published = COCO_STUFF.counts.get(self.split.removesuffix("2017"), (len(self),))
        if len(self) in published:
            return ()
        return (f"{len(self):,} images of {self.split}, the published set has {published[0]:,}",)


def open_coco_stuff(root: str | os.PathLike[str], split: str) -> Source:
    """A split, prepared if it has been, otherwise from the downloads after a check.

    `root` "" means the environment variable AHS_SEG_DATA. Opening "train" of the downloads checks "val" as well.
    Raises ValueError that says what to download and where to put it if there is nothing, `folder.DataProblems` if
    there is something else than should be. A number of images other than the published one is a warning in the log.
    """
    try:
        base = resolve_root(root)
    except ValueError as error:
        raise ValueError(f"{error}. {HELP}") from None
    if split in layout.read_facts(layout.prepared_folder(base, COCO_STUFF.name)).get("splits", {}):
        return PreparedSource(base, COCO_STUFF.name, split)
    return _open_downloads(paths.on_disk(base, "the folder of downloads that are not prepared") / FOLDER, split)


def _open_downloads(base: pathlib.Path, split: str) -> CocoStuffSource:
    splits = folder.SPLITS if split == "train" else (split,)
    missing = [f"{kind}/{s}2017" for kind in ("images", "annotations") for s in splits]
    missing = [part for part in missing if not (base / part).is_dir()]
    if missing:
        raise ValueError(f"{base} lacks {', '.join(missing)}. {HELP}")
    if problems := folder.split_problems(base, [f"{s}2017" for s in splits], classes=None, check="sample"):
        raise folder.DataProblems(base, problems)
    source = CocoStuffSource(base.parent, split)
    for problem in source.doctor_problems:
        log.warning("%s holds %s", base, problem)
    return source
