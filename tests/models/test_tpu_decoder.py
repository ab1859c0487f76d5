"""The decoder in blocks of pixels equals the decoder, forward and backward; its blocks and kernels by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import decoder, layers, tpu_decoder
from ahs_seg_jax.models.ops import convolution
from tests.support.goldens import assert_close


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def stage_parameters(features_in, guidance, features):
    p = jax.jit(decoder.Stage(features_in, guidance, features).init)(jax.random.key(features))["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.ndim, *leaf.shape), p)


def test_pixels_of_blocks_by_hand():
    x = jnp.arange(16.0).reshape(4, 4, 1)
    expected = [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    np.testing.assert_array_equal(tpu_decoder.to_blocks(x), expected)
    np.testing.assert_array_equal(tpu_decoder.to_pixels(tpu_decoder.to_blocks(x)), x)


def test_what_lies_inside_by_hand():
    """One pixel becomes 2x2; four blocks lie around its corners, and each has one of the four inside."""
    expected = [[[0, 0, 0, 1], [0, 0, 1, 0]], [[0, 1, 0, 0], [1, 0, 0, 0]]]
    np.testing.assert_array_equal(tpu_decoder.inside(1, 1, 1), expected)
    assert tpu_decoder.inside(3, 5, 7).sum() == 6 * 10 * 7


def test_corner_kernel_is_the_convolution():
    x, kernel = normal(0, 3, 4, 14, 5), normal(1, 3, 3, 5, 7)
    around = tpu_decoder.to_blocks(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]))
    found = tpu_decoder.to_pixels(convolution.convolve(around, tpu_decoder.corner_kernel(kernel), ((0, 0), (0, 0))))
    assert_close(found, layers.conv_same(x, {"kernel": kernel}), 1e-6)
    assert (tpu_decoder.corner_kernel(kernel) != 0).mean() == 9 / 16  # a block has no tap for some pixels


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5)])
def test_stage_and_head_equal_the_decoder(rows, columns):
    p, x, guidance = (
        stage_parameters(11, 3, 32),
        normal(2, 2, 3, rows, columns, 11),
        normal(3, 2, 2 * rows, 2 * columns, 3),
    )
    head = {"kernel": normal(4, 3, 3, 32, 1), "bias": jnp.full(1, 0.5)}

    def plain(x, p, guidance, head):
        return decoder.decode(x, [p], [decoder.prepare(guidance, p)], head, in_loop=False)

    def in_blocks(x, p, guidance, head):
        return tpu_decoder.head(tpu_decoder.run_stage(x, p, tpu_decoder.prepare(guidance, p)), head)

    found, back = jax.vjp(jax.jit(in_blocks), x, p, guidance, head)
    expected, expected_back = jax.vjp(jax.jit(plain), x, p, guidance, head)
    assert_close(found, expected, 1e-5)
    cotangent = normal(5, *expected.shape)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-4), back(cotangent), expected_back(cotangent))
