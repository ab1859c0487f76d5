"""The few sizes to which classes, views and outputs are padded, so that few programs are compiled."""

import numpy as np

from ahs_seg_jax import threads

CLASS_BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512, 768, 1024)
VIEW_BUCKETS = (1, 2, 4, 5, 8, 10, 16)  # views computed together
OUTPUT_BUCKETS = (128, 256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096)  # pixels
MOST_AT_ONCE = 32  # passes beside each other; measured on 2 cores, where 2 are best (`ahs-seg benchmark --scaling`)
SMALL = 8  # up to this many, a class chunk may be an odd number


def bucket(count: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds `count`; above the largest one, the next multiple of a quarter of it."""
    fitting = [size for size in buckets if size >= count]
    return fitting[0] if fitting else -(-count // (buckets[-1] // 4)) * (buckets[-1] // 4)


def passes_at_once(platform: str) -> int:
    """How many passes run beside each other: on a CPU one for each core, up to MOST_AT_ONCE; elsewhere one.

    On a CPU one pass does not keep all cores busy.
    """
    return min(threads.cores(), MOST_AT_ONCE) if platform == "cpu" else 1


def chunk_size(classes: int, chunk: int, together: int = 1) -> int:
    """Classes of one pass: a bucket that holds all of them or, if that is more than `chunk`, about equal parts of them.

    The number of parts is a multiple of `together`, so that no core is left idle at the end. Parts of more than SMALL
    classes are even numbers, so that there are few sizes to compile for.
    """
    whole = bucket(classes, CLASS_BUCKETS)
    if whole <= chunk:
        return whole
    rounds = -(-classes // (chunk * together))
    part = -(-classes // (rounds * together))
    return part if part <= SMALL else min(chunk, part + part % 2)


def padded(array: np.ndarray, size: int) -> np.ndarray:
    """Filled up to `size` rows with copies of the last one."""
    missing = size - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
