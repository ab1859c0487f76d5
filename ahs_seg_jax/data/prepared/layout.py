"""Where a prepared benchmark lies and what its files are called: TFDS's own layout, and two files of ours beside.

<root>/prepared/<name>/<version>/
  <name>-<split>.array_record-00003-of-00064    examples: features "name", "image", "label"
  dataset_info.json, features.json              TFDS's: `tfds.builder_from_directory(...)` reads the folder
  prepared.json                                 ours, written last: what was prepared, counted while it was read
  names-<split>.txt                             ours: names of the examples, one a line
  doctor.json, contact_sheet-<split>.png        ours: the verdict on the data (see `doctor.py`)
  shards/                                       ours: one fact sheet for each finished shard
"""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ahs_seg_jax.data.benchmarks.benchmark import Benchmark
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.storage import paths

VERSION = "1.0.0"  # of the preparation: raised when the same downloads would give other records
RELEASE_NOTES = {VERSION: "First version."}
PREPARED = "prepared"
FACTS = "prepared.json"
VERDICT = "doctor.json"
SUFFIX = "array_record"


def prepared_folder(root: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The folder of a prepared benchmark below the folder of the data."""
    return paths.location(root) / PREPARED / name / VERSION


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """TFDS's name of a shard's file."""
    return f"{name}-{split}.{SUFFIX}-{shard:05d}-of-{shards:05d}"


def names_file(split: str) -> str:
    """The file of the names of a split's examples."""
    return f"names-{split}.txt"


def features(benchmark: Benchmark) -> tfds.features.FeaturesDict:
    """What TFDS knows about a record: image bytes RGB `[h, w, 3]`, label PNG of 8 or 16 bits `[h, w, 1]`."""
    dtype = np.dtype(f"uint{label_files.bits(benchmark.classes)}").type
    return tfds.features.FeaturesDict(
        {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Image(shape=(None, None, 1), dtype=dtype, encoding_format="png"),
        }
    )


def command(name: str, root: pathlib.Path) -> str:
    """The command that prepares a benchmark."""
    return f"ahs-seg data prepare {name} --root {root}"


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
    """The facts of a prepared folder; empty if its preparation has not finished. Raises ValueError if damaged."""
    try:
        found = json.loads((folder / FACTS).read_text("utf-8"))
        if isinstance(found, dict) and isinstance(found.get("splits", {}), dict):
            return found
        cause = "it holds no facts of splits"
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        cause = str(error)
    raise ValueError(f"{folder / FACTS} is damaged ({cause}); remove it, and prepare the benchmark again")
