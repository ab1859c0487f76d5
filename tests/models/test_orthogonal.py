"""Rotations: golden numbers, inverses of every size of matrix, gradients, merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import architecture, orthogonal
from ahs_seg_jax.models.ops import inverse
from ahs_seg_jax.models.towers.interface import SLOTS
from tests.support.goldens import assert_close

cayley = jax.jit(orthogonal.cayley)


@pytest.fixture(scope="module")
def stored(golden):
    with np.load(golden / "orthogonal.npz") as stored:
        return {name: jnp.asarray(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def energies(golden):
    with np.load(golden / "ha_hem.npz") as stored:
        return {name: jnp.asarray(stored[name]) for name in stored.files}


def test_cayley_golden(stored):
    assert_close(cayley(stored["R_q"]), stored["cayley_q"], 1e-5)


@pytest.mark.parametrize("kind", ["cayley", "free"])
def test_rotated_projections_golden(stored, kind):
    width = stored["x"].shape[-1]
    matrices = jnp.stack([stored[f"R_{role}"] for role in "qkvo"])[None]
    rotation = cayley(matrices) if kind == "cayley" else jnp.eye(8)[None, None, None] + matrices
    plain = [*jnp.split(stored["qkv_weight"], 3), stored["out_weight"]]
    kernels = dict(zip(SLOTS, (weight.T[None] for weight in plain), strict=True))
    rotated = orthogonal.rotate(kernels, rotation)
    qkv = jnp.concatenate([stored["x"] @ rotated[name][0] for name in SLOTS[:3]], -1) + stored["qkv_bias"][None, None]
    assert_close(qkv, stored[f"{kind}_qkv_out"], 1e-5)
    projected = stored["x"] @ rotated["out"][0] + stored["out_bias"][None, None]
    assert projected.shape[-1] == width
    assert_close(projected, stored[f"{kind}_proj_out"], 1e-5)


@pytest.mark.parametrize("side", [13, 83])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.3, 5.0, 200.0])
def test_cayley_is_a_rotation_and_agrees_with_a_solver(scale, side):
    x = scale * jax.random.normal(jax.random.key(0), (3, side, side))
    rotation = np.asarray(cayley(x), np.float64)
    skew = np.asarray((x - x.swapaxes(-1, -2)) / 2, np.float64)
    eye = np.broadcast_to(np.eye(side), skew.shape)
    exact = np.linalg.solve((eye + skew).swapaxes(-1, -2), (eye - skew).swapaxes(-1, -2)).swapaxes(-1, -2)
    np.testing.assert_allclose(rotation, exact, atol=1e-4)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), eye, atol=1e-4)


def test_cayley_of_matrices_that_rounding_spoils_by_blocks_beside_one_that_it_does_not():
    x = jnp.asarray([0.3, 2e4])[:, None, None] * jax.random.normal(jax.random.key(3), (2, 67, 67))
    skew = (x - x.swapaxes(-1, -2)) / 2
    eye = jnp.broadcast_to(jnp.eye(67), skew.shape)
    spoilt = eye - (eye + skew) @ jax.jit(inverse._by_blocks)(eye + skew)
    assert not np.linalg.norm(spoilt[1]) < 0.5
    rotation = cayley(x)
    np.testing.assert_allclose(rotation @ rotation.swapaxes(-1, -2), eye, atol=2e-3)
    alone = cayley(x[:1])[0]
    np.testing.assert_allclose(rotation[0], alone, atol=1e-6)


def test_cayley_gradient_agrees_with_finite_differences():
    x, direction = jax.random.normal(jax.random.key(1), (2, 5, 7, 7))
    loss = jax.jit(lambda x: jnp.sum(cayley(x) * jnp.cos(jnp.arange(49.0).reshape(1, 7, 7))))
    step = 1e-2
    numeric = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(x), direction), numeric, rtol=2e-3)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_ha_hem_golden(energies, tower):
    part = {name.removeprefix(f"{tower}/"): value for name, value in energies.items() if name.startswith(tower)}
    layers = (0, 2, 4)
    # The file has three layers of five. The identity, which has no energy, stands for the others.
    rotation = jnp.broadcast_to(jnp.eye(part["layer0/R"].shape[-1]), (5, *part["layer0/R"].shape))
    rotation = rotation.at[np.asarray(layers)].set(jnp.stack([part[f"layer{layer}/R"] for layer in layers]))[:, None]

    def value(alpha_logits, beta_logit):
        alpha, beta = jax.nn.sigmoid(alpha_logits), jax.nn.sigmoid(beta_logit)
        modulated = orthogonal.modulate(rotation, alpha, beta)
        return orthogonal.energy(modulated, alpha), modulated

    differentiated = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
    (energy, modulated), gradient = differentiated(part["alpha_logits"], part["beta_logit"])
    for layer in layers:
        assert_close(modulated[layer, 0], part[f"layer{layer}/R_adapt"], 1e-5)
    assert_close(energy, part["energy"], 1e-5)
    assert_close(gradient[0], part["grad_alpha_logits"], 1e-4)
    assert_close(gradient[1], part["grad_beta_logit"], 1e-4)
    assert_close(orthogonal.energy_weights(5), part["layer_weights"], 1e-6)


def _small(adaptation):
    return architecture.tiny().replace(
        image=architecture.ImageTowerConfig(layers=3, width=40, heads=5, patch_size=4, crop=12, pretrained_grid=3),
        text=architecture.TextTowerConfig(layers=2, width=24, heads=3, vocab_size=31, context=7),
        embed_dim=16,
        block_size=8,
        adaptation=adaptation,
    )


def test_initial_rotations_are_the_identity_and_ha_hem_starts_where_it_says():
    config = _small("ha_hem")
    module = orthogonal.OrthogonalAdaptation(config)
    out, variables = jax.jit(module.init_with_output)(jax.random.key(0))
    assert out["text"].shape == (2, 4, 3, 8, 8)
    assert out["image"].shape == (3, 4, 5, 8, 8)
    for tower in ("text", "image"):
        np.testing.assert_array_equal(out[tower], jnp.broadcast_to(jnp.eye(8), out[tower].shape))
    np.testing.assert_allclose(out["alpha_text"], 0.3, rtol=1e-6)
    np.testing.assert_allclose([out["beta_text"], out["beta_image"]], [0.7, 0.99], rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda v: module.apply(v)["energy"]))(variables)["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_mixing_by_hand():
    """Slot and block relations against the sums written out."""
    config = _small("orthogonal")
    module = orthogonal.OrthogonalAdaptation(config)
    p = jax.jit(module.init)(jax.random.key(0))["params"]
    keys = iter(jax.random.split(jax.random.key(1), 3))
    p = {name: value + 0.1 * jax.random.normal(next(keys), value.shape) for name, value in p.items()}
    out = jax.jit(module.apply)({"params": p})
    core, block_mix, slot_mix = (np.asarray(p[name], np.float64) for name in ("core", "block_mix", "slot_mix"))
    layer, role, block = 2, 1, 4  # an image block: text has 3
    mixed = np.einsum("xysi,i->xys", core, block_mix[layer, 3 + block])
    expected = np.einsum("xys,s->xy", mixed, slot_mix[4 * layer + role])
    np.testing.assert_allclose(out["image"][layer, role, block], expected, atol=1e-5)


def test_merge_leaves_a_plain_model_alone():
    config = _small("none")
    params = {"clip": {"anything": 1}}
    assert orthogonal.merge(config, params) == (config, params)
