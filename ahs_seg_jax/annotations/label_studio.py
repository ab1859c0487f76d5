"""Label Studio: tasks with brush masks as predictions, and the labelling interface that shows them.

A brush mask is the packed run-length code of thi.ng (`rle-pack`) over an image of four equal channels: 32 bits for the
number of values, 5 for the bits of a value less one, four times 4 for the bits of a length less one; then, for every
run, a bit 1, two bits that choose a length's bits, the length less one, and the value.
"""

import os
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ahs_seg_jax.annotations.runs import runs_of
from ahs_seg_jax.pictures.colors import assign_colors

LENGTH_BITS = np.array([3, 4, 8, 16])
LONGEST = 2**16  # values of one run
CHANNELS = 4


def encode(mask: np.ndarray) -> list[int]:
    """The bytes of a mask bool `[H, W]`, as Label Studio keeps them: integers 0..255."""
    values = (mask.ravel() * 255).astype(np.int64)
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = CHANNELS * np.diff(starts, append=len(values))
    pieces = -(-lengths // LONGEST)  # long runs are several
    chosen = np.repeat(values[starts], pieces)
    split = np.full(len(chosen), LONGEST)
    ends = np.cumsum(pieces) - 1
    split[ends] = lengths - (pieces - 1) * LONGEST
    return np.packbits(np.concatenate([_head(CHANNELS * len(values)), _run_bits(split, chosen)])).tolist()


def _head(count: int) -> np.ndarray:
    return np.concatenate([_bits(count, 32), _bits(8 - 1, 5), *(_bits(size - 1, 4) for size in LENGTH_BITS)])


def _bits(values: np.ndarray | int, width: int) -> np.ndarray:
    """The lowest `width` bits of numbers, the highest first, on a new last axis."""
    return (np.asarray(values)[..., None] >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8)


def _run_bits(lengths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The bits of runs of 1 to LONGEST values, as few as the sizes allow."""
    choice = np.searchsorted(2**LENGTH_BITS, lengths)
    width = LENGTH_BITS[choice]
    rows = np.concatenate(
        [np.ones((len(lengths), 1), np.uint8), _bits(choice, 2), _bits(lengths - 1, 16), _bits(values, 8)], axis=1
    )
    used = np.ones(rows.shape, bool)
    used[:, 3:19] = np.arange(16) >= 16 - width[:, None]
    return rows[used]


def task(
    image: str, labels: np.ndarray, names: Sequence[str], confidence: np.ndarray, version: str = "ahs_seg_jax"
) -> dict[str, Any]:
    """A task of one image: labels int32 `[H, W]` (-1 = none) and confidence float32 `[H, W]`; JSON values."""
    height, width = labels.shape
    result = [
        {
            "id": f"class{runs.value}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode(labels == runs.value), "brushlabels": [names[runs.value]]},
        }
        for runs in runs_of(labels, "rows")
    ]
    prediction = {"model_version": version, "score": round(float(confidence.mean()), 4), "result": result}
    return {"data": {"image": image}, "predictions": [prediction]}


def write_interface(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """The labelling interface (`Settings > Labeling Interface > Code`) with the names and their colours."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    brushes = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for name, color in zip(names, assign_colors(tuple(names)).tolist(), strict=True):
        ElementTree.SubElement(brushes, "Label", value=name, background="#{:02x}{:02x}{:02x}".format(*color))
    tree = ElementTree.ElementTree(view)
    ElementTree.indent(tree)
    tree.write(path, "utf-8")
