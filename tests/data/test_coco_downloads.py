"""COCO-Stuff as downloaded, in a miniature tree: values of the masks, checks, and what to do when it is absent."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.data.benchmarks.coco_stuff import COCO_STUFF
from ahs_seg_jax.data.coco_downloads import CocoStuffSource, open_coco_stuff
from ahs_seg_jax.data.folder import DataProblems
from ahs_seg_jax.data.prepared.prepared_source import PreparedSource
from tests.support import trees

UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # values of categories that COCO numbered and never labelled


def put(root, split, stem, mask):
    for part, array, suffix in (
        ("images", np.full((*mask.shape, 3), 9, np.uint8), "jpg"),
        ("annotations", mask, "png"),
    ):
        path = root / "coco-stuff" / part / f"{split}2017" / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    put(tmp_path, "train", "000000000009", np.uint8([[0, 10, 12, 89, 91], [11, 90, 181, 182, 255]]))
    put(tmp_path, "train", "000000000025", np.zeros((3, 5), np.uint8))
    put(tmp_path, "val", "000000000139", np.full((3, 5), 181, np.uint8))
    return tmp_path


def test_every_class_has_one_value():
    table = COCO_STUFF.table
    assert sorted(table[table >= 0]) == list(range(171))
    assert np.flatnonzero(table < 0).tolist() == list(UNUSED)


def test_prepared_data_come_first(root):
    trees.prepared(COCO_STUFF, root)
    for split, names in (("train", ["000000000009", "000000000025"]), ("val", ["000000000139"])):
        prepared, downloads = open_coco_stuff(root, split), CocoStuffSource(root, split)
        assert isinstance(prepared, PreparedSource)
        assert [prepared.name(k) for k in range(len(prepared))] == names
        for k in range(len(names)):
            np.testing.assert_array_equal(prepared[k]["label"], downloads[k]["label"])
            np.testing.assert_array_equal(prepared[k]["image"], downloads[k]["image"])


def test_reading(root):
    source = pickle.loads(pickle.dumps(open_coco_stuff(root, "train")))
    assert [source.name(index) for index in range(len(source))] == [
        "images/train2017/000000000009.jpg",
        "images/train2017/000000000025.jpg",
    ]
    example = source[0]
    assert (example["image"].shape, example["image"].dtype, example["label"].dtype) == ((2, 5, 3), np.uint8, np.int32)
    np.testing.assert_array_equal(example["label"], [[0, 10, 11, 79, 80], [-1, -1, 170, -1, -1]])
    names = source.vocabulary.names
    assert (len(names), names[0], names[11]) == (171, "person", "stop sign")
    assert len(source.vocabulary.groups) == 171


def test_the_fingerprint_names_the_data_set_and_the_split(root):
    prints = [open_coco_stuff(root, split).fingerprint() for split in ("train", "val")]
    assert [(found["source"], found["split"]) for found in prints] == [
        ("coco_stuff", "train2017"),
        ("coco_stuff", "val2017"),
    ]
    json.dumps(prints)


def test_sixteen_bits_are_no_class(root):
    path = root / "coco-stuff/annotations/val2017/000000000139.png"
    Image.fromarray(np.uint16([[0, 300, 65535, 256, 91]] * 3)).save(path)
    assert CocoStuffSource(root, "val")[0]["label"][0].tolist() == [0, -1, -1, -1, 80]


def test_absent_data_say_what_to_download_and_where(tmp_path, root, monkeypatch):
    monkeypatch.delenv("AHS_SEG_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"data\.root is empty, and so is the environment variable AHS_SEG_DATA(.|\n)*train2017\.zip"
    ):
        open_coco_stuff("", "train")
    with pytest.raises(
        ValueError, match=r"none/coco-stuff lacks images/val2017, annotations/val2017\. download and unpack"
    ):
        open_coco_stuff(tmp_path / "none", "val")
    monkeypatch.setenv("AHS_SEG_DATA", str(root))
    assert len(open_coco_stuff("", "val")) == 1


def test_a_part_of_the_images_is_worth_a_warning(root, caplog):
    source = open_coco_stuff(root, "val")
    assert source.doctor_problems == ("1 images of val2017, the published set has 5,000",)
    assert "holds 1 images of val2017, the published set has 5,000" in caplog.text


def test_problems_inside_are_listed(root):
    put(root, "val", "000000000285", np.zeros((3, 5), np.uint8))
    (root / "coco-stuff/annotations/val2017/000000000285.png").unlink()
    (root / "coco-stuff/images/train2017/000000000025.jpg").write_text("not an image")
    with pytest.raises(DataProblems) as caught:
        open_coco_stuff(root, "train")
    assert len(caught.value.problems) == 2
    assert "000000000025.jpg cannot be read" in caught.value.problems[0]
    assert "000000000285.jpg has no mask" in caught.value.problems[1]
