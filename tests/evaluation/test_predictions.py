"""Predicted labels on disk: index PNGs of 8 and 16 bits, and COCO run-length codes, by reading them again."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.pictures import label_files

NAMES = ("val/a.jpg", "val/deep/b.2", "/../c.PNG")


def maps(classes: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, classes, (5, 7)).astype(np.int32) for seed in range(3)]


@pytest.mark.parametrize(("classes", "dtype"), [(254, np.uint8), (255, np.uint16), (256, np.uint16)])
def test_index_pngs(tmp_path, classes, dtype):
    writer = PredictionWriter("png", epath.Path(tmp_path / "p"), [str(k) for k in range(classes)], NAMES)
    for index, (name, labels) in enumerate(zip(NAMES, maps(classes), strict=True)):
        writer.write(index, name, labels)
    assert writer.finish(range(3)) == str(tmp_path / "p")
    for path, labels in zip(("val/a.png", "val/deep/b.2.png", "c.png"), maps(classes), strict=True):
        stored = np.asarray(Image.open(tmp_path / "p" / path))
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, labels)
    assert len((tmp_path / "p" / "classes.txt").read_text().splitlines()) == classes


def test_coco_rle(tmp_path):
    writer = PredictionWriter("coco", epath.Path(tmp_path), ["a", "b", "c"], NAMES)
    writer.start_again(range(3))
    for index, (name, labels) in enumerate(zip(NAMES, maps(3), strict=True)):
        writer.write(index, name, labels)
        writer.write(index, name, labels)  # as after an interruption
    for _ in range(2):  # finished, then asked once more
        assert writer.finish([2, 0, 1]) == str(tmp_path / "predictions.json")
    segments = json.loads((tmp_path / "predictions.json").read_text())
    restored = [np.full((5, 7), -1) for _ in NAMES]
    for segment in segments:
        assert segment["file_name"] == NAMES[segment["image_id"]]
        restored[segment["image_id"]][label_files.decode_mask(segment["segmentation"])] = segment["category_id"]
    np.testing.assert_array_equal(restored, maps(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "predictions.json"]


def test_parts_of_an_unfinished_evaluation_are_forgotten(tmp_path):
    writer = PredictionWriter("coco", epath.Path(tmp_path), ["a"], NAMES)
    label = np.zeros((2, 3), np.int32)
    for index, name in enumerate(NAMES):
        writer.write(index, name, label)
    writer.start_again([0])  # of another process is image 1, and image 2 is of an evaluation of more images
    writer.finish([0, 1])
    assert [s["image_id"] for s in json.loads((tmp_path / "predictions.json").read_text())] == [1]


def test_unknown_kind_and_names_that_fall_together(tmp_path):
    with pytest.raises(ValueError, match="predictions of kind 'bmp'; choose one of png, coco"):
        PredictionWriter("bmp", epath.Path(tmp_path), ["a"], NAMES)
    with pytest.raises(ValueError, match=r"several images would be saved under the name of x/a\.jpg"):
        PredictionWriter("png", epath.Path(tmp_path), ["a"], ["x/a.jpg", "b.jpg", "x/a.png"])
