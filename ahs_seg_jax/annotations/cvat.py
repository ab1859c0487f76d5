"""CVAT: the format "CVAT for images 1.1", one XML file with a mask for each class of each image."""

import os
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from ahs_seg_jax.annotations.runs import runs_of
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import IGNORE


def masks(labels: np.ndarray) -> list[dict[str, Any]]:
    """For each class of labels int32 `[H, W]` (-1 = none): its box, and its runs row by row in the box. JSON values."""
    from scipy import ndimage  # only here: it takes a fifth of a second to import

    found = []
    for number, box in enumerate(ndimage.find_objects(labels - IGNORE)):
        if box is None:
            continue
        rows, columns = box
        mask = (labels[box] == number).astype(np.int32)
        (runs,) = runs_of(mask, "rows", without=0)
        size = {"width": columns.stop - columns.start, "height": rows.stop - rows.start}
        place = {"left": columns.start, "top": rows.start}
        found.append({"class": number, "counts": runs.counts(mask.size), **place, **size})
    return found


def write(
    path: str | os.PathLike[str],
    names: Sequence[str],
    images: Iterable[tuple[str, tuple[int, int], list[dict[str, Any]]]],
) -> None:
    """Writes the file of images: file name, size (h, w), and what `masks` returned. One at a time is in memory."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(ElementTree.tostring(_task(names), "unicode") + "\n")
        for number, (name, (height, width), found) in enumerate(images):
            file.write(f'<image id="{number}" name={quoteattr(name)} width="{width}" height="{height}">\n')
            for mask in found:
                place = " ".join(f'{key}="{mask[key]}"' for key in ("left", "top", "width", "height"))
                runs = ", ".join(map(str, mask["counts"]))
                label = quoteattr(names[mask["class"]])
                file.write(f'<mask label={label} source="auto" occluded="0" rle="{runs}" {place} z_order="0"/>\n')
            file.write("</image>\n")
        file.write("</annotations>\n")


def _task(names: Sequence[str]) -> ElementTree.Element:
    meta = ElementTree.Element("meta")
    labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name, color in zip(names, assign_colors(tuple(names)).tolist(), strict=True):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*color)
        ElementTree.SubElement(label, "type").text = "mask"
        ElementTree.SubElement(label, "attributes")
    return meta
