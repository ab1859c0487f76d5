"""PAMR and PEARL's propagation by their definitions, on sizes that no axis shares."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models.training_free import pamr, propagation

H, W = 11, 13


def by_definition(logits, image, steps, dilations):
    """PAMR pixel by pixel, in float64."""
    at = lambda array, y, x: array[:, min(max(y, 0), H - 1), min(max(x, 0), W - 1)]
    around = list(itertools.product((-1, 0, 1), repeat=2))
    for _ in range(steps):
        result = np.zeros_like(logits)
        for y, x in itertools.product(range(H), range(W)):
            every = np.stack([at(image, y + i * d, x + j * d) for d in dilations for i, j in around])
            spread = every.std(0, ddof=1)
            places = [(y + i * d, x + j * d) for d in dilations for i, j in around if (i, j) != (0, 0)]
            score = np.array([(-np.abs(image[:, y, x] - at(image, *p)) / (1e-8 + 0.1 * spread)).mean() for p in places])
            share = np.exp(score - score.max())
            share /= share.sum()
            result[:, y, x] = sum(s * at(logits, *p) for s, p in zip(share, places, strict=True))
        logits = result
    return logits


@pytest.mark.parametrize("dilations", [(1,), (1, 3)])
def test_pamr_by_its_definition_padded_and_not(dilations):
    rng = np.random.default_rng(0)
    logits, image = rng.normal(size=(2, H, W)), rng.normal(size=(3, H, W))
    expected = by_definition(logits, image, 2, dilations)
    for padded in ((H, W), (17, 19)):
        index = [pamr.extended_index(n, m, max(dilations)) for n, m in zip((H, W), padded, strict=True)]
        wider = [(0, 0), (0, padded[0] - H), (0, padded[1] - W)]
        given = [jnp.asarray(np.pad(x, wider, constant_values=7.0), jnp.float32) for x in (logits, image)]
        shares = pamr.weights(given[1], *index, dilations)
        np.testing.assert_allclose(shares[:, :H, :W].sum(0), 1, rtol=1e-5)
        found = pamr.refined(given[0], shares, *index, steps=2, dilations=dilations)
        np.testing.assert_allclose(found[:, :H, :W], expected, atol=2e-5)


def test_pooling_rounds_half_to_even():
    assert [propagation.pooling(extent, 80) for extent in (30, 120, 200, 229, 480)] == [1, 2, 2, 3, 6]


def test_propagation_does_not_see_what_fills_up_the_queries():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    logits, image, text = draw(3, 5, 7) / 4, draw(3, 5, 7), draw(3, 8)
    propagated = jax.jit(propagation.propagated)
    alone = propagated(logits, image, text, jnp.ones(3, bool))
    more = propagated(
        jnp.concatenate([logits, draw(2, 5, 7)]), image, jnp.concatenate([text, draw(2, 8)]), jnp.arange(5) < 3
    )
    np.testing.assert_allclose(more[:3], alone, atol=1e-6)
    assert np.abs(alone - logits).max() > 0.01
    np.testing.assert_array_equal(more[3:], 0)


def test_propagation_keeps_what_all_pixels_agree_on():
    logits = jnp.broadcast_to(jnp.asarray([0.3, -0.1], jnp.float32).reshape(2, 1, 1), (2, 5, 7))
    image = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5, 7)), jnp.float32)
    found = propagation.propagated(logits, image, jnp.eye(2, dtype=jnp.float32), jnp.ones(2, bool))
    np.testing.assert_allclose(found, logits, atol=1e-6)
