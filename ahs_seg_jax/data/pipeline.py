"""Batches for training: shuffled, augmented, read ahead by threads, and the same whoever computes them.

The order and the augmentation follow from (seed, position in the endless stream of examples) alone. So batch k is the
same on any number of threads and processes, and a run resumes exactly from the number of steps that it has done.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from ahs_seg_jax.config import AugmentConfig
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.data.transforms import augment
from ahs_seg_jax.errors import CorruptExample

Batch = dict[str, np.ndarray]
log = logging.getLogger(__name__)


class _Reader:
    """Reads examples for Grain. With `skip`, the next readable example stands in for a corrupt one."""

    def __init__(self, source: Source, skip: bool):
        self._source = source
        self._skip = skip
        self._lock = threading.Lock()
        self.skipped: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Batch:
        n = len(self._source)
        for candidate in range(int(index), int(index) + n):
            try:
                return {**self._source[candidate % n], "index": np.asarray(candidate % n, np.int32)}
            except CorruptExample as error:
                if not self._skip:
                    raise
                self._count(candidate % n, error)
        raise CorruptExample(f"none of the {n} examples can be read; the first causes were logged")

    def _count(self, index: int, error: CorruptExample) -> None:
        name = self._source.name(index)
        with self._lock:
            first = name not in self.skipped
            self.skipped[name] = self.skipped.get(name, 0) + 1
        if first:
            log.warning("skipping a corrupt example from now on: %s", error)


class _Augment(grain.transforms.RandomMap):
    def __init__(self, crop: int, config: AugmentConfig):
        self._crop = crop
        self._config = config

    def random_map(self, element: Batch, rng: np.random.Generator) -> Batch:
        image, label = augment(element["image"], element["label"], self._crop, self._config, rng)
        return {"image": image, "label": label, "index": element["index"]}


class _Rows:
    """Of an endless stream cut into batches, the examples that stand in some rows of their batch."""

    def __init__(self, stream: Any, batch_size: int, rows: range):
        self._stream = stream
        self._batch_size = batch_size
        self._rows = rows

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        batch, row = divmod(int(index), len(self._rows))
        return self._stream[batch * self._batch_size + self._rows[row]]


class TrainBatches(Iterator[Batch]):
    """Endless batches of this process. Not for several threads at once."""

    def __init__(self, batches: Iterator[Batch], reader: _Reader):
        self._batches = batches
        self._reader = reader

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    @property
    def skipped(self) -> dict[str, int]:
        """Corrupt examples met so far by name, and how often each was replaced (examples read ahead included)."""
        return dict(self._reader.skipped)


def train_batches(
    source: Source,
    *,
    crop: int,
    augment: AugmentConfig,
    batch_size: int,
    seed: int,
    start_batch: int = 0,
    num_threads: int = 2,
    prefetch: int = 4,
    rows: range | None = None,
    on_corrupt: str = "stop",
) -> TrainBatches:
    """Endless training batches: `image` uint8 `[b, crop, crop, 3]`, `label` int32 `[b, crop, crop]` (-1 unlabelled),
    `index` int32 `[b]` (example in `source`).

    `batch_size` counts all processes; this one reads `rows` of every batch (None: all of them), b = len(rows).
    `start_batch` is the number of the first batch. Every epoch is shuffled anew; a batch may span epochs. `num_threads`
    threads read up to `prefetch` batches ahead (0 threads: none ahead).

    `on_corrupt` "stop": reading an unreadable file raises CorruptExample. "skip": the next readable example takes its
    place, the file is named once in the log and counted in `skipped`.

    Raises ValueError for an empty source, rows outside the batch, or an unknown `on_corrupt`.
    """
    if len(source) == 0:
        raise ValueError("the training split holds no examples")
    rows = range(batch_size) if rows is None else rows
    if not rows or rows[0] < 0 or rows[-1] >= batch_size:
        raise ValueError(f"rows {list(rows)} are not in a batch of {batch_size} examples")
    if on_corrupt not in ("stop", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; choose stop or skip")
    reader = _Reader(source, skip=on_corrupt == "skip")
    stream: Any = grain.MapDataset.source(reader).seed(seed).shuffle().repeat(None).random_map(_Augment(crop, augment))
    # Selected after the random map, whose chance follows the position in the whole stream.
    mine = stream if len(rows) == batch_size else grain.MapDataset.source(_Rows(stream, batch_size, rows))
    mine = mine.batch(len(rows), drop_remainder=True)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0)
    return TrainBatches(iter(mine[start_batch:].to_iter_dataset(options)), reader)
