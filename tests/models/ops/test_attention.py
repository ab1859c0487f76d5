"""Attention equals the definition, forward and backward; masks; large scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models.ops import attention
from tests.support.goldens import assert_close


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in ((3, 5, 2, 7), (3, 11, 2, 7), (3, 11, 2, 7))
    ]


def definition(query, key, value, bias=None):
    return jax.nn.dot_product_attention(query, key, value, bias=bias)


@pytest.mark.parametrize("masked", [False, True])
def test_is_the_definition(masked):
    bias = None
    if masked:
        bias = jnp.where(jnp.arange(11)[None, None, None] <= 2 * jnp.arange(5)[None, None, :, None], 0.0, -1e9)
    found, back = jax.vjp(lambda *x: attention.attend(*x, bias=bias), *arrays())
    expected, expected_back = jax.vjp(lambda *x: definition(*x, bias=bias), *arrays())
    assert_close(found, expected, 1e-6)
    cotangent = jnp.asarray(np.random.default_rng(2).standard_normal(found.shape, np.float32))
    for one, other in zip(back(cotangent), expected_back(cotangent), strict=True):
        assert_close(one, other, 1e-5)


def test_large_scores_do_not_overflow():
    query, key, value = arrays()
    found = attention.attend(1e4 * query, key, value)
    # The largest score takes everything.
    best = jnp.einsum("bnmd,bkmd->bmnk", query, key).argmax(-1)
    expected = jnp.take_along_axis(jnp.moveaxis(value, 2, 1), best[..., None], 2)
    assert_close(jnp.moveaxis(found, 2, 1), expected, 1e-6)


def test_bfloat16_stays_bfloat16_and_close():
    narrow = [x.astype(jnp.bfloat16) for x in arrays()]
    found = attention.attend(*narrow)
    assert found.dtype == jnp.bfloat16
    assert_close(found.astype(jnp.float32), definition(*arrays()), 3e-2)
