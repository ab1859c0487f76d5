"""The aggregator and decoder: golden numbers forward and backward, chunks, masks, the padding, the selection."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.models import aggregator, architecture, arrangement, layers, spatial_layer
from ahs_seg_jax.models.class_layer import ClassLayer
from ahs_seg_jax.models.ops import chunks
from ahs_seg_jax.models.ops.windows import WindowAttention
from tests.support.goldens import assert_close, assert_trees_close, parameters

SIZES = architecture.AggregatorConfig(
    hidden=48,
    window=4,
    appearance_guidance=16,
    text_guidance=16,
    decoder=(32, 16),
    decoder_guidance=(16, 8),
    guidance_up=(20, 12),
    pad_len=8,
)


def _table():
    config = architecture.tiny().replace(aggregator=SIZES, embed_dim=24)
    return [e for e in layouts.entries("catseg", config) if e.source.startswith(layouts.PREDICTOR)]


def _run(p, x, sizes, **options):
    """The aggregator on one image at a time, since the golden text may differ by image."""
    module = aggregator.Aggregator(sizes, 24, **options)

    def one(module, image, text, appearance, up_1, up_2):
        guide = module.guide_image(appearance, (up_1, up_2))
        correlation = jnp.einsum("bhwe,tpe->bthwp", layers.l2_normalise(image), layers.l2_normalise(text))
        mean, kept = layers.l2_normalise(layers.l2_normalise(text).mean(1))[None], None
        if 0 < sizes.pad_len < text.shape[0]:
            kept = aggregator.keep_best(correlation, sizes.pad_len, None)
            correlation, mean = kept.take(correlation), kept.take(mean)
        y = module.aggregate(
            module.embed(correlation, image.dtype), guide["appearance"], mean, pooling=2, class_mask=None
        )
        logits = module.decode(y, module.prepare_decoder((guide["decoder_1"], guide["decoder_2"])))
        return kept.put_back(logits) if kept else logits

    channels_last = lambda a: jnp.asarray(a).transpose(0, 2, 3, 1)
    image, *guidance = (channels_last(x[name]) for name in ("image", "guidance0", "guidance1", "guidance2"))
    apply = functools.partial(module.apply, {"params": p["aggregator"]}, method=one)
    return jax.vmap(apply)(image[:, None], x["text"], *(g[:, None] for g in guidance))[:, 0]


def _case(path, name):
    with np.load(path) as stored:
        x = {key.removeprefix(f"{name}/"): stored[key] for key in stored.files if key.startswith(f"{name}/")}
    sizes = dataclasses.replace(SIZES, pad_len=0) if name == "nopad" else SIZES
    table = [entry for entry in _table() if sizes.pad_len or entry.transform != "token"]
    p = parameters(x, table, layouts.PREDICTOR, "param/")
    # Without padding classes the padding token has no gradient: PyTorch stores none, ours is zero.
    for entry in table:
        name = entry.source.removeprefix(layouts.PREDICTOR)
        x.setdefault(f"grad/{name}", np.zeros_like(x[f"param/{name}"]))
    gradient = parameters(x, table, layouts.PREDICTOR, "grad/")
    return p, x, sizes, gradient


def _check(p, x, sizes, gradient, **options):
    run = jax.jit(lambda p: _run(p, x, sizes, **options))
    logits, back = jax.vjp(run, p)
    assert_close(logits, x["logits"], 1e-4)
    assert_trees_close(
        back(jnp.asarray(x["cotangent"]))[0], gradient, 1e-3, zero=("block_1/key/bias", "block_2/key/bias")
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk": 2, "remat": "all"},
        {"chunk": 3, "remat": "cheap"},
        {"arrangement": arrangement.TPU, "remat": "all"},
        {"arrangement": dataclasses.replace(arrangement.DEFAULT, attention=WindowAttention("xla"))},
    ],
    ids=["whole", "all", "cheap", "tpu", "fused"],
)
def test_golden(golden, options, monkeypatch):
    monkeypatch.setattr(chunks, "TPU_CHUNK", 2)  # several chunks
    _check(*_case(golden / "aggregator_few.npz", "few"), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topk", "nopad"])
def test_golden_selection_and_no_padding(shared, name):
    _check(*_case(shared / "golden" / "aggregator.npz", name))


def test_sums_of_parts_of_the_classes_add_up():
    """The class layer over all classes, and in two parts whose sums are added; with padding tokens."""
    layer = ClassLayer(dataclasses.replace(SIZES, pad_len=11))
    keys = jax.random.split(jax.random.key(1), 3)
    x, guide = jax.random.normal(keys[0], (2, 7, 4, 6, 48)), jax.random.normal(keys[1], (2, 7, 16))
    mask, padding = jnp.arange(7)[None] < 6, jnp.asarray([5.0])
    run = lambda *args, method="__call__", **options: layer.apply(variables, *args, pooling=2, method=method, **options)
    variables = jax.jit(lambda key: layer.init(key, x, guide, pooling=2, class_mask=mask, padding=padding))(keys[2])
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)

    @jax.jit
    def both(x, guide):
        whole = run(x, guide, class_mask=mask, padding=padding)
        parts = [(x[:, part], guide[:, part], mask[:, part]) for part in (slice(4), slice(4, 7))]
        shares = [run(x, guide, class_mask=mask, method="sums") for x, guide, mask in parts]
        sums = jax.tree.map(jnp.add, *shares)
        sums = layer.apply(variables, sums, padding, x.dtype, method="complete")
        updated = [run(x, guide, sums, method="update") for x, guide, _ in parts]
        return whole, jnp.concatenate(updated, axis=1)

    whole, in_parts = both(x, guide)
    np.testing.assert_allclose(in_parts, whole, rtol=1e-5)


def test_shift_mask_by_hand():
    # A grid of 4 in windows of 2, shifted by 1: only the last window of a row or column joins strangers.
    mask = spatial_layer.shift_mask(4, 2, 1)
    assert mask.shape == (4, 4, 4)
    assert (mask[0] == 0).all()
    assert mask[1].tolist() == [[0, -100, 0, -100], [-100, 0, -100, 0]] * 2
    assert (mask[3] == np.where(np.eye(4), 0, -100)).all()


def test_keep_best_by_hand():
    correlation = jnp.asarray([[0.1, 0.9, 0.3, 0.7], [0.8, 0.2, 0.6, 0.4]]).reshape(2, 4, 1, 1, 1)
    kept = aggregator.keep_best(correlation, 2, None)
    assert kept.indices.tolist() == [[1, 3], [0, 2]]
    back = kept.put_back(kept.take(correlation[..., 0]))
    np.testing.assert_allclose(back[..., 0, 0], [[-100, 0.9, -100, 0.7], [0.8, -100, 0.6, -100]])
    masked = aggregator.keep_best(correlation, 2, jnp.asarray([True, False, True, True]))
    assert masked.indices.tolist() == [[2, 3], [0, 2]]
