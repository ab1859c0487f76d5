"""A folder as a data set: what is read, and every problem found before the first step."""

import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax import progress
from ahs_seg_jax.data import folder
from ahs_seg_jax.data.folder import DataProblems, FolderSource, check_folder, open_folder
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.evaluation import images


def put(root, split, stem, image=None, mask=None, suffix=".png"):
    for kind, array, end in (("images", image, suffix), ("annotations", mask, ".png")):
        path = root / kind / split / (stem + end)
        path.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:
            Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """Three training pairs, one in a folder of its own, and a validation pair; three classes."""
    base = tmp_path / "streets"
    for number, (split, stem) in enumerate((("train", "b"), ("train", "a"), ("train", "night/a.2"), ("val", "c"))):
        image = np.full((5, 7, 3), number, np.uint8)
        put(base, split, stem, image, np.full((5, 7), number % 3, np.uint8))
    (base / "classes.txt").write_text("road\nsky\ntree\n")
    return base


def problems_of(root, **settings):
    with pytest.raises(DataProblems) as caught:
        check_folder(root, **settings)
    return [problem.replace(f"{root}/", "") for problem in caught.value.problems]


def test_reading(root):
    source = open_folder(root, "train")
    assert isinstance(source, Source)
    assert [source.name(i) for i in range(len(source))] == [
        "images/train/a.png",
        "images/train/b.png",
        "images/train/night/a.2.png",
    ]
    assert source.vocabulary.names == ("road", "sky", "tree")
    example = pickle.loads(pickle.dumps(source))[0]
    np.testing.assert_array_equal(example["image"], np.full((5, 7, 3), 1, np.uint8))
    np.testing.assert_array_equal(example["label"], np.full((5, 7), 1, np.int32))
    assert (example["image"].dtype, example["label"].dtype) == (np.uint8, np.int32)


def test_fingerprint_follows_the_files(root):
    before = json.dumps(FolderSource(root, "train").fingerprint())
    assert before == json.dumps(FolderSource(root, "train").fingerprint())
    put(root, "train", "d", np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7), np.uint8))
    assert before != json.dumps(FolderSource(root, "train").fingerprint())


def test_labels_that_others_of_equal_size_replaced_change_the_fingerprint(root):
    path, prints, sizes = root / "annotations/train/b.png", set(), set()
    for corner in range(3):
        label = np.full((50, 70), 1, np.uint8)
        label[0, corner] = 2
        Image.fromarray(label).save(path, compress_level=0)
        sizes.add(path.stat().st_size)
        prints.add(json.dumps(FolderSource(root, "train").fingerprint()))
    assert (len(prints), len(sizes)) == (3, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_that_are_no_utf_8(root):
    put(root, "train", os.fsdecode(b"caf\xe9"), np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7), np.uint8))
    source = FolderSource(root, "train")
    assert json.loads(json.dumps(source.fingerprint()))["images"] == len(source)
    assert sorted(images.chosen(source, quick=True, limit=0)) == list(range(len(source)))


def test_a_large_folder_is_sampled(root, monkeypatch):
    monkeypatch.setattr(folder, "ENDS", 2)  # of three: the first and the second
    before = FolderSource(root, "train").fingerprint()["contents_sha256"]
    for stem, changes in (("night/a.2", False), ("b", True)):
        Image.fromarray(np.full((5, 7), 2, np.uint8)).save(root / f"annotations/train/{stem}.png")
        assert (FolderSource(root, "train").fingerprint()["contents_sha256"] != before) is changes


def test_a_good_folder_raises_no_error_in_either_check(root):
    check_folder(root)
    check_folder(root, check="full")


