"""YOLO segmentation as Ultralytics reads it: `images/`, `labels/` with one text file an image, and `data.yaml`.

A line is a polygon: the number of its class from 0, then x and y of its corners as shares of the image's width and
height. Holes are reached by cuts, since a line can hold only one outline.
"""

import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Sequence

import numpy as np

from ahs_seg_jax.annotations import polygons


def write_labels(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """The text file of labels int32 `[H, W]` (-1 = none). Raises ImportError without rasterio."""
    size = np.array(labels.shape[::-1], np.float64)
    with open(path, "w", encoding="ascii") as file:
        for polygon in polygons.polygons(labels):
            corners = polygons.one_ring(polygon.rings)[:-1] / size
            file.write(f"{polygon.class_index} " + " ".join(f"{value:.6g}" for value in corners.ravel()) + "\n")


def write_data(folder: pathlib.Path, names: Sequence[str]) -> None:
    """`data.yaml` in the folder. Training and validation name the same images: which are which is the user's choice."""
    lines = [f"  {index}: {json.dumps(name, ensure_ascii=False)}" for index, name in enumerate(names)]
    text = "\n".join(["# Divide the images before you train.", "train: images", "val: images", "names:", *lines])
    (folder / "data.yaml").write_text(text + "\n", "utf-8")


def link_image(folder: pathlib.Path, file_name: str, source: pathlib.Path) -> None:
    """The image under `images/`, as a link where the system has links, else as a copy."""
    place = folder / "images" / file_name
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(place)
