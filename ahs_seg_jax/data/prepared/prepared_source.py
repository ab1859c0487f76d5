"""A prepared benchmark as a `source.Source`: random access to records, decoded without TensorFlow."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import os
import threading
from typing import Any

import numpy as np
from array_record.python import array_record_data_source

from ahs_seg_jax.data import images
from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, there
from ahs_seg_jax.data.benchmarks.registry import benchmark
from ahs_seg_jax.data.prepared import layout
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.storage import paths

SAMPLE = 256  # examples whose contents tell one data set from another


@dataclasses.dataclass(frozen=True)
class _File:
    """What ArrayRecord wants to know about a file, so that it need not open all of them to count records."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class PreparedSource:
    """One split of a prepared benchmark. Picklable; any thread may read any example.

    `merge_predictions` is `int32 [t]`, the scored class of each predicted one, if fewer classes are scored than named
    (None otherwise); `scored_names` names the scored ones. `doctor_problems` lists why the data should not be trusted.

    Raises ValueError if the folder holds no finished preparation of that split: the message says what to do.
    """

    def __init__(self, root: str | os.PathLike[str], name: str, split: str):
        self.benchmark_name = name
        self.split = split
        self.root = paths.location(root)
        self.folder = layout.prepared_folder(root, name)
        self.facts = self._facts()
        self.vocabulary = self._benchmark.vocabulary
        self._lock = threading.Lock()
        self._records: Any = None

    @property
    def _benchmark(self) -> Benchmark:
        return benchmark(self.benchmark_name)

    def _facts(self) -> dict[str, Any]:
        known, facts = self._benchmark, layout.read_facts(self.folder)
        splits = facts.get("splits", {})
        if self.split in splits:
            if facts["vocabulary_sha256"] != known.vocabulary.sha256:
                raise ValueError(
                    f"{self.folder} was prepared for other class names ({len(splits[self.split]['classes'])} classes) "
                    f"than those of this program: {layout.command(known.name, self.root)} --again"
                )
            return splits[self.split]
        if self.split not in known.counts:
            raise ValueError(f"{known.name} has no split {self.split!r}; choose one of {', '.join(known.counts)}")
        if self.folder.is_dir():
            state = f"it holds {', '.join(splits)}" if splits else "it was stopped before its end"
            raise ValueError(
                f"the preparation {self.folder} lacks {self.split}: {state}; this command continues it: "
                f"{layout.command(known.name, self.root)}"
            )
        raise ValueError(
            f"{known.name} is not prepared: there is no {self.folder}; {there(self.root)}\n"
            f"to prepare it, download and unpack below {self.root}:\n{known.downloads}\n"
            f"then run: {layout.command(known.name, self.root)}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "name": self.benchmark_name, "split": self.split, "vocabulary": self.vocabulary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["name"], state["split"])  # type: ignore[misc]
        self.vocabulary = state["vocabulary"]

    def __len__(self) -> int:
        return self.facts["images"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        try:
            record = self._record(index)
            image = images.read_image(io.BytesIO(record["image"]))
            label = label_files.read_mask(io.BytesIO(record["label"]))
        # Decoders raise what they like for broken bytes (struct.error, SyntaxError, zlib.error, ...).
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise CorruptExample(f"{self.folder}: {self.name(index)} cannot be read: {cause}") from error
        if image.shape[:2] != label.shape or label.max(initial=-1) >= self._benchmark.classes:
            raise CorruptExample(f"{self.folder}: {self.name(index)} has labels that do not fit; prepare it again")
        return {"image": image, "label": label}

    def _record(self, index: int) -> dict[str, Any]:
        """The example's name, photograph and labels, the latter two as bytes."""
        return self._features.deserialize_example_np(self._reader()[index], decoders=_undecoded())

    @functools.cached_property
    def _features(self) -> Any:
        return layout.features(self._benchmark)

    def _reader(self) -> Any:
        """Random access to the records' bytes; files are opened when they are first needed."""
        with self._lock:
            if self._records is None:
                lengths = self.facts["shard_lengths"]
                names = [
                    layout.shard_name(self.benchmark_name, self.split, k, len(lengths)) for k in range(len(lengths))
                ]
                files = [
                    _File(str(self.folder / name), skip=0, take=length, examples_in_shard=length)
                    for name, length in zip(names, lengths, strict=True)
                    if length
                ]
                self._records = array_record_data_source.ArrayRecordDataSource(files)
            return self._records

    @functools.cached_property
    def _names(self) -> list[str]:
        return (self.folder / layout.names_file(self.split)).read_text("utf-8").splitlines()

    def name(self, index: int) -> str:
        """The photograph's file name without suffix; of nested folders, its path."""
        return self._names[index]

    def fingerprint(self) -> dict[str, Any]:
        """Version of the preparation, number of examples, hashes of names, labels, vocabulary, a sample of contents."""
        histogram = json.dumps([self.facts["pixels"], self.facts["classes"]])
        return {
            "source": self.benchmark_name,
            "split": self.split,
            "preparation": layout.VERSION,
            "images": len(self),
            "names_sha256": self.facts["names_sha256"],
            "label_histogram_sha256": hashlib.sha256(histogram.encode()).hexdigest(),
            "contents_sha256": self._contents_sha256,
            "vocabulary_sha256": self.vocabulary.sha256,
        }

    @functools.cached_property
    def _contents_sha256(self) -> str:
        """Of at most SAMPLE examples, evenly spaced: files that others have replaced are noticed so."""
        n = len(self)
        chosen = range(n) if n <= SAMPLE else [i * n // SAMPLE for i in range(SAMPLE)]
        with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return hashlib.sha256(b"".join(pool.map(self._sha256_of, chosen))).hexdigest()

    def _sha256_of(self, index: int) -> bytes:
        """Of an example's photograph as it is stored, and of its labels' values, which PNG writers pack differently."""
        try:
            record = self._record(index)
            label = label_files.read_mask(io.BytesIO(record["label"]))
        except Exception:  # who reads the example says what is wrong with it
            return hashlib.sha256(b"unreadable").digest()
        return hashlib.sha256(record["image"] + f"{label.shape}".encode() + label.tobytes()).digest()

    @property
    def merge_predictions(self) -> np.ndarray | None:
        """`int32 [t]`: the scored class of each predicted one; None if they are the same."""
        known = self._benchmark
        return np.minimum(np.arange(len(self.vocabulary)), known.scored).astype(np.int32) if known.background else None

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of the classes that scores are given for, in the order of the labels."""
        return self._benchmark.scored_names

    @property
    def doctor_problems(self) -> tuple[str, ...]:
        """What the doctor found wrong with this split; one problem, saying so, if it has not been examined."""
        try:
            verdict = json.loads((self.folder / layout.VERDICT).read_text("utf-8"))["splits"][self.split]
            return tuple(verdict["problems"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            examine = f"ahs-seg data doctor {self.benchmark_name} --root {self.root}"
            return (f"the doctor has not examined these data; run {examine}",)


def _undecoded() -> dict[str, Any]:
    """Images and labels stay bytes: TFDS's own decoders differ in what they make of EXIF, palettes and 16 bits."""
    import tensorflow_datasets as tfds

    return {key: tfds.decode.SkipDecoding() for key in ("image", "label")}
