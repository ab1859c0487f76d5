"""How fast a model is on this machine: what a user of the Segmenter waits for, stage by stage.

The first call of a stage may compile and is reported apart. The time of the stage is the median of the repetitions that
follow; the spread is half the distance between their quartiles, as a share of the median. Images are noise, and new in
every repetition, because a segmenter remembers the features of an image that it has seen.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.inference import compiled
from ahs_seg_jax.segmenter import Segmenter


@dataclasses.dataclass(frozen=True)
class Timing:
    """One stage. `compilations` during the timed calls should be 0: anything else means that they waited for one."""

    stage: str
    first_seconds: float
    seconds: tuple[float, ...]
    compilations: int

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(high - low) / 2 / self.median

    def described(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self) | {"median_seconds": self.median, "spread": self.spread}


def measure(segmenter: Segmenter, classes: int, size: tuple[int, int], repetitions: int) -> Iterator[Timing]:
    """Times the stages one after the other, with this number of names and images of `size` (h, w).

    Words; image features alone; then by each protocol a new image (encode, aggregate, label), and the same image again
    with its features kept (aggregate, label).
    """
    words = lambda index: segmenter.as_vocabulary([f"thing {index} {k}" for k in range(classes)])
    picture = lambda index: np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
    known, same = words(0), picture(0)
    yield timed(f"{classes} words", lambda index: segmenter.encode_prompts(words(index + 1)), repetitions)
    yield timed("image features", lambda index: segmenter.embed_image(picture(index + 1)), repetitions)
    for number, protocol in enumerate(segmenter.protocols, 1):
        seed = 1_000_000 * number  # no picture twice
        new = lambda index, protocol=protocol, seed=seed: segmenter(picture(seed + index), known, protocol=protocol)
        yield timed(f"{protocol}: new image", new, repetitions)
        segmenter(same, known, protocol=protocol)
        again = lambda index, protocol=protocol: segmenter(same, known, protocol=protocol)
        yield timed(f"{protocol}: known image", again, repetitions)


def timed(stage: str, call: Callable[[int], Any], repetitions: int) -> Timing:
    """Calls once, then as often as asked; `call` takes the number of the call and returns host values."""
    started = time.perf_counter()
    call(0)
    first, seconds = time.perf_counter() - started, []
    before = sum(compiled.traces.values())
    for index in range(1, repetitions + 1):
        started = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - started)
    return Timing(stage, first, tuple(seconds), sum(compiled.traces.values()) - before)


def peak_memory() -> dict[str, int]:
    """Bytes: the most that this process held so far, and that each device did, where it is known."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found[f"{device.platform} {device.id}"] = stats["peak_bytes_in_use"]
    return found
