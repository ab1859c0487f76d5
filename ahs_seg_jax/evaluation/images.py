"""Which images an evaluation takes, and how they are read: ahead of the devices, broken files set apart."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ahs_seg_jax import threads
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample

Views = Callable[[np.ndarray], np.ndarray]  # an image uint8 [H, W, 3] -> its views float32 [v, s, s, 3]
QUICK_IMAGES = 100  # images of the quick mode


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One image, ready for the device."""

    index: int
    name: str
    views: np.ndarray | None  # float32 [v, s, s, 3]; None where the model makes its own
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # int32 [H, W]


@dataclasses.dataclass(frozen=True)
class Failed:
    """An image that cannot be scored, and why."""

    index: int
    name: str
    cause: str


def by_hash(source: Source) -> list[int]:
    """All indices in the order of the hashes of their names: arbitrary, but the same everywhere and every time."""
    return sorted(
        range(len(source)),
        key=lambda index: hashlib.sha256(source.name(index).encode("utf-8", "surrogateescape")).digest(),
    )


def chosen(source: Source, quick: bool = False, limit: int = 0) -> list[int]:
    """The images to score, in the order of the source: the first `limit` (0 = all), of all or of the quick subset."""
    indices = sorted(by_hash(source)[:QUICK_IMAGES]) if quick else list(range(len(source)))
    return indices[: limit or None]


def incomplete(source: Source, indices: Sequence[int], quick: bool) -> list[str]:
    """Why a score of these images is not the score of the source; empty if it is."""
    size = min(QUICK_IMAGES, len(source)) if quick else len(source)
    reasons = []
    if size < len(source):
        reasons.append(f"quick mode: {size} of {len(source)} images, chosen by the hashes of their names")
    if len(indices) < size:
        reasons.append(f"limited to the first {len(indices)} of {size} images")
    return reasons


def pictured(
    source: Source, indices: Sequence[int], worst: Sequence[int], best: Sequence[int], failed: set[str], count: int
) -> dict[int, str]:
    """Index -> what it is shown as ("random_1", "worst_1", "best_1"), at most `count` readable images.

    The worst and the best as given, the worst first; the others at random, but the same ones every time.
    """
    count = min(count, len(indices))
    worst = list(worst[:count])
    best = [index for index in best if index not in worst][: count - len(worst)]
    taken, within = {*worst, *best}, set(indices)
    others = (i for i in by_hash(source) if i in within - taken and source.name(i) not in failed)
    drawn = list(itertools.islice(others, count - len(taken)))
    kinds = {"random": drawn, "worst": worst, "best": best}
    return {index: f"{kind}_{place}" for kind, found in kinds.items() for place, index in enumerate(found, start=1)}


def read_batches(
    source: Source, indices: Sequence[int], rows: int, batches: int, views: Views | None, num_threads: int
) -> Iterator[list[Loaded | Failed]]:
    """The images, read ahead by threads, in `batches` lists of at most `rows`, in order.

    `views` makes an image's views, None for a model that makes its own. The last lists are empty if there are fewer
    images: every process takes part in each computation.
    """

    def load(index: int) -> Loaded | Failed:
        name = source.name(index)
        try:
            example = source[index]
        except CorruptExample as error:
            return Failed(index, name, str(error))
        image, label = example["image"], example["label"]
        if image.shape[:2] != label.shape:
            return Failed(index, name, f"the image has shape {list(image.shape)} but its labels {list(label.shape)}")
        return Loaded(index, name, views and views(image), image, label)

    with contextlib.closing(threads.in_order(load, indices, num_threads, ahead=rows + num_threads)) as found:
        for _ in range(batches):
            yield list(itertools.islice(found, rows))
