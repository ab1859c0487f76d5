"""Activations in bfloat16, as both published recipes have them, against float32: types, forward pass, gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.config import training
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.training import losses
from tests.support.small import random_params, small_model
from tests.support.training import batch, tokens

# What the network hands from part to part. All else stays in float32: the embeddings of the words, the rotations, the
# correlation, DC-HSP, whose losses divide by small numbers, and the weights of the pyramid's levels.
ACTIVATIONS = {"taps", "upsampled", "dense", "appearance", "decoder_1", "decoder_2", "aggregated"}

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
    assert ACTIVATIONS | {"text", "rotations", "correlation", "mh_fpn", "dc_hsp"} <= set(out)
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


def test_correlation_tells_close_classes_apart():
    """Forty words that hardly differ: the best at each position is that of float64, and the embedding sees it."""
    config, rng = small_model(adaptation="none", dtype="bfloat16"), np.random.default_rng(0)
    params = random_params(config)
    dense = jnp.asarray(rng.normal(size=(2, 6, 6, 16)), jnp.bfloat16)
    text = rng.normal(size=16) + 0.02 * rng.normal(size=(40, 1, 16))
    text = (text / np.linalg.norm(text, axis=-1, keepdims=True)).astype(np.float32)
    run = lambda config, method, *args: AHSSeg(config).apply({"params": params}, *args, method=method)

    found = run(config, "correlate", dense, text)
    wide = np.asarray(dense, np.float64)
    unit = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    expected = np.einsum("bhwe,tpe->bthwp", unit, text.astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=3e-7)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert (found.astype(jnp.bfloat16).argmax(1) != expected.argmax(1)).mean() > 0.05

    embed = lambda model, correlation, dtype: model.aggregator.embed(correlation, dtype)
    exact = run(config.replace(dtype="float32"), embed, found, jnp.float32)
    embedded = run(config, embed, found, jnp.bfloat16)
    assert embedded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(embedded, exact.astype(jnp.bfloat16))
