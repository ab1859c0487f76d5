"""Activations in bfloat16, as both published recipes have them, against float32: types, forward pass, gradient."""

import functools

import jax
import numpy as np
import pytest

from ahs_seg_jax.config import training
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.training import losses
from tests.support.small import random_params, small_model
from tests.support.training import batch, tokens

# What the network hands from part to part. All else stays in float32: the embeddings of the words, the rotations,
# DC-HSP, whose losses divide by small numbers, and the weights of the pyramid's levels.
ACTIVATIONS = {"taps", "upsampled", "dense", "appearance", "decoder_1", "decoder_2", "correlation", "aggregated"}

QUICKLY_COMPILED = {"xla_backend_optimization_level": 0}  # the program runs once


def loss(params, config: ModelConfig):
    """The loss, the logits and `out` of two images."""
    data, dropout = batch(2), {"dropout": jax.random.key(0)}
    applied = AHSSeg(config).apply({"params": params}, data["image"], tokens(), train=True, rngs=dropout)
    return losses.total_loss(*applied, data["label"], training.LossConfig())[0], applied


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_activations_are_of_the_models_type(dtype):
    config = small_model(dtype=dtype)
    differentiated = jax.value_and_grad(functools.partial(loss, config=config), has_aux=True)
    (value, (logits, out)), gradient = jax.eval_shape(differentiated, random_params(config))
    assert ACTIVATIONS | {"text", "rotations", "mh_fpn", "dc_hsp"} <= set(out)
    for name, entry in out.items():
        expected = dtype if name in ACTIVATIONS else "float32"
        assert {leaf.dtype.name for leaf in jax.tree.leaves(entry)} == {expected}, name
    assert (value.dtype.name, logits.dtype.name) == ("float32", "float32")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


@pytest.fixture(scope="module")
def both():
    """{dtype: (loss, logits, `out`, gradient)} with the same random parameters.

    Without rotations, which are float32 in both and take half of the time to compile.
    """
    params, found = random_params(small_model(adaptation="none")), {}
    for dtype in ("float32", "bfloat16"):
        config = small_model(adaptation="none", dtype=dtype)
        differentiated = jax.value_and_grad(functools.partial(loss, config=config), has_aux=True)
        (value, (logits, out)), gradient = jax.jit(differentiated, compiler_options=QUICKLY_COMPILED)(params)
        found[dtype] = (value, logits, out, gradient)
    return found


def error(found, expected) -> float:
    """The norm of the difference of two trees, as a share of the norm of the second."""
    squares = [
        (np.square(np.float64(x) - np.float64(y)).sum(), np.square(np.float64(y)).sum())
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    return float(np.sqrt(sum(d for d, _ in squares) / sum(n for _, n in squares)))


def test_loss_is_that_of_float32_within_one_per_cent(both):
    np.testing.assert_allclose(both["bfloat16"][0], both["float32"][0], rtol=0.01)


def test_forward_pass_is_that_of_float32(both):
    (_, logits, out, _), (_, expected_logits, expected, _) = both["bfloat16"], both["float32"]
    assert np.isfinite(logits).all()
    assert error(logits, expected_logits) < 0.04
    for name in out.keys() - {"rotations"}:
        assert error(out[name], expected[name]) < 0.04, name


def test_gradient_is_that_of_float32(both):
    """As a whole: a small part of it, as of keys' biases, which are zero but for rounding, is chance."""
    found, expected = both["bfloat16"][3], both["float32"][3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert error(found, expected) < 0.2
