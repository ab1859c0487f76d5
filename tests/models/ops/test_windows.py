"""Windows are cut and joined in both orders, and every way to attend in them gives the same, forward and backward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models import architecture, arrangement
from ahs_seg_jax.models.architecture import AggregatorConfig
from ahs_seg_jax.models.ops import windows
from ahs_seg_jax.models.ops.windows import PRODUCTS, WindowAttention
from ahs_seg_jax.models.spatial_layer import SpatialLayer
from benchmarks.counting import flops
from benchmarks.lowered import lowered
from tests.support.goldens import assert_close, assert_trees_close

FUSED = WindowAttention("xla")  # as the kernel takes windows, by XLA's own operations
SIZES = AggregatorConfig(hidden=24, heads=3, window=4, mlp_ratio=2, appearance_guidance=5)


def test_windows_by_hand():
    x = jnp.arange(1 * 1 * 4 * 6).reshape(1, 1, 4, 6, 1)
    found = PRODUCTS.split(x, 2)
    assert found.shape == (1, 1, 6, 4, 1)
    assert found[0, 0, 1].ravel().tolist() == [2, 3, 8, 9]
    tokens_first = FUSED.split(x, 2)
    assert tokens_first.shape == (1, 1, 4, 6, 1)
    np.testing.assert_array_equal(jnp.swapaxes(tokens_first, 2, 3), found)
    for way in (PRODUCTS, FUSED):
        np.testing.assert_array_equal(way.join(way.split(x, 2), 2, 4, 6), x)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_every_way_gives_the_same_result_and_gradient(dtype, tolerance):
    """A spatial layer: one block of whole windows, one of shifted ones, which have a mask."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 3, 8, 8, 24)).astype(dtype)
    guidance = jax.random.normal(keys[1], (2, 8, 8, 5)).astype(dtype)
    layer = SpatialLayer(SIZES)
    params = layer.init(keys[2], x, guidance, chunk=0, remat="none")

    def run(way):
        apply = SpatialLayer(SIZES, attention=way).apply
        found, back = jax.vjp(lambda p, x: apply(p, x, guidance, chunk=0, remat="none"), params, x)
        return found, back(jnp.broadcast_to(jnp.arange(24, dtype=found.dtype), found.shape))

    (found, (of_params, of_x)), (expected, (expected_params, expected_x)) = (
        jax.jit(run, static_argnums=0)(way) for way in (FUSED, PRODUCTS)
    )
    assert found.dtype == expected.dtype == dtype
    assert_close(found, expected, tolerance)
    assert_close(of_x, expected_x, 3 * tolerance)
    if dtype == "float32":
        assert_trees_close(of_params, expected_params, 1e-4, zero=("block_1/key/bias", "block_2/key/bias"))


def test_without_a_mask_neighbours_across_the_border_would_attend():
    """The mask belongs to its window: with another order of windows the result is another."""
    keys = jax.random.split(jax.random.key(1), 4)
    query, key, value = (jax.random.normal(k, (1, 2, 4, 6, 24)) for k in keys[:3])
    mask = np.where(np.arange(4)[None, :] <= np.arange(4)[:, None], 0.0, -100.0).astype(np.float32)
    mask = np.stack([mask, *[np.zeros_like(mask)] * 5])
    swap = lambda x: jnp.swapaxes(x, 2, 3)
    fused = FUSED.attend(query, key, value, 3, mask)
    expected = swap(PRODUCTS.attend(swap(query), swap(key), swap(value), 3, mask))
    assert_close(fused, expected, 1e-5)
    assert np.abs(fused - FUSED.attend(query, key, value, 3, mask[::-1])).max() > 0.1


def test_the_kernel_is_used_only_where_it_takes_the_model():
    published = architecture.vitb16().replace(dtype="bfloat16", window_attention="cudnn")
    used = lambda config, platform: arrangement.for_platform(config, platform).attention.by
    assert used(published, "gpu") == "cudnn"
    assert used(published, "cpu") == "products"
    assert arrangement.for_platform(published, "tpu") is arrangement.TPU
    assert used(published.replace(dtype="float32"), "gpu") == "products"
    odd = dataclasses.replace(published.aggregator, window=3)
    assert used(published.replace(aggregator=odd), "gpu") == "products"
    narrow = dataclasses.replace(published.aggregator, hidden=48)  # heads of 12
    assert used(published.replace(aggregator=narrow), "gpu") == "products"
    assert used(architecture.vitb16(), "gpu") == "products", "off until it has been measured"
    assert used(architecture.vitb16().replace(window_attention="xla"), "cpu") == "xla"
    assert windows.fits_cudnn(dtype="bfloat16", head=128, window=12)
    assert not windows.fits_cudnn(dtype="bfloat16", head=136, window=12)


def test_the_kernel_takes_the_published_sizes(monkeypatch):
    """JAX's own checks of what cuDNN takes, forward and backward, without cuDNN; and the work is that of products."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91100)
    config = architecture.vitb16().aggregator
    x, guidance = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((1, 2, 24, 24, 128), (1, 24, 24, 128)))
    layer = SpatialLayer(config)
    params = jax.eval_shape(lambda *a: layer.init(jax.random.key(0), *a, chunk=0, remat="none"), x, guidance)

    def gradient(way):
        apply = SpatialLayer(config, attention=WindowAttention(way)).apply
        return jax.grad(lambda p, x, g: apply(p, x, g, chunk=0, remat="none").sum().astype(jnp.float32), argnums=(0, 1))

    found = lowered(gradient("cudnn"), params, x, guidance)
    for kernel in ("fmhaSoftmax", "fmhaScaleBiasSoftmax", "fmhaSoftmaxBackward", "fmhaScaleBiasSoftmaxBackward"):
        assert found.calls.count(f"__cudnn${kernel}") == 1, found.calls
    work = {way: flops.count(gradient(way), params, x, guidance).flops for way in ("products", "cudnn")}
    scores = 2.0 * 4 * 4 * 144 * 144 * 32  # of one class in one block: 4 windows, 4 heads
    assert work["cudnn"] - work["products"] == 2 * 2 * scores, "backward they are computed again"
