"""The decoder's shortcuts equal what they stand for: the joined upsampling, the shared part, the head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import decoder, layers
from ahs_seg_jax.models.ops import products
from tests.support.goldens import assert_close


def stage(up=5, guidance=3, features=7, out=16):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    p = {
        "up": {"kernel": normal(2, 2, features, up), "bias": normal(up)},
        "conv_1": {"kernel": normal(3, 3, up + guidance, out)},
    }
    return p, normal(2, 3, 4, 11, features), normal(2, 8, 22, guidance), normal(2, 3, 8, 22, out)


def literally(p, x, guidance):
    """Transposed convolution, guidance beside it for every class, convolution."""
    up = layers.conv_transpose(x, p["up"])
    beside = jnp.broadcast_to(guidance[:, None], (*up.shape[:-1], guidance.shape[-1]))
    return layers.conv_same(jnp.concatenate([up, beside], -1), p["conv_1"])


def shortcut(p, x, guidance):
    return decoder.upsample(x, decoder.joined_kernel(p)) + products.for_classes(decoder.guidance_share(guidance, p), 3)


def test_joined_upsampling_and_share_are_transposed_convolution_then_convolution():
    p, x, guidance, cotangent = stage()
    found, back = jax.vjp(jax.jit(shortcut), p, x, guidance)
    expected, expected_back = jax.vjp(jax.jit(literally), p, x, guidance)
    assert_close(found, expected, 1e-6)
    for one, other in zip(jax.tree.leaves(back(cotangent)), jax.tree.leaves(expected_back(cotangent)), strict=True):
        assert_close(one, other, 1e-5)


def test_joined_kernel_of_one_pixel_by_hand():
    """A single input pixel of 1, kernels of ones, one channel: how many of the nine taps meet the upsampled 2x2."""
    p = {"up": {"kernel": jnp.ones((2, 2, 1, 1)), "bias": jnp.zeros(1)}, "conv_1": {"kernel": jnp.ones((3, 3, 1, 1))}}
    x = jnp.zeros((1, 1, 3, 3, 1)).at[0, 0, 1, 1, 0].set(1.0)
    counts = np.array([0, 1, 2, 2, 1, 0])  # along one axis
    np.testing.assert_array_equal(decoder.upsample(x, decoder.joined_kernel(p))[0, 0, ..., 0], np.outer(counts, counts))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7, 11), (13, 1, 4)])
def test_head_is_a_convolution(shape):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal(shape, np.float32))
    p = {"kernel": jnp.asarray(rng.standard_normal((3, 3, shape[-1], 1), np.float32)), "bias": jnp.full(1, 0.5)}
    cotangent = jnp.asarray(rng.standard_normal(shape[:-1], np.float32))
    found, back = jax.vjp(jax.jit(decoder.head), x, p)
    expected, expected_back = jax.vjp(jax.jit(lambda x, p: layers.conv_same(x, p)[..., 0]), x, p)
    assert_close(found, expected, 1e-6)
    for one, other in zip(jax.tree.leaves(back(cotangent)), jax.tree.leaves(expected_back(cotangent)), strict=True):
        assert_close(one, other, 1e-5)
