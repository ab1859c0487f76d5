"""Convolutions inside compiled loops, where gradients are written by hand."""

import jax
import numpy as np
import pytest

from ahs_seg_jax.models import layers


@pytest.mark.parametrize(("side", "channels", "features"), [(3, 5, 7), (3, 4, 1), (1, 3, 2), (5, 2, 3)])
def test_convolutions_in_loops_are_the_same_and_have_the_same_gradient(side, channels, features):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 7, 11, channels))
    p = {"kernel": jax.random.normal(keys[1], (side, side, channels, features))}
    cotangent = jax.random.normal(keys[2], (2, 7, 11, features))
    plain, looped = (
        jax.vjp(lambda x, p, i=in_loop: layers.conv_same(x, p, in_loop=i), x, p) for in_loop in (False, True)
    )
    np.testing.assert_array_equal(layers.conv_same(x, p), layers.conv_same(x, p, in_loop=True))
    np.testing.assert_allclose(plain[0], looped[0], rtol=1e-5, atol=1e-5)  # another way, where a gradient is asked for
    for expected, actual in zip(*(jax.tree.leaves(back(cotangent)) for _, back in (plain, looped)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
