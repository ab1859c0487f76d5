"""The compiled parts of inference.

Axes: b view, t class of a chunk, p prompt, e joint embedding, h w feature grid, c hidden channels, g side of the
logits.

A class chunk goes through the embedding, the spatial layers, the class layers and the decoder on its own. Chunks meet
only in the two sums of each class layer (`ClassLayer.sums`). So a program depends on the size of a chunk, not on the
number of classes, and there is one program for each stretch between two meetings.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.models.aggregator import DROPPED_LOGIT
from ahs_seg_jax.models.ahs_seg import AHSSeg, mean_text
from ahs_seg_jax.models.class_layer import Sums
from ahs_seg_jax.models.decoder import Prepared


def _call(model: Any, params: Any, method: Callable[..., Any] | str, *args: Any) -> Any:
    with jax.default_matmul_precision("highest" if model.config.dtype == "float32" else "default"):
        return model.apply({"params": params}, *args, method=method)


def _encode_image(model: Any, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Views `[b, s, s, 3]` RGB 0..255 -> what the model's `encode_image` returns."""
    return _call(model, params, "encode_image", images)


def encode_text(model: Any, params: Any, tokens: jax.Array) -> jax.Array:
    """Token ids `[t, p, l]` -> unit-length embeddings `[t, p, e]`; not compiled."""
    return _call(model, params, "encode_text", tokens)


def _best_correlation(model: AHSSeg, params: Any, dense: jax.Array, text: jax.Array) -> jax.Array:
    """The largest correlation of each class `[b, t]`, over positions and prompts."""
    return _call(model, params, AHSSeg.correlate, dense, text).max((2, 3, 4))


def _correlation_map(model: AHSSeg, params: Any, dense: jax.Array, text: jax.Array) -> jax.Array:
    """The correlation of each class at each position `[b, t, h, w]`, the largest over prompts."""
    return _call(model, params, AHSSeg.correlate, dense, text).max(4)


