"""Activations in bfloat16, as both published recipes have them, against float32: types, forward pass, gradient."""

import jax
import numpy as np
import pytest

from ahs_seg_jax import losses
from ahs_seg_jax.models.ahs_seg import AHSSeg
from tests.support.small import random_params, small_model
from tests.support.training import batch, tokens

# What the network hands from part to part. Everything else stays in float32: the embeddings of the words, the rotations,
# DC-HSP, whose losses divide by small numbers, and the weights of the pyramid's levels.
ACTIVATIONS = {"taps", "upsampled", "dense", "appearance", "decoder_1", "decoder_2", "correlation", "aggregated"}

QUICKLY_COMPILED = {"xla_backend_optimization_level": 0}  # the program runs once


def run(dtype: str, params):
    """(loss, logits, `out`, gradient of the loss by every parameter)."""
    model, data = AHSSeg(small_model(dtype=dtype)), batch(2)

    def loss(params):
        dropout = {"dropout": jax.random.key(0)}
        logits, out = model.apply({"params": params}, data["image"], tokens(), train=True, rngs=dropout)
        return losses.total_loss(logits, out, data["label"], losses.LossConfig())[0], (logits, out)

    differentiated = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY_COMPILED)
    (value, (logits, out)), gradient = differentiated(params)
    return value, logits, out, gradient


@pytest.fixture(scope="module")
def both():
    """{dtype: what `run` returns} with the same random parameters."""
    params = random_params(small_model())
    return {dtype: run(dtype, params) for dtype in ("float32", "bfloat16")}


def error(found, expected) -> float:
    """The norm of the difference of two trees, as a share of the norm of the second."""
    squares = [
        (np.square(np.float64(x) - np.float64(y)).sum(), np.square(np.float64(y)).sum())
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    return float(np.sqrt(sum(d for d, _ in squares) / sum(n for _, n in squares)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_activations_are_of_the_models_type(both, dtype):
    value, logits, out, gradient = both[dtype]
    assert ACTIVATIONS < set(out)
    for name, entry in out.items():
        expected = dtype if name in ACTIVATIONS else "float32"
        assert {leaf.dtype.name for leaf in jax.tree.leaves(entry)} == {expected}, name
    assert (value.dtype.name, logits.dtype.name) == ("float32", "float32")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


def test_loss_is_that_of_float32_within_one_per_cent(both):
    np.testing.assert_allclose(both["bfloat16"][0], both["float32"][0], rtol=0.01)


def test_forward_pass_is_that_of_float32(both):
    (_, logits, out, _), (_, expected_logits, expected, _) = both["bfloat16"], both["float32"]
    assert np.isfinite(logits).all()
    assert error(logits, expected_logits) < 0.04
    for name in out:
        assert error(out[name], expected[name]) < 0.04, name


def test_gradient_is_that_of_float32(both):
    """As a whole: where a part of it is small, as those of keys' biases, which are zero but for rounding, it is chance."""
    found, expected = both["bfloat16"][3], both["float32"][3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert error(found, expected) < 0.2