def test_every_problem_is_found_at_once(root):
    put(root, "train", "lonely image", np.zeros((5, 7, 3), np.uint8))
    put(root, "train", "lonely mask", None, np.zeros((5, 7), np.uint8))
    put(root, "train", "outside", np.zeros((5, 7, 3), np.uint8), np.uint8([[0, 3, 9, 255, 9, 1, 2]] * 5))
    put(root, "train", "sizes", np.zeros((5, 7, 3), np.uint8), np.zeros((5, 11), np.uint8))
    put(root, "val", "turned", np.zeros((7, 5, 3), np.uint8), np.zeros((5, 7), np.uint8))
    put(root, "val", "colors", np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7, 3), np.uint8))
    put(root, "val", "text", None, np.zeros((5, 7), np.uint8))
    (root / "images/val/text.jpg").write_text("not an image")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(root / "images/val/cut.jpg")
    put(root, "val", "cut", None, np.zeros((64, 64), np.uint8))
    whole = (root / "images/val/cut.jpg").read_bytes()
    (root / "images/val/cut.jpg").write_bytes(whole[: len(whole) // 2])

    found = problems_of(root)
    assert len(found) == 8
    for problem, part in zip(
        found,
        (
            "images/train/lonely image.png has no mask; it should be annotations/train/lonely image.png",
            "annotations/train/lonely mask.png has no image; it should be images/train/lonely mask.jpg",
            "annotations/train/outside.png: values 3, 9 are no class; classes.txt has 3 names, indices 0..2",
            "sizes differ: images/train/sizes.png is 7x5, annotations/train/sizes.png is 11x5",
            "annotations/val/colors.png is no index mask: its pixels are RGB, not class indices",
            "images/val/cut.jpg cannot be read: OSError: image file is truncated",
            "images/val/text.jpg cannot be read: UnidentifiedImageError",
            "sizes differ: images/val/turned.png is 5x7, annotations/val/turned.png is 7x5 (the image is turned by",
        ),
        strict=True,
    ):
        assert problem.startswith(part)


def test_training_checks_validation_too(root):
    put(root, "val", "bad", np.zeros((5, 7, 3), np.uint8), np.full((5, 7), 7, np.uint8))
    with pytest.raises(DataProblems, match=r"the data in .*streets have 1 problem\(s\):\n  - .*bad\.png: values 7"):
        open_folder(root, "train")


def test_missing_parts_say_what_is_there(root):
    (root / "images/val/c.png").unlink()
    (root / "images/val").rename(root / "images/test")
    (root / "classes.txt").unlink()
    assert problems_of(root) == [
        "no file of class names at classes.txt; it should hold one name a line",
        "there is no folder images/val; images holds test/, train/".replace("; images", f"; {root}/images").replace(
            f"{root}/", ""
        ),
    ]
    with pytest.raises(DataProblems, match="2 problem"):
        FolderSource(root, "val")


def test_no_folder_and_no_images(tmp_path, root):
    assert problems_of(tmp_path / "none") == [f"there is no folder {tmp_path}/none"]
    for kind in ("images", "annotations"):
        next((root / kind / "val").iterdir()).unlink()
    (found,) = problems_of(root)
    assert found == "images/val holds no images (looked for .bmp .jpeg .jpg .png .tif .tiff .webp)"


def test_two_images_of_one_name(root):
    put(root, "train", "a", np.zeros((5, 7, 3), np.uint8), suffix=".jpg")
    (found,) = problems_of(root)
    assert found == "images/train holds several files of one name: images/train/a.jpg, images/train/a.png"


def test_bad_class_names_are_among_the_problems(root):
    (root / "classes.txt").write_text("road\nroad\ntree\n")
    (found,) = problems_of(root)
    assert "name 2, 'road', repeats name 1, 'road'" in found


def test_eight_bits_cannot_say_which_of_256_classes_is_unlabelled(root):
    (root / "annotations/train/a.png").unlink()
    mask = np.full((5, 7), 255, np.uint8)
    put(root, "train", "a", mask=mask)
    for classes in (255, 256):
        (root / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(classes)))
        if classes == 255:
            assert (FolderSource(root, "train")[0]["label"] == -1).all()
            continue
        text = "a.png is no index mask: its pixels have 8 bits, in which 255 is both unlabelled and one of 256 classes"
        assert any(text in problem for problem in problems_of(root))
        with pytest.raises(CorruptExample, match="save masks of more than 255 classes with 16 bits"):
            FolderSource(root, "train")[0]
    put(root, "train", "a", mask=mask.astype(np.uint16))
    assert (FolderSource(root, "train")[0]["label"] == 255).all()


def test_large_sets_are_sampled_unless_told_otherwise(root, monkeypatch, caplog):
    monkeypatch.setattr(folder, "SAMPLE", 1)
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    put(root, "train", "z", np.zeros((5, 7, 3), np.uint8), np.full((5, 7), 200, np.uint8))
    with caplog.at_level("INFO"):
        check_folder(root)
    assert "decoding 1 of 4 pairs" in caplog.text
    assert f"checked 4 of 4 pairs in {root}, 0 problem(s) so far, " in caplog.text
    (found,) = problems_of(root, check="full")
    assert found.startswith("annotations/train/z.png: values 200 are no class")
    with pytest.raises(ValueError, match="check is 'all'; choose one of sample, full"):
        check_folder(root, check="all")


def test_files_that_break_later_are_named_when_read(root):
    source = FolderSource(root, "train")
    Image.fromarray(np.full((5, 7), 8, np.uint8)).save(root / "annotations/train/a.png")
    with pytest.raises(CorruptExample, match=r"annotations/train/a\.png: values 8 are no class"):
        source[0]
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(root / "annotations/train/b.png")
    with pytest.raises(CorruptExample, match=r"sizes differ: .*b\.png is 7x5, .*b\.png is 7x6"):
        source[1]
    (root / "images/train/b.png").write_bytes(b"")
    with pytest.raises(CorruptExample, match=r"images/train/b\.png cannot be read: UnidentifiedImageError"):
        source[1]
    (root / "images/train/b.png").unlink()
    with pytest.raises(CorruptExample, match=r"images/train/b\.png cannot be read: FileNotFoundError"):
        source[1]


def test_real_photographs(shared):
    source = open_folder(shared / "data" / "camvid", "val")
    assert len(source) == 40
    example = source[0]
    assert example["image"].shape == (360, 480, 3)
    assert example["label"].min() >= -1
    assert example["label"].max() < 11
