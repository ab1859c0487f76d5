"""The compiled parts of inference.

Axes: b view, t class of a chunk, p prompt, e joint embedding, h w feature grid, c hidden channels, g side of the
logits.

A chunk of classes goes through embedding, spatial layers, class layers and decoder on its own; chunks meet in the two
sums of the class attention only (`ClassLayer.sums`). So no program depends on the number of classes, only on the chunk.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.compiled import Compiled
from ahs_seg_jax.models.ahs_seg import AHSSeg, mean_text
from ahs_seg_jax.models.class_attention import Sums
from ahs_seg_jax.models.decoder import Prepared


def _call(model: AHSSeg, params: Any, method: Callable[..., Any], *args: Any) -> Any:
    with jax.default_matmul_precision("highest" if model.config.dtype == "float32" else "default"):
        return model.apply({"params": params}, *args, method=method)


def _encode_image(model: AHSSeg, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Views `[b, s, s, 3]` RGB 0..255 -> what `AHSSeg.encode_image` returns."""
    return _call(model, params, AHSSeg.encode_image, images)


def encode_text(model: AHSSeg, params: Any, tokens: jax.Array) -> jax.Array:
    """Token ids `[t, p, l]` -> unit-length embeddings `[t, p, e]`; not compiled."""
    return _call(model, params, AHSSeg.encode_text, tokens)


def _best_correlation(model: AHSSeg, params: Any, dense: jax.Array, text: jax.Array) -> jax.Array:
    """The largest correlation of each class `[b, t]`, over positions and prompts."""
    return _call(model, params, AHSSeg.correlate, dense, text).astype(jnp.float32).max((2, 3, 4))


def _embed_classes(model: AHSSeg, params: Any, dense: jax.Array, text: jax.Array) -> jax.Array:
    """Embedded correlation `[b, t, h, w, c]` of text `[t, p, e]` with dense features `[b, h, w, e]`."""
    return _call(model, params, lambda m, d, x: m.aggregator.embed(m.correlate(d, x)), dense, text)


def _spatial_layer(
    model: AHSSeg,
    params: Any,
    x: jax.Array,
    appearance: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    *,
    index: int,
    pooling: int,
) -> tuple[jax.Array, Sums]:
    """A chunk after spatial layer `index`, and its share of the class layer's sums."""

    def run(m: AHSSeg, x: jax.Array) -> tuple[jax.Array, Sums]:
        layer = m.aggregator.layers[index]
        x = layer.spatial(x, appearance, chunk=0, remat="none")
        guidance = m.aggregator.guide_text(mean_text(text)[None], x.dtype)
        return x, layer.classes.sums(x, guidance, pooling=pooling, class_mask=mask[None])

    return _call(model, params, run, x)


def _complete_sums(model: AHSSeg, params: Any, sums: Sums, classes: jax.Array, *, index: int) -> Sums:
    """The sums of class layer `index` over all chunks, which hold `classes` (a scalar) in all, with the padding's."""

    def run(m: AHSSeg) -> Sums:
        padding = m.aggregator.padding(classes.reshape(1))
        return m.aggregator.layers[index].classes.complete(sums, padding, jnp.dtype(model.config.dtype))

    return _call(model, params, run)


def _class_layer(
    model: AHSSeg, params: Any, x: jax.Array, text: jax.Array, sums: Sums, *, index: int, pooling: int
) -> jax.Array:
    """A chunk after class layer `index`; `sums` are complete."""

    def run(m: AHSSeg, x: jax.Array) -> jax.Array:
        guidance = m.aggregator.guide_text(mean_text(text)[None], x.dtype)
        return m.aggregator.layers[index].classes.update(x, guidance, sums, pooling=pooling)

    return _call(model, params, run, x)


def _prepare_decoder(model: AHSSeg, params: Any, first: jax.Array, second: jax.Array) -> list[Prepared]:
    """What the decoder needs of the views' guidance, for any chunk."""
    return _call(model, params, lambda m: m.aggregator.prepare_decoder((first, second)))


def _decode(model: AHSSeg, params: Any, x: jax.Array, prepared: list[Prepared]) -> jax.Array:
    """Logits float32 `[b, t, g, g]` of an aggregated chunk."""
    return _call(model, params, lambda m, x: m.aggregator.decode(x, prepared), x)


encode_image = Compiled(_encode_image, "encode_image", static=("model",))
best_correlation = Compiled(_best_correlation, "best_correlation", static=("model",))
embed_classes = Compiled(_embed_classes, "embed_classes", static=("model",))
spatial_layer = Compiled(_spatial_layer, "spatial_layer", static=("model", "index", "pooling"))
complete_sums = Compiled(_complete_sums, "complete_sums", static=("model", "index"))
class_layer = Compiled(_class_layer, "class_layer", static=("model", "index", "pooling"))
prepare_decoder = Compiled(_prepare_decoder, "prepare_decoder", static=("model",))
decode = Compiled(_decode, "decode", static=("model",))


def segment_all(model: AHSSeg, params: Any, images: jax.Array, text: jax.Array) -> jax.Array:
    """Views `[b, s, s, 3]` and text `[t, p, e]` to logits `[b, t, g, g]` in one program; no class is cut."""
    features = _encode_image(model, params, images)
    mask = jnp.ones(text.shape[0], bool)

    def run(m: AHSSeg) -> jax.Array:
        x = m.aggregator.embed(m.correlate(features["dense"], text))
        guide = mean_text(text)[None]
        x = m.aggregator.aggregate(x, features["appearance"], guide, pooling=1, class_mask=mask[None])
        return m.aggregator.decode(x, m.aggregator.prepare_decoder((features["decoder_1"], features["decoder_2"])))

    return _call(model, params, run)
