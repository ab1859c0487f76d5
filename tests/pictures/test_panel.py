"""Panels: sizes, colours of the legend, long and many names."""

import numpy as np
import pytest

from ahs_seg_jax.pictures import overlays, panels
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import Vocabulary

COLORS = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)


def contains(picture: np.ndarray, color) -> bool:
    return bool((picture == np.asarray(color, np.uint8)).all(axis=-1).any())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 301), (331, 13), (97, 89), (1009, 1511)])
def test_panel_shows_the_colors_of_present_classes_only(height, width):
    vocabulary = Vocabulary(("sky", "a road that nobody has driven along for years", "tree, oak"))
    image = np.zeros((height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.int32)
    picture = panels.panel(image, labels, labels + 1, vocabulary, title="scene 17")
    assert picture.dtype == np.uint8
    assert picture.shape[1] < 3 * panels.LONGEST_EDGE + 600
    assert contains(picture, assign_colors(vocabulary.names)[0])
    assert contains(picture, assign_colors(vocabulary.names)[1])
    assert not contains(picture, assign_colors(vocabulary.names)[2])


def test_panel_without_labels_is_narrower():
    vocabulary = Vocabulary(("sky", "road"))
    image, labels = np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), np.int32)
    with_labels = panels.panel(image, labels, labels, vocabulary)
    without = panels.panel(image, None, labels, vocabulary)
    assert without.shape[1] < with_labels.shape[1]


def test_panel_of_many_classes_shows_the_largest():
    vocabulary = Vocabulary(tuple(f"thing {index}" for index in range(60)))
    labels = np.repeat(np.arange(60), np.arange(1, 61))[None].repeat(3, axis=0)
    picture = panels.panel(np.zeros((*labels.shape, 3), np.uint8), labels, labels, vocabulary)
    legend = picture[:, 3 * (panels.LONGEST_EDGE + overlays.GAP) :]
    assert contains(legend, assign_colors(vocabulary.names)[59])
    assert not contains(legend, assign_colors(vocabulary.names)[0])


def test_panel_of_an_image_without_any_label():
    vocabulary = Vocabulary(("sky", "road"))
    picture = panels.panel(np.zeros((61, 67, 3), np.uint8), np.full((61, 67), -1), np.zeros((61, 67), int), vocabulary)
    assert contains(picture, assign_colors(vocabulary.names)[0])


def test_grid_stacks_pictures_of_different_widths():
    first, second = np.zeros((3, 5, 3), np.uint8), np.full((2, 7, 3), 50, np.uint8)
    stacked = panels.grid([first, second])
    assert stacked.shape == (3 + 2 + 2 * overlays.GAP, 7, 3)
    np.testing.assert_array_equal(stacked[:3, :5], first)
    assert (stacked[:3, 5:] == 255).all()
    np.testing.assert_array_equal(stacked[3 + overlays.GAP :][:2], second)
    with pytest.raises(ValueError, match="no panels to stack"):
        panels.grid([])
