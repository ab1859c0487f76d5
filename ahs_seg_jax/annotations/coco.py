"""COCO: one file with images, categories and annotations, as `pycocotools.coco.COCO` opens it; and its panoptic format.

Categories count from 1 in the order of the names. A mask is a compressed run-length code. In the panoptic format every
image has a PNG of colours, in which a pixel's segment is red + 256 x green + 65536 x blue, 0 = none.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from ahs_seg_jax.annotations.runs import Runs, runs_of
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import IGNORE

TOUCHING = np.ones((3, 3))  # pixels that meet at a corner belong to one object


def masks(
    labels: np.ndarray,
    confidence: np.ndarray | None = None,
    *,
    image_id: int = 1,
    first_id: int = 1,
    objects: bool = False,
) -> list[dict[str, Any]]:
    """Annotations of labels int32 `[H, W]` (-1 = none): one for each class, or for each of its connected parts.

    `confidence` float32 `[H, W]` gives each its mean as `score`. Ids count from `first_id`.
    """
    parts, classes = _objects(labels) if objects else (labels, None)
    sums = None if confidence is None else np.bincount(parts.ravel() - IGNORE, confidence.ravel())
    found = []
    for annotation_id, runs in enumerate(runs_of(parts, "columns"), first_id):
        annotation = {"id": annotation_id, "image_id": image_id, **_annotation(runs, labels.shape, classes)}
        if sums is not None:
            annotation["score"] = round(float(sums[runs.value - IGNORE]) / annotation["area"], 4)
        found.append(annotation)
    return found


def _objects(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts of all classes, int32 `[H, W]` (-1 = none), and the class of each, int32 `[n]`."""
    from scipy import ndimage  # only here: it takes a fifth of a second to import

    parts = np.full(labels.shape, IGNORE, np.int32)
    classes: list[int] = []
    for index in np.unique(labels[labels != IGNORE]).tolist():
        numbers, count = ndimage.label(labels == index, TOUCHING)
        parts[numbers > 0] = numbers[numbers > 0] - 1 + len(classes)
        classes += [index] * count
    return parts, np.array(classes, np.int32)


def _annotation(runs: Runs, size: tuple[int, ...], classes: np.ndarray | None) -> dict[str, Any]:
    height, width = size
    code = coco.frPyObjects({"counts": runs.counts(height * width), "size": [height, width]}, height, width)
    return {
        "category_id": 1 + (runs.value if classes is None else int(classes[runs.value])),
        "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
        "area": int(runs.lengths.sum()),
        "bbox": coco.toBbox(code).tolist(),
        "iscrowd": 0,
    }


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """The names as categories, ids from 1."""
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)]


def image(image_id: int, file_name: str, size: tuple[int, int]) -> dict[str, Any]:
    """An image of `size` (h, w) as an entry of `images`."""
    return {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}


def write(
    path: str | os.PathLike[str],
    images: Sequence[dict[str, Any]],
    annotations: Iterable[Iterable[dict[str, Any]]],
    categories: Sequence[dict[str, Any]],
) -> None:
    """Writes the file. `annotations` are those of each of the `images` in turn; only one image's are in memory."""
    lines = lambda entries: ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    # A file's name that is no UTF-8 becomes an escape, which JSON reads back as that name.
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write('{"info": {"description": "ahs_seg_jax"}, "licenses": [],\n')
        file.write(f'"categories": [\n{lines(categories)}\n],\n"images": [\n{lines(images)}\n],\n"annotations": [')
        separator = "\n"
        for group in annotations:
            for annotation in group:
                file.write(separator + json.dumps(annotation, ensure_ascii=False))
                separator = ",\n"
        file.write("\n]}\n")


def numbered(parts: Iterable[Sequence[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """The annotations of images that were made one by one, with the ids that they have in one file."""
    first_id = 1
    for image_id, annotations in enumerate(parts, 1):
        yield [{**entry, "id": first_id + place, "image_id": image_id} for place, entry in enumerate(annotations)]
        first_id += len(annotations)


# ------------------------------------------------------------------------------------------------ panoptic


def write_segments(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """The PNG of labels int32 `[H, W]` (-1 = none): a class's pixels are one segment, whose id is its category's."""
    ids = labels.astype(np.int64) - IGNORE
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path, "PNG")


def segments_info(labels: np.ndarray) -> list[dict[str, Any]]:
    """The segments of that PNG."""
    found = [_annotation(runs, labels.shape, None) for runs in runs_of(labels, "columns")]
    return [
        {
            "id": entry["category_id"],
            "category_id": entry["category_id"],
            "area": entry["area"],
            "bbox": [int(value) for value in entry["bbox"]],
            "iscrowd": 0,
        }
        for entry in found
    ]


def panoptic_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """As `categories`, with a colour, all of them "stuff": a class has no separate objects."""
    colors = assign_colors(tuple(names)).tolist()
    pairs = zip(categories(names), colors, strict=True)
    return [{**category, "isthing": 0, "color": color} for category, color in pairs]
