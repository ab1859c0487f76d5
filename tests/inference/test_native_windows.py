"""The geometry of native windows: places and weights by hand, and what is out of range."""

import numpy as np
import pytest

from ahs_seg_jax.inference.native_windows import Axis, NativeWindows


def test_places_by_hand():
    assert Axis(23, 10, 6, "mean").starts == [0, 6, 12, 13]
    assert Axis(22, 10, 6, "mean").starts == [0, 6, 12]
    assert Axis(10, 10, 6, "mean").starts == [0]
    small = Axis(3, 10, 6, "smooth")
    assert (small.starts, small.length) == ([0], 3)
    assert Axis(23, 10, 6, "mean").meeting(6, 10) == [0, 1]
    assert Axis(23, 10, 6, "mean").meeting(22, 23) == [3]


def test_weights_by_hand():
    mean = Axis(8, 6, 2, "mean")
    np.testing.assert_array_equal(mean.weights(0), [1, 1, 0.5, 0.5, 0.5, 0.5])
    smooth = Axis(6, 4, 2, "smooth")  # ramps 0.5 1.5 1.5 0.5
    np.testing.assert_allclose(smooth.weights(0), [1, 1, 0.75, 0.25])
    np.testing.assert_allclose(smooth.weights(1), [0.25, 0.75, 1, 1])


@pytest.mark.parametrize("blend", ["smooth", "mean"])
@pytest.mark.parametrize("extent", [1, 7, 64, 97, 131])
def test_weights_sum_to_one_at_every_pixel(extent, blend):
    axis = Axis(extent, 31, 17, blend)
    total = np.zeros(extent)
    for index, start in enumerate(axis.starts):
        total[start : start + axis.length] += axis.weights(index)
    np.testing.assert_allclose(total, 1, atol=1e-12)


def test_the_grid_follows_the_model_and_the_overlap():
    grid = NativeWindows().grid((1000, 500), 384)
    assert (grid.window, grid.rows.starts, grid.columns.starts) == (384, [0, 256, 512, 616], [0, 116])
    assert grid.count == 8
    assert NativeWindows(window=100, overlap=0.75).grid((150, 150), 64).rows.starts == [0, 25, 50]
    assert NativeWindows(stride=64).grid((150, 64), 64).rows.starts == [0, 64, 86]


def test_windows_held_at_once():
    grid = NativeWindows(window=10, stride=5).grid((40, 80), 10)
    # A tile of 20 meets windows that start at 15 .. 35 (and 10 ends with 20): at most 5 inside, 4 at the borders.
    assert grid.tiles(20) == (2, 4)
    assert grid.held(1, 20) == 4 * 5
    assert grid.held(4, 20) == 4 * 15


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "the window is 0 pixels; give at least 1"),
        ({"stride": 0}, "the stride is 0 pixels; give at least 1"),
        ({"stride": 5, "overlap": 0.5}, r"both a stride \(5\) and an overlap \(0\.5\) are given; give one"),
        ({"overlap": 1.0}, r"the overlap is 1; it must lie within 0 and 0\.9"),
        ({"blend": "hard"}, "the blend is 'hard'; choose one of smooth, mean"),
        ({"window": 7, "stride": 8}, "the stride is 8; it must lie within 1 and the window's 7 pixels"),
        ({"stride": 65}, "the stride is 65; it must lie within 1 and the window's 64 pixels"),
    ],
)
def test_what_is_out_of_range_is_said(options, text):
    with pytest.raises(ValueError, match=text):
        NativeWindows(**options).grid((100, 100), 64)