def _take_rows(arrays: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """The rows with these indices of every array."""
    return jax.tree.map(lambda array: array[rows], arrays)


def _join(parts: Sequence[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """The rows of several groups of arrays in one."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def _put_classes(logits: jax.Array, value: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """`logits` `[b, n, g, g]` with `value` at views from `row` and classes from `column` on."""
    zero = jnp.zeros_like(row)
    return jax.lax.dynamic_update_slice(logits, value, (row, column, zero, zero))


def _take_classes(logits: jax.Array, rows: jax.Array, places: jax.Array) -> jax.Array:
    """`[v, k, g, g]` at `rows` `[v]` and `places` `[v, k]` of logits `[b, n, g, g]`; -100 for a place of n."""
    return logits.at[rows[:, None], places].get(mode="fill", fill_value=DROPPED_LOGIT)


def _onward(
    m: AHSSeg,
    x: jax.Array,
    appearance: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    onto: Sums,
    index: int,
    pooling: int,
) -> tuple[jax.Array, Sums]:
    """Through spatial layer `index`, and the class layer's sums with this chunk's share added."""
    layer = m.aggregator.layers[index]
    x = layer.spatial(x, appearance, chunk=m.arrangement.class_chunk(x.shape[0], 0), remat="none")
    return x, layer.classes.sums(x, _guide(m, text, x), pooling=pooling, class_mask=mask[None], onto=onto)


def _updated(m: AHSSeg, x: jax.Array, text: jax.Array, sums: Sums, index: int, pooling: int) -> jax.Array:
    """Through class layer `index`; `sums` are complete."""
    return m.aggregator.layers[index].classes.update(x, _guide(m, text, x), sums, pooling=pooling)


def _guide(m: AHSSeg, text: jax.Array, x: jax.Array) -> jax.Array:
    return m.aggregator.guide_text(mean_text(text)[None], x.dtype)


def _first_layer(
    model: AHSSeg,
    params: Any,
    dense: jax.Array,
    appearance: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    onto: Sums,
    *,
    pooling: int,
) -> tuple[jax.Array, Sums]:
    """Correlation of a chunk's text `[t, p, e]` with dense features `[b, h, w, e]`, through the first spatial layer.

    Returns the classes `[b, t, h, w, c]`, and the sums `onto` of the class layer with this chunk's share added.
    """

    def run(m: AHSSeg) -> tuple[jax.Array, Sums]:
        x = m.aggregator.embed(m.correlate(dense, text), dense.dtype)
        return _onward(m, x, appearance, text, mask, onto, 0, pooling)

    return _call(model, params, run)


def _next_layer(
    model: AHSSeg,
    params: Any,
    x: jax.Array,
    appearance: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    sums: Sums,
    onto: Sums,
    *,
    index: int,
    pooling: int,
) -> tuple[jax.Array, Sums]:
    """A chunk through the class layer before layer `index`, whose `sums` are complete, and on as in `_first_layer`."""

    def run(m: AHSSeg) -> tuple[jax.Array, Sums]:
        y = _updated(m, x, text, sums, index - 1, pooling)
        return _onward(m, y, appearance, text, mask, onto, index, pooling)

    return _call(model, params, run)


def _last_layer(
    model: AHSSeg, params: Any, x: jax.Array, text: jax.Array, sums: Sums, prepared: Sequence[Prepared], *, pooling: int
) -> jax.Array:
    """Logits float32 `[b, t, g, g]`: a chunk through the last class layer, with complete `sums`, and the decoder."""

    def run(m: AHSSeg) -> jax.Array:
        y = _updated(m, x, text, sums, model.config.aggregator.layers - 1, pooling)
        return m.aggregator.decode(y, prepared)

    return _call(model, params, run)


def _complete_sums(model: AHSSeg, params: Any, sums: list[Sums], classes: jax.Array, *, index: int) -> Sums:
    """The sums of class layer `index` over all chunks, which hold `classes` (a scalar) in all, with the padding's."""

    def run(m: AHSSeg) -> Sums:
        padding = m.aggregator.padding(classes.reshape(1))
        every = functools.reduce(operator.add, sums)
        return m.aggregator.layers[index].classes.complete(every, padding, jnp.dtype(model.config.dtype))

    return _call(model, params, run)


def _prepare_decoder(model: AHSSeg, params: Any, first: jax.Array, second: jax.Array) -> Sequence[Prepared]:
    """What the decoder needs of the views' guidance, for any chunk."""
    return _call(model, params, lambda m: m.aggregator.prepare_decoder((first, second)))


take_rows = Compiled(_take_rows, "take_rows")
join = Compiled(_join, "join")
put_classes = Compiled(_put_classes, "put_classes", donate=("logits",))
take_classes = Compiled(_take_classes, "take_classes")
encode_image = Compiled(_encode_image, "encode_image", static=("model",))
best_correlation = Compiled(_best_correlation, "best_correlation", static=("model",))
correlation_map = Compiled(_correlation_map, "correlation_map", static=("model",))
first_layer = Compiled(_first_layer, "first_layer", static=("model", "pooling"), donate=("onto",))
next_layer = Compiled(_next_layer, "next_layer", static=("model", "index", "pooling"), donate=("onto",))
last_layer = Compiled(_last_layer, "last_layer", static=("model", "pooling"))
complete_sums = Compiled(_complete_sums, "complete_sums", static=("model", "index"))
prepare_decoder = Compiled(_prepare_decoder, "prepare_decoder", static=("model",))


def segment_all(model: AHSSeg, params: Any, images: jax.Array, text: jax.Array) -> jax.Array:
    """Views `[b, s, s, 3]` and text `[t, p, e]` to logits `[b, t, g, g]` in one program; no class is cut."""
    features = _encode_image(model, params, images)
    mask = jnp.ones(text.shape[0], bool)

    def run(m: AHSSeg) -> jax.Array:
        x = m.aggregator.embed(m.correlate(features["dense"], text), features["dense"].dtype)
        guide = mean_text(text)[None]
        x = m.aggregator.aggregate(x, features["appearance"], guide, pooling=1, class_mask=mask[None])
        return m.aggregator.decode(x, m.aggregator.prepare_decoder((features["decoder_1"], features["decoder_2"])))

    return _call(model, params, run)
