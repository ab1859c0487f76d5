"""Results by hand: masks, areas, files that are read back, pictures, thresholds."""

import sys

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter import Segmentation, calibrate_unknown, read_png

NAMES = ("cat", "sofa, couch", "floor")
LABELS = np.array([[0, 0, 1], [-1, 1, 1]], np.int32)


def result(labels=LABELS, names=NAMES, **fields) -> Segmentation:
    image = np.full((*labels.shape, 3), 100, np.uint8)
    return Segmentation(
        image, labels, names, np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape), **fields
    )


def test_masks_and_areas_by_hand():
    assert result().areas == {"sofa, couch": 3, "cat": 2, "unknown": 1}
    assert result(np.maximum(LABELS, 0)).areas == {"cat": 3, "sofa, couch": 3}
    np.testing.assert_array_equal(result().mask("sofa"), [[0, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(result().mask("sofa, couch"), result().mask("sofa"))
    assert not result().mask("floor").any()
    with pytest.raises(KeyError, match="'flor' is not among the 3 names of this result; it has floor"):
        result().mask("flor")


def test_summary():
    summary = result(source="a.jpg").summary()
    assert summary["classes"]["cat"] == {"pixels": 2, "share": 0.333333}
    assert (summary["image"], summary["height"], summary["width"], summary["mean_confidence"]) == ("a.jpg", 2, 3, 0.5)


def test_what_is_shown_of_it_is_a_line():
    assert repr(result(source="a.jpg")) == "<Segmentation of a.jpg: 3 x 2, sofa, couch 50 %, cat 33 %, unknown 17 %>"
    many = result(np.arange(7)[None], tuple("abcdefg"))
    assert repr(many) == "<Segmentation of an image: 7 x 1, a 14 %, b 14 %, c 14 %, d 14 %, and 3 more>"


@pytest.mark.parametrize("count", [3, 254, 255, 1009])
def test_index_png_round_trip(tmp_path, count):
    names = (*(f"thing {index}" for index in range(count - 1)), "猫, γάτα")
    labels = np.random.default_rng(0).integers(-1, count, (37, 41)).astype(np.int32)
    result(labels, names).save_png(tmp_path / "a.png")
    read, found = read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(read, labels)
    assert found == names
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == ("P" if count < 255 else "I;16")
        if count < 255:  # the colours of a viewer
            expected = np.vstack([assign_colors(names), [[0, 0, 0]]])[np.where(labels < 0, count, labels)]
            np.testing.assert_array_equal(np.asarray(file.convert("RGB")), expected)


def test_coco_round_trip():
    labels = np.random.default_rng(0).integers(-1, 3, (13, 17)).astype(np.int32)
    found = result(labels).to_coco(image_id=5)
    assert [entry["category_name"] for entry in found] == list(NAMES)
    for entry in found:
        mask = labels == entry["category_id"] - 1
        np.testing.assert_array_equal(label_files.decode_mask(entry["segmentation"]), mask)
        assert (entry["area"], entry["image_id"]) == (mask.sum(), 5)
    boxed = np.zeros((11, 13), np.int32) - 1
    boxed[3:5, 2:9] = 2
    assert result(boxed).to_coco()[0]["bbox"] == [2.0, 3.0, 7.0, 2.0]


def test_polygons_round_trip():
    features = pytest.importorskip("rasterio.features")
    labels = np.zeros((13, 17), np.int32)
    labels[2:9, 3:11] = 1
    labels[4:6, 5:8] = 0  # a hole
    shapes = result(labels).polygons("sofa")
    assert [len(shape["coordinates"]) for shape in shapes] == [2]
    drawn = features.rasterize(shapes, labels.shape)
    np.testing.assert_array_equal(drawn == 1, labels == 1)


def test_polygons_without_rasterio_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio.features", None)
    with pytest.raises(ImportError, match=r"needs rasterio, .* pip install 'ahs_seg_jax\[geo\]'"):
        result().polygons("cat")


def test_pictures_have_the_size_of_the_image_and_a_legend():
    labels = np.zeros((97, 89), np.int32)
    labels[40:] = 1
    plain = result(labels).overlay(legend=False)
    assert plain.size == (89, 97)
    full = np.asarray(result(labels).overlay())
    np.testing.assert_array_equal(full[:97, :89], np.asarray(plain))
    legend = full[:, 89:]
    for index, present in enumerate((True, True, False)):
        assert (legend == result(labels).colors[index]).all(axis=-1).any() == present


def test_heat_maps_need_probabilities():
    with pytest.raises(ValueError, match="call the segmenter with probabilities=True"):
        result().heat_map("cat")
    probabilities = np.zeros((3, 2, 3), np.float32)
    assert result(probabilities=probabilities).heat_map("cat").height > 2


def test_comparison_follows_names_not_indices():
    other = result(np.array([[1, 1, 0], [-1, 0, 2]]), ("sofa, couch", "cat", "lamp"))
    picture = np.asarray(result().compare(other))
    yellow = (picture == (255, 233, 60)).all(axis=-1)
    assert yellow.sum() == 1  # the lamp


def test_calibrated_threshold_by_hand():
    labels = np.zeros((1, 101), np.int32)
    truth = np.zeros((1, 101), np.int32)
    threshold = calibrate_unknown([result(labels)], [truth], kept=0.9)
    assert threshold == pytest.approx(0.1)
    truth[0, 51:] = -1
    assert calibrate_unknown([result(labels)], [truth], kept=0.9) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no pixel of these results is labelled correctly"):
        calibrate_unknown([result(labels)], [labels + 1])
    with pytest.raises(ValueError, match=r"kept is 1\.0; it must lie strictly between 0 and 1"):
        calibrate_unknown([], [], kept=1.0)


def test_a_full_stop_behind_a_name_finds_it_too():
    np.testing.assert_array_equal(result().mask("cat ."), result().mask("cat"))
    np.testing.assert_array_equal(result().mask(" sofa."), result().mask("sofa"))
