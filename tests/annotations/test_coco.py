"""COCO's files, opened by pycocotools: ids, masks, boxes, connected objects; the panoptic format."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as official
from pycocotools.coco import COCO

from ahs_seg_jax.annotations import coco
from ahs_seg_jax.annotations.runs import runs_of

NAMES = ("cat", "sofa, couch", "猫")


def labels(size=(13, 17), seed=0, classes=3):
    return np.random.default_rng(seed).integers(-1, classes, size).astype(np.int32)


def test_runs_by_hand():
    values = np.array([[0, 0, 1], [-1, 1, 1]])
    found = {runs.value: (runs.starts.tolist(), runs.lengths.tolist()) for runs in runs_of(values, "rows")}
    assert found == {0: ([0], [2]), 1: ([2, 4], [1, 2])}
    assert [runs.counts(6) for runs in runs_of(values, "rows")] == [[0, 2, 4], [2, 1, 1, 2]]
    assert [runs.counts(6) for runs in runs_of(values, "columns")] == [[0, 1, 1, 1, 3], [3, 3]]
    assert list(runs_of(np.full((2, 3), -1), "rows")) == []


def test_masks_are_those_of_pycocotools():
    truth, confidence = labels(), np.random.default_rng(1).random((13, 17)).astype(np.float32)
    found = coco.masks(truth, confidence, image_id=5, first_id=7)
    assert [(entry["id"], entry["image_id"], entry["category_id"], entry["iscrowd"]) for entry in found] == [
        (7, 5, 1, 0),
        (8, 5, 2, 0),
        (9, 5, 3, 0),
    ]
    for entry in found:
        mask = truth == entry["category_id"] - 1
        expected = official.encode(np.asfortranarray(mask, np.uint8))
        assert entry["segmentation"] == {"size": [13, 17], "counts": expected["counts"].decode()}
        assert (entry["area"], entry["bbox"]) == (mask.sum(), official.toBbox(expected).tolist())
        assert entry["score"] == pytest.approx(confidence[mask].mean(), abs=1e-4)


def test_objects_are_the_connected_parts():
    truth = np.full((7, 11), -1, np.int32)
    truth[0, 0] = truth[1, 1] = 0  # they meet at a corner
    truth[5:, 3:6] = 0
    truth[2:4, 8:] = 2
    found = coco.masks(truth, np.full((7, 11), 0.5, np.float32), objects=True)
    assert [(entry["category_id"], entry["area"], entry["bbox"]) for entry in found] == [
        (1, 2, [0, 0, 2, 2]),
        (1, 6, [3, 5, 3, 2]),
        (3, 6, [8, 2, 3, 2]),
    ]
    assert {entry["score"] for entry in found} == {0.5}
    assert coco.masks(np.full((3, 5), -1, np.int32), objects=True) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_pycocotools_opens_the_file(tmp_path):
    truths = [labels((13, 17)), np.full((5, 3), -1, np.int32), labels((7, 11), 2)]
    images = [coco.image(number, f"deep/{number}.jpg", truth.shape) for number, truth in enumerate(truths, 1)]
    parts = coco.numbered(coco.masks(truth) for truth in truths)
    coco.write(tmp_path / "coco.json", images, parts, coco.categories(NAMES))
    opened = COCO(str(tmp_path / "coco.json"))
    assert [category["name"] for category in opened.loadCats(opened.getCatIds())] == list(NAMES)
    assert opened.getCatIds() == [1, 2, 3]
    assert opened.getAnnIds() == [1, 2, 3, 4, 5, 6]
    for image_id, truth in enumerate(truths, 1):
        drawn = np.zeros(truth.shape, np.int32) - 1
        for annotation in opened.loadAnns(opened.getAnnIds(image_id, iscrowd=False)):
            drawn[opened.annToMask(annotation) == 1] = annotation["category_id"] - 1
        np.testing.assert_array_equal(drawn, truth)
    assert opened.loadImgs(3)[0] == {"id": 3, "file_name": "deep/3.jpg", "height": 7, "width": 11}


def test_panoptic_segments_are_read_as_detr_reads_them(tmp_path):
    detr = pytest.importorskip("transformers.image_transforms")
    truth = labels(classes=300)
    coco.write_segments(tmp_path / "a.png", truth)
    ids = detr.rgb_to_id(np.asarray(Image.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(ids, truth + 1)
    segments = coco.segments_info(truth)
    assert json.loads(json.dumps(segments)) == segments
    for segment in segments:
        mask = ids == segment["id"]
        assert (segment["category_id"], segment["area"], segment["iscrowd"]) == (segment["id"], mask.sum(), 0)
        (rows, columns), (x, y, width, height) = np.nonzero(mask), segment["bbox"]
        assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
    assert sum(segment["area"] for segment in segments) == (truth >= 0).sum()
    assert {category["isthing"] for category in coco.panoptic_categories(NAMES)} == {0}
