"""Labels drawn over an image."""

import numpy as np
import pytest

from ahs_seg_jax.pictures import overlays

COLORS = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)


def test_overlay_by_hand():
    image = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 0, 1], [0, 0, -1]])
    picture = overlays.overlay(image, labels, COLORS, alpha=0.5)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[0, 0], [150, 50, 50])  # half and half
    np.testing.assert_array_equal(picture[0, 1], [200, 0, 0])  # class 1 to the right: a border, full colour
    np.testing.assert_array_equal(picture[0, 2], [0, 100, 0])  # unlabelled below: a border
    np.testing.assert_array_equal(picture[1, 2], [35, 35, 35])  # unlabelled: darkened


def test_overlay_leaves_its_inputs_alone():
    image, labels = np.full((5, 7, 3), 9, np.uint8), np.zeros((5, 7), np.int32)
    overlays.overlay(image, labels, COLORS)
    assert (image == 9).all()
    assert (labels == 0).all()


def test_overlay_refuses_labels_of_another_size():
    with pytest.raises(ValueError, match=r"labels have shape \[3, 2\] but the image \[2, 3, 3\]"):
        overlays.overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), int), COLORS)
