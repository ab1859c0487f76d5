"""Images to try, drawn by this program, with words for them."""

import dataclasses

import numpy as np

from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.scenes import ScenesSource

SIDE = 384  # pixels
SCENES = (25, 36, 21, 4, 6, 31)  # of split "val", in the order of the page; between them every pattern and background
OTHERS = 5  # names of things that an image does not show: the answer should be that they are not found


@dataclasses.dataclass(frozen=True)
class Example:
    """An image uint8 `[s, s, 3]` and names: first of what is on it, then of what is not."""

    image: np.ndarray
    names: tuple[str, ...]


def examples() -> list[Example]:
    """The same on every machine."""
    source = ScenesSource(ScenesConfig(size=SIDE, val_images=max(SCENES) + 1), "val")
    every = source.vocabulary.names
    found = []
    for index in SCENES:
        scene = source[index]
        shown = [every[label] for label in np.unique(scene["label"]).tolist()]
        others = [name for name in every if name not in shown]
        found.append(Example(scene["image"], (*shown, *others[:: len(others) // OTHERS][:OTHERS])))
    return found
