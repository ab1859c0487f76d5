"""Resizes: values by hand, PyTorch's numbers, the gradient as the transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models.ops import resize


def test_bilinear_doubles_by_hand():
    line = jnp.asarray([[0.0, 4.0]])
    assert resize.bilinear(line, (1, 4), (0, 1)).tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_aligned_corners_by_hand():
    line = jnp.asarray([[0.0, 6.0]])
    assert resize.bilinear(line, (1, 4), (0, 1), aligned_corners=True).tolist() == [[0.0, 2.0, 4.0, 6.0]]


def test_nearest_takes_the_floor():
    labels = jnp.arange(5)[None]
    assert resize.nearest(labels, (1, 3)).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("size", [(14, 18), (5, 4), (24, 24), (3, 9)])
@pytest.mark.parametrize("method", ["bilinear", "bilinear_corners", "bicubic", "nearest"])
def test_golden(golden, method, size):
    stored = np.load(golden / "resize.npz")
    function = {
        "bilinear": lambda x: resize.bilinear(x, size, (-2, -1)),
        "bilinear_corners": lambda x: resize.bilinear(x, size, (-2, -1), aligned_corners=True),
        "bicubic": lambda x: resize.bicubic(x[..., None], size)[..., 0],
        "nearest": lambda x: resize.nearest(x, size),
    }[method]
    expected = stored[f"{method}_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(function(jnp.asarray(stored["x"])), expected, atol=2e-6 * np.abs(expected).max())


def test_rows_of_every_matrix_sum_to_one():
    for matrix in (resize.bilinear_matrix(7, 17), resize.bilinear_matrix(17, 7, True), resize.bicubic_matrix(11, 5)):
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)


def test_gradient_is_the_transpose():
    x, cotangent = jnp.ones((3, 5, 7)), jax.random.normal(jax.random.key(0), (3, 11, 13))
    (gradient,) = jax.vjp(lambda x: resize.bilinear(x, (11, 13), (1, 2)), x)[1](cotangent)
    rows, columns = resize.bilinear_matrix(5, 11), resize.bilinear_matrix(7, 13)
    np.testing.assert_allclose(gradient, np.einsum("bHW,Hh,Ww->bhw", cotangent, rows, columns), atol=1e-5)


def test_two_resizes_as_one_map():
    x = jax.random.normal(jax.random.key(2), (2, 5, 7))
    twice = resize.bilinear(resize.bilinear(x, (23, 19), (1, 2)), (11, 13), (1, 2))
    np.testing.assert_allclose(resize.bilinear_through(x, (23, 19), (11, 13), (1, 2)), twice, atol=2e-6)


def test_one_pixel_and_equal_size():
    pixel = jnp.full((1, 1, 2), 3.0)
    np.testing.assert_array_equal(resize.bilinear(pixel, (4, 5)), jnp.full((4, 5, 2), 3.0))
    image = jax.random.normal(jax.random.key(1), (5, 7, 2))
    np.testing.assert_array_equal(resize.bilinear(image, (5, 7)), image)
