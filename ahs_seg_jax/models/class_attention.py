"""The aggregator's class layer: linear attention across the classes of each position.

Classes meet in two sums only, so that padding, masks, chunks and shards of classes are exact.

Axes: b image (b1: b or 1), t class, h w grid, c hidden channels, g guidance channels, m head, d e channels of a head.

Source: CAT-Seg (Cho et al., 2024), class aggregation; parity: golden/aggregator.npz.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ahs_seg_jax.models import layers, resize
from ahs_seg_jax.models.architecture import AggregatorConfig
from ahs_seg_jax.models.layers import Arrays


def _feature_map(x: jax.Array) -> jax.Array:
    return jax.nn.elu(x.astype(jnp.float32)) + 1


def class_attention(
    y: Float[Array, "b t h w c"],
    guidance: Float[Array, "b1 t g"],
    p: Arrays,
    *,
    heads: int,
    class_mask: Bool[Array, "b1 t"] | None,
    padding: Float[Array, "b1"],
) -> Float[Array, "b t h w c"]:
    """Linear attention over the classes of each position: `q (sum k v^T) / (q sum k + 1e-6)`.

    `padding` is how many equal padding tokens take part: their share of both sums is that count times one term.
    Classes with a False mask take no part.
    """
    channels = y.shape[-1]

    def joined(name: str, x: jax.Array, g: jax.Array) -> jax.Array:
        own, kernel = layers.split_linear(p[name], channels)
        return split(layers.linear(x, own) + g.astype(x.dtype) @ kernel.astype(x.dtype))

    split = lambda x: x.reshape(*x.shape[:-1], heads, -1)
    normed, by_class = layers.layer_norm(y, p["ln_1"]), guidance[:, :, None, None]
    query = _feature_map(joined("query", normed, by_class))
    key = _feature_map(joined("key", normed, by_class))
    value = split(layers.linear(normed, p["value"])).astype(jnp.float32)
    if class_mask is not None:
        key = key * class_mask[:, :, None, None, None, None]
    outer, total = jnp.einsum("bthwmd,bthwme->bhwmde", key, value), key.sum(1)
    if "padding_token" in p:
        token = layers.layer_norm(p["padding_token"][None].astype(y.dtype), p["ln_1"])
        pad_key = _feature_map(joined("key", token, p["padding_guidance"][None]))[0]
        pad_value = split(layers.linear(token, p["value"])).astype(jnp.float32)[0]
        count = padding.reshape(-1, 1, 1, 1, 1)
        outer = outer + count[..., None] * jnp.einsum("md,me->mde", pad_key, pad_value)[None, None, None]
        total = total + count * pad_key[None, None, None]
    weighted = jnp.einsum("bthwmd,bhwmde->bthwme", query, outer)
    attended = weighted / (jnp.einsum("bthwmd,bhwmd->bthwm", query, total)[..., None] + 1e-6)
    return attended.reshape(y.shape).astype(y.dtype)


class ClassLayer(nn.Module):
    """Attention across classes on pooled features, brought back to the grid and added."""

    config: AggregatorConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        guidance: Float[Array, "b1 t g"],
        *,
        pooling: int,
        class_mask: Bool[Array, "b1 t"] | None,
        padding: Float[Array, "b1"],
    ) -> Float[Array, "b t h w c"]:
        c = self.config
        channels, joined, wide = c.hidden, c.hidden + c.text_guidance, c.mlp_ratio * c.hidden
        p: dict[str, Any] = {}
        if c.pad_len:
            p["padding_token"] = self.param("padding_token", layers.zeros, (channels,))
            p["padding_guidance"] = self.param("padding_guidance", layers.zeros, (c.text_guidance,))
        shapes = {"query": joined, "key": joined, "value": channels}
        p |= {name: layers.affine(size, channels, name=name)() for name, size in shapes.items()}
        p |= {name: layers.norm(channels, name=name)() for name in ("ln_1", "ln_2")}
        p["mlp_in"] = layers.affine(channels, wide, name="mlp_in")()
        p["mlp_out"] = layers.affine(wide, channels, name="mlp_out")()

        images, classes, rows, columns, _ = x.shape
        y = x
        if pooling > 1:
            y = x.reshape(images, classes, rows // pooling, pooling, columns // pooling, pooling, channels).mean((3, 5))
        y = y + class_attention(y, guidance, p, heads=c.heads, class_mask=class_mask, padding=padding)
        y = y + layers.linear(jax.nn.relu(layers.linear(layers.layer_norm(y, p["ln_2"]), p["mlp_in"])), p["mlp_out"])
        return x + resize.bilinear(y, (rows, columns), (2, 3), aligned_corners=True)
