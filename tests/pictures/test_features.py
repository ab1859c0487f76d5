"""Features as colours, and tables of pictures."""

import numpy as np

from ahs_seg_jax.pictures import features, overlays


def test_alike_features_have_alike_colours():
    values = np.zeros((2, 7, 5), np.float32)
    values[:, 3:] = (3, 0, -2, 0, 1)  # two kinds of features, so one direction
    found = features.as_colors(values)
    assert found.shape == (2, 7, 3)
    assert (found[:, 3:, 0] == 255).all()  # their largest part, 3, counts as positive
    assert not found[:, :3, 0].any()
    assert (features.as_colors(-values)[:, :3, 0] == 255).all()


def test_the_scale_of_features_does_not_count():
    values = np.random.default_rng(0).normal(size=(11, 13, 7))
    np.testing.assert_array_equal(features.as_colors(values), features.as_colors(1024 * values))


def test_equal_features_and_few_channels_have_colours():
    assert not features.as_colors(np.ones((3, 5, 4))).any()
    assert features.as_colors(np.random.default_rng(0).normal(size=(3, 5, 2)))[..., 2].max() == 0


def test_a_table_has_a_cell_for_each_picture():
    wide, small = np.full((10, 40, 3), 7, np.uint8), np.full((2, 2, 3), 9, np.uint8)
    found = features.table([[("wide", wide), ("small", small)], [("again", small)]], side=20)
    left, top, gap = overlays.GAP, overlays.HEADER, overlays.GAP
    assert found.shape == (2 * (top + 20 + gap), 2 * 20 + 3 * gap, 3)
    assert (found[top : top + 5, left : left + 20] == 7).all()  # reduced to half
    assert (found[top : top + 20, left + 20 + gap : left + 40 + gap] == 9).all()
    assert (found[-gap - 20 : -gap, left : left + 20] == 9).all()
