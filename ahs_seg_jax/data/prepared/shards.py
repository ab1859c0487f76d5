"""Shards of a prepared benchmark: written in parallel, each whole or not at all, so that a killed run continues.

A shard counts as finished if its fact sheet is there, names the same input files, and gives its size in bytes. Both
files get their names only when they are complete.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module

from ahs_seg_jax.data.benchmarks.benchmark import Pair
from ahs_seg_jax.data.benchmarks.registry import benchmark
from ahs_seg_jax.data.prepared import layout
from ahs_seg_jax.data.prepared.example import make_example
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.storage import writing

SHARD_EXAMPLES = 128  # of a small split; what an interruption costs at most, for each process
MOST_SHARDS = 200  # a reader keeps every shard open


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split: file `index` of `total`."""

    name: str  # of the benchmark
    split: str
    index: int
    total: int
    pairs: tuple[Pair, ...]
    folder: pathlib.Path

    @property
    def path(self) -> pathlib.Path:
        """The file of the records."""
        return self.folder / layout.shard_name(self.name, self.split, self.index, self.total)

    @property
    def sheet(self) -> pathlib.Path:
        """The file of the facts."""
        return self.folder / "shards" / f"{self.path.name}.json"

    @functools.cached_property
    def inputs(self) -> str:
        """A hash of the names and sizes of the files that it is made of."""
        return hashlib.sha256("\n".join(pair.stamp() for pair in self.pairs).encode()).hexdigest()

    def facts(self) -> dict[str, Any] | None:
        """The fact sheet if the shard is finished, made of the same files, and every example could be read."""
        try:
            facts = json.loads(self.sheet.read_text("utf-8"))
            good = facts["bytes"] == self.path.stat().st_size and facts["inputs"] == self.inputs
            return facts if good and not facts["failed"] else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


def plan(name: str, split: str, pairs: Sequence[Pair], folder: pathlib.Path) -> list[Shard]:
    """The shards of a split: consecutive examples, sizes that differ by one at most."""
    total = max(1, min(MOST_SHARDS, -(-len(pairs) // SHARD_EXAMPLES)))
    bounds = [len(pairs) * k // total for k in range(total + 1)]
    return [Shard(name, split, k, total, tuple(pairs[bounds[k] : bounds[k + 1]]), folder) for k in range(total)]


def write_shard(shard: Shard) -> dict[str, Any]:
    """Reads, encodes and writes one shard; returns its facts. Unreadable examples are left out and named there."""
    known = benchmark(shard.name)
    features = layout.features(known)
    classes = np.zeros(known.classes, np.int64)
    values: collections.Counter[int] = collections.Counter()
    names, failed, strange, pixels, stored = [], [], [], 0, 0
    temporary = shard.path.with_name(f".{shard.path.name}.{os.getpid()}.part")  # no other process writes there
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for pair in shard.pairs:
        try:
            example = make_example(known, pair)
        except CorruptExample as error:
            failed.append({"name": pair.name, "cause": str(error)})
            continue
        record = features.serialize_example({"name": pair.name, "image": example.image, "label": example.label})
        writer.write(record)
        names.append(pair.name)
        classes += example.classes
        values += example.values
        pixels += example.pixels
        stored += len(record)
        if example.strange:
            strange.append({"name": pair.name, "values": list(example.strange)})
    writer.close()
    writing.put_in_place(temporary, shard.path)
    facts = {
        "inputs": shard.inputs,
        "bytes": shard.path.stat().st_size,
        "record_bytes": stored,
        "names": names,
        "classes": classes.tolist(),
        "values": {str(value): count for value, count in sorted(values.items())},
        "pixels": pixels,
        "failed": failed,
        "strange": strange,
    }
    writing.write_json(shard.sheet, facts, sort_keys=True)
    return facts


def write_shards(shards: Sequence[Shard], jobs: int) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """Writes shards in `jobs` processes (1: in this one) and yields each with its facts when it is finished.

    Closing the iterator stops after the shards in hand.
    """
    if jobs == 1 or len(shards) <= 1:
        for shard in shards:
            yield shard, write_shard(shard)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(shards)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        pending = {pool.submit(write_shard, shard): shard for shard in shards}
        for future in concurrent.futures.as_completed(pending):
            yield pending[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C reaches every process of a terminal: the first alone decides what to do. If it is killed, all end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def clean(folder: pathlib.Path, split: str, shards: Sequence[Shard]) -> None:
    """Removes what stopped runs and other plans left of a split."""
    kept = {path for shard in shards for path in (shard.path, shard.sheet)}
    for path in [
        *folder.glob(f"*-{split}.{layout.SUFFIX}-*"),
        *(folder / "shards").glob(f"*-{split}.{layout.SUFFIX}-*"),
    ]:
        if path not in kept:
            path.unlink(missing_ok=True)
