"""Cityscapes' `labelIds`: the numbers of its official labels as a PNG, which its evaluation script reads."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ahs_seg_jax.vocabulary import IGNORE

# Source: cityscapesscripts.helpers.labels. "license plate", -1 there, has no number that 8 bits could hold.
IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "road": 7,
    "sidewalk": 8,
    "parking": 9,
    "rail track": 10,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "pole": 17,
    "polegroup": 18,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def ids(names: Sequence[str]) -> np.ndarray:
    """uint8 `[t]`: the official number of each name, or of one of its synonyms.

    Raises ValueError that lists the names that Cityscapes does not have.
    """
    found = [next((IDS[word] for word in name.casefold().split(", ") if word in IDS), None) for name in names]
    if missing := [name for name, number in zip(names, found, strict=True) if number is None]:
        raise ValueError(
            f"Cityscapes has no label {', '.join(map(repr, missing))}, so there is no number for it; name its labels "
            f"(synonyms after ', ' are free): {', '.join(IDS)}"
        )
    return np.array(found, np.uint8)


def write(path: str | os.PathLike[str], labels: np.ndarray, names: Sequence[str]) -> None:
    """The numbers of labels int32 `[H, W]`; 0 ("unlabeled") where they are -1. Raises ValueError as `ids`."""
    numbers = np.append(ids(names), np.uint8(0))[labels]  # -1 takes the last
    assert IGNORE == -1
    Image.fromarray(numbers).save(path, "PNG")
