"""Batches for training: shuffled, augmented, read ahead by threads, and the same whoever computes them.

The order and the augmentation follow from (seed, position in the endless stream of examples) alone. So batch k is the
same on any number of threads and processes, and a run resumes exactly from the number of its next batch.
"""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from ahs_seg_jax.data.sources import CorruptExample, Source
from ahs_seg_jax.data.transforms import AugmentConfig, augment

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


class TrainBatches(Iterator[Batch]):
    """Endless batches of this process. Not for several threads at once."""

    def __init__(self, batches: Iterator[Batch], reader: _Reader, next_batch: int):
        self._batches = batches
        self._reader = reader
        self.next_batch = next_batch

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.next_batch += 1
        return batch

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
    process_index: int = 0,
    process_count: int = 1,
    on_corrupt: str = "stop",
) -> TrainBatches:
    """Endless training batches: `image` uint8 `[b, crop, crop, 3]`, `label` int32 `[b, crop, crop]` (-1 unlabelled),
    `index` int32 `[b]` (example in `source`).

    `batch_size` counts all processes; each gets b = batch_size / process_count of every batch, example j of batch k
    going to process j mod process_count. `start_batch` is the number of the first batch. Every epoch is shuffled anew;
    a batch may span epochs. `num_threads` threads read up to `prefetch` batches ahead (0 threads: none ahead).

    `on_corrupt` "stop": reading an unreadable file raises CorruptExample. "skip": the next readable example takes its
    place, the file is named once in the log and counted in `skipped`.

    Raises ValueError for an empty source, sizes that do not divide, or an unknown `on_corrupt`.
    """
    if len(source) == 0:
        raise ValueError("the training split holds no examples")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"the batch of {batch_size} examples cannot be split evenly over {process_count} processes")
    if on_corrupt not in ("stop", "skip"):
        raise ValueError(f"on_corrupt is {on_corrupt!r}; choose stop or skip")
    reader = _Reader(source, skip=on_corrupt == "skip")
    stream: Any = grain.MapDataset.source(reader).seed(seed).shuffle().repeat(None).random_map(_Augment(crop, augment))
    # Sliced after the random map, whose chance follows the position in the whole stream.
    mine = stream[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0)
    return TrainBatches(iter(mine[start_batch:].to_iter_dataset(options)), reader, start_batch)
