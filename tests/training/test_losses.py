"""Losses: golden numbers, values by hand, unlabelled pixels, chunks, finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.config import training
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.training import losses
from tests.support.goldens import assert_close


@pytest.fixture(scope="module")
def boundary(golden):
    with np.load(golden / "boundary.npz") as stored:
        return {name: jnp.asarray(stored[name]) for name in stored.files}


@pytest.mark.parametrize("chunk", [0, 3])
def test_boundary_golden(boundary, chunk):
    one_scale = lambda x: losses.boundary_loss(x, boundary["labels"], scales=((1.0, 1.0),), chunk=chunk)
    value, gradient = jax.jit(jax.value_and_grad(one_scale))(boundary["logits"])
    assert_close(value, boundary["loss_onehot"], 1e-4)
    edges = np.asarray(boundary["edges_of_sigmoid"])
    # Around the largest edge the reference's gradient is rounding noise.
    image, channel, row, column = np.unravel_index(edges.argmax(), edges.shape)
    around = (image, channel, slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
    ours, theirs = np.array(gradient), np.array(boundary["grad_onehot"])
    ours[around] = theirs[around] = 0.0
    assert_close(ours, theirs, 1e-3)
    both = jax.jit(losses.boundary_loss, static_argnames="chunk")(boundary["logits"], boundary["labels"], chunk=chunk)
    assert_close(both, boundary["multiscale_onehot"], 1e-4)


def test_sobel_golden(boundary):
    assert_close(losses.sobel_magnitude(jax.nn.sigmoid(boundary["logits"])), boundary["edges_of_sigmoid"], 1e-4)


@pytest.mark.parametrize("chunk", [0, 2])
def test_unlabelled_pixels_are_ignored_where_that_is_asked_for(chunk):
    logits = jax.random.normal(jax.random.key(1), (2, 5, 3, 7))
    labels = jax.random.randint(jax.random.key(2), (2, 3, 7), 0, 5).at[0].set(-1).at[1, 2].set(-1)
    x, hot = np.asarray(logits)[1, :, :2], np.asarray(losses.one_hot(labels, jnp.arange(5)))[1, :, :2]
    ignoring = lambda x: losses.segmentation_loss(x, labels, chunk, "ignored")
    value, gradient = jax.jit(jax.value_and_grad(ignoring))(logits)
    np.testing.assert_allclose(value, (np.logaddexp(0, x) - x * hot).mean(), rtol=1e-6)
    assert not np.asarray(gradient)[0].any()
    assert not np.asarray(gradient)[1, :, 2].any()
    assert np.asarray(gradient)[1, :, :2].all()
    assert float(losses.segmentation_loss(logits, jnp.full_like(labels, -1), chunk, "ignored")) == 0
    whole = jnp.maximum(labels, 0)
    both = [losses.segmentation_loss(logits, whole, chunk, rule) for rule in ("ignored", "negative")]
    np.testing.assert_allclose(*both, rtol=1e-6)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.7])
def test_boundary_is_its_definition_step_by_step(scale, chunk):
    logits = 2 * jax.random.normal(jax.random.key(5), (2, 5, 3, 7))
    labels = jax.random.randint(jax.random.key(6), (2, 13, 29), 0, 5).at[1, 2, 3].set(-1)
    size = (int(13 * scale), int(29 * scale))

    def definition(logits):
        to = lambda x, size: resize.bilinear(x, size, (-2, -1))
        predicted = losses.sobel_magnitude(jax.nn.sigmoid(to(to(logits, (13, 29)), size)))
        target = losses.sobel_magnitude(to(losses.one_hot(labels, jnp.arange(5)), size))
        counted = ~losses._near_unlabelled(labels, size)
        edge = jnp.where(predicted == predicted.max(), 1.0, predicted / (predicted.max() + 1e-8))
        entropy = losses._edge_cross_entropy(edge, target / (target.max() + 1e-8), -100.0)
        return jnp.where(counted, entropy, 0.0).sum() / (counted.sum() * 5)

    ours = lambda x: losses.boundary_loss(x, labels, scales=((scale, 0.3),), chunk=chunk)
    # The largest edge is computed twice, and is taken for the largest where both are equal to the last bit: compiled
    # without optimisation, as other tests are, they are not. It is one pixel, which counts here and not in a training.
    options = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    (value, gradient), (expected, its_gradient) = (
        jax.jit(jax.value_and_grad(f), compiler_options=options)(logits) for f in (ours, definition)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, its_gradient, rtol=1e-4, atol=1e-6)


def test_boundary_leaves_out_what_is_near_unlabelled_pixels():
    logits = jax.random.normal(jax.random.key(0), (1, 2, 7, 11))
    labels = jnp.zeros((1, 7, 11), jnp.int32).at[0, 3, 4].set(-1)
    one_scale = jax.jit(lambda x, labels=labels: losses.boundary_loss(x, labels, scales=((1.0, 1.0),)))
    # Counted pixels still see a logit two pixels away; a logit in the middle of the hole is seen by none of them.
    gradient = np.asarray(jax.grad(one_scale)(logits))
    largest = np.asarray(losses.sobel_magnitude(jax.nn.sigmoid(logits))).max()
    assert np.isfinite(gradient).all()
    assert largest > 0
    everything_unlabelled = one_scale(logits, jnp.full((1, 7, 11), -1))
    assert float(everything_unlabelled) == 0.0
    hidden = one_scale(logits.at[0, :, 3, 4].add(0.01))
    assert float(hidden) == pytest.approx(float(one_scale(logits)), abs=2e-3)


def test_boundary_floor_bounds_the_loss_and_its_gradient_is_finite():
    # A prediction with one sharp edge where there is none: the clamp decides.
    logits = jnp.full((1, 1, 5, 5), -20.0).at[0, 0, 2, 2].set(20.0)
    labels = jnp.full((1, 5, 5), 1)
    for floor in (-100.0, -13.8):
        loss = jax.value_and_grad(lambda x, f=floor: losses.boundary_loss(x, labels, floor=f))
        value, gradient = jax.jit(loss)(logits)
        assert 0 < float(value) < -floor
        assert np.isfinite(gradient).all()


def test_segmentation_by_hand():
    logits = jnp.zeros((1, 3, 2, 2)).at[0, 1].set(2.0)
    labels = jnp.asarray([[[1, 1], [0, -1]]])
    softplus = float(np.log1p(np.exp(2.0)))
    expected = (4 * np.log(2) * 2 + 4 * softplus - 2 * 2.0 - 0.0) / 12
    assert float(losses.segmentation_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_segmentation_chunks_change_nothing(chunk):
    logits = jax.random.normal(jax.random.key(1), (2, 5, 3, 4))
    labels = jax.random.randint(jax.random.key(2), (2, 7, 11), -1, 5)
    whole, chunked = (
        jax.value_and_grad(lambda x, c=c: losses.segmentation_loss(x, labels, c))(logits) for c in (0, chunk)
    )
    np.testing.assert_allclose(chunked[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(chunked[1], whole[1], rtol=1e-5, atol=1e-8)


def test_contrastive_by_hand():
    # Two classes, each with its own axis; the third text is absent from the labels.
    image = jnp.asarray([[[[2.0, 0.0], [0.0, 3.0]]]])
    text = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = float(np.log(1 + np.exp(-10.0)))
    loss = jax.jit(losses.contrastive_loss)
    assert float(loss(image, text, jnp.asarray([[[0, 1]]]))) == pytest.approx(expected, rel=0.02)
    assert float(loss(image, text, jnp.asarray([[[0, -1]]]))) == 0.0
    gradient = jax.jit(jax.grad(losses.contrastive_loss))(image, text, jnp.asarray([[[-1, -1]]]))
    assert np.isfinite(gradient).all()


def test_hierarchy_by_hand():
    text = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    pairs = losses.ClassPairs(np.asarray([[0, 1]]), np.asarray([[0, 2]]))
    # Orthogonal parent and child: |1 - 0.3|; parallel siblings: |0 - 0.5|.
    assert float(losses.hierarchy_loss(text, pairs)) == pytest.approx((0.7 + 0.5) / 2)


def test_which_losses_there_are():
    logits, labels = jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 4, 4), jnp.int32)
    config = training.LossConfig()
    total, parts = jax.jit(lambda x: losses.total_loss(x, {"rotations": {}}, labels, config))(logits)
    assert set(parts) == {"segmentation"}
    assert float(total) == pytest.approx(np.log(2))
    sphere = {"image": jnp.ones((1, 2, 2, 3)), "text": jnp.ones((2, 3))}
    out = {"rotations": {"energy": jnp.asarray(2.0)}, "mh_fpn": {}, "dc_hsp": sphere}
    pairs = losses.ClassPairs(np.zeros((0, 2), int), np.asarray([[0, 1]]))
    total, parts = jax.jit(lambda x: losses.total_loss(x, out, labels, config, pairs))(logits)
    assert set(parts) == {"segmentation", "energy", "boundary", "contrastive", "hierarchy"}
    assert float(total) == pytest.approx(sum(getattr(config, name) * float(value) for name, value in parts.items()))
