"""The protocols' views, by their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.inference import (
    CAT_SEG,
    PROTOCOLS,
    WHOLE,
    SlidingWindows,
)
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.inference.views import shortest_edge_size
from ahs_seg_jax.models.ops import resize
from tests.support.images import photo

SMALL = SlidingWindows(shortest=13, longest=29, size=11, window=7, stride=2)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (300, 451, (640, 962)),
        (451, 300, (962, 640)),
        (640, 640, (640, 640)),
        (100, 1000, (256, 2560)),
        (3, 5, (640, 1067)),
    ],
)
def test_shortest_edge_size(height, width, expected):
    assert shortest_edge_size(height, width, 640, 2560) == expected


def test_published_windows():
    assert CAT_SEG.corners == [(0, 0), (0, 256), (256, 0), (256, 256)]
    assert CAT_SEG.views_shape(336) == (5, 384, 384, 3)
    assert WHOLE.views_shape(336) == (1, 336, 336, 3)


def test_windows_must_cover_the_square():
    with pytest.raises(ValueError, match="windows of 5 at stride 3 do not cover 12 pixels exactly"):
        SlidingWindows(size=12, window=5, stride=3)


def test_whole_view_is_a_bilinear_resize_without_antialiasing():
    image = photo(61, 43)
    views = WHOLE.views(image, 19)
    assert views.dtype == np.float32
    expected = resize.bilinear(jnp.asarray(image, jnp.float32), (19, 19), axes=(0, 1))
    np.testing.assert_allclose(views[0], expected, atol=1e-3)


def test_window_views_by_their_definition():
    image = photo(17, 31)
    views = SMALL.views(image, 99)
    # 17 -> 13, but 31 * 13/17 = 23.7 -> 24 stays below 29.
    first = np.asarray(Image.fromarray(image).resize((24, 13), Image.Resampling.BILINEAR), np.float32)
    squashed = resize.bilinear(jnp.asarray(first), (11, 11), axes=(0, 1))
    corners = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)]
    assert views.shape == (len(corners) + 1, 7, 7, 3) == SMALL.views_shape(99)
    for view, (y, x) in zip(views[:-1], corners, strict=True):
        np.testing.assert_allclose(view, squashed[y : y + 7, x : x + 7], atol=1e-3)
    # The global view comes from the first resize, not from the squashed square.
    np.testing.assert_allclose(views[-1], resize.bilinear(jnp.asarray(first), (7, 7), axes=(0, 1)), atol=1e-3)


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((5, 7, 3), np.float32), TypeError, "image is float32; pass a NumPy array of dtype uint8"),
        ([[1, 2]], TypeError, "image is list; pass a NumPy array"),
        (np.zeros((5, 7), np.uint8), ValueError, r"image has shape \[5, 7\]; it must be \[H, W, 3\]"),
        (np.zeros((5, 7, 4), np.uint8), ValueError, r"image has shape \[5, 7, 4\]"),
        (np.zeros((0, 7, 3), np.uint8), ValueError, "at least one pixel"),
    ],
)
def test_images_of_another_kind_are_refused(image, error, text):
    for protocol in PROTOCOLS.values():
        with pytest.raises(error, match=text):
            protocol.views(image, 8)


def test_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="unknown protocol 'windows'; choose one of whole, cat_seg"):
        find_protocol("windows")
    assert find_protocol("whole") is WHOLE
    assert find_protocol(SMALL) is SMALL
