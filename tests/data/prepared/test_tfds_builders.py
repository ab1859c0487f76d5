"""Builders of TensorFlow Datasets: the same records, without TensorFlow."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared.tfds_builders import BUILDERS
from tests.support import trees
from tests.support.trees import rows


def build(name, root, target):
    builder = tfds.builder(name, data_dir=target, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    return builder


def test_every_benchmark_has_a_builder():
    assert set(BUILDERS) == set(BENCHMARKS)
    for name, builder in BUILDERS.items():
        assert (builder.name, tfds.builder_cls(name)) == (name, builder)


def test_eight_bits(tmp_path):
    trees.voc(tmp_path, {"2007_000033": rows([0, 1, 20, 255])})
    data = build("voc_20b", tmp_path, tmp_path / "tfds").as_data_source("val")
    example = data[0]
    assert (len(data), example["name"]) == (1, b"2007_000033")
    np.testing.assert_array_equal(example["label"][..., 0], rows([20, 0, 19, 255]))
    assert example["image"].shape == (5, 4, 3)
    assert "tensorflow" not in sys.modules


def test_sixteen_bits(tmp_path):
    trees.pascal_context_459(tmp_path, {"2008_000003": rows([0, 1, 459], np.uint16)})
    skip = {"label": tfds.decode.SkipDecoding()}
    build("pascal_context_459", tmp_path, tmp_path / "tfds")
    builder = tfds.builder_from_directory(tmp_path / "tfds/pascal_context_459/1.0.0")
    assert builder.info.features["label"].np_dtype == np.uint16
    example = builder.as_data_source("val", decoders=skip)[0]
    assert example["label"].startswith(b"\x89PNG")


def test_both_splits_of_coco_stuff(tmp_path):
    trees.coco_stuff(tmp_path, "train", {"000000000009": rows([0, 1]), "000000000025": rows([2, 3])})
    trees.coco_stuff(tmp_path, "val", {"000000000139": rows([91, 255])})
    builder = build("coco_stuff", tmp_path, tmp_path / "tfds")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "val": 1}


def test_absent_downloads(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)lacks VOCdevkit/VOC2012/JPEGImages.*VOCtrainval_11-May-2012"):
        build("voc_20", tmp_path, tmp_path / "tfds")
