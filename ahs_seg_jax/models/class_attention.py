"""The aggregator's class layer: linear attention across the classes of each position.

Classes meet in two sums only, so that padding, masks, chunks and shards of classes are exact: `sums` of some classes may
be added to those of others before any class is updated.

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

Sums = tuple[jax.Array, jax.Array]  # over classes: keys times values [b, h, w, m, d, e], keys [b, h, w, m, d]


def _feature_map(x: jax.Array) -> jax.Array:
    return jax.nn.elu(x.astype(jnp.float32)) + 1


def _heads(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def _joined(p: Arrays, name: str, x: jax.Array, guidance: jax.Array, heads: int) -> jax.Array:
    """The feature map of a linear map of `[x, guidance]`, by head."""
    own, kernel = layers.split_linear(p[name], x.shape[-1])
    mapped = layers.linear(x, own) + guidance.astype(x.dtype) @ kernel.astype(x.dtype)
    return _feature_map(_heads(mapped, heads))


def attention_sums(
    y: Float[Array, "b t h w c"],
    guidance: Float[Array, "b1 t g"],
    p: Arrays,
    *,
    heads: int,
    class_mask: Bool[Array, "b1 t"] | None,
) -> Sums:
    """The two sums over the classes of each position. Classes with a False mask take no part."""
    normed = layers.layer_norm(y, p["ln_1"])
    key = _joined(p, "key", normed, guidance[:, :, None, None], heads)
    value = _heads(layers.linear(normed, p["value"]), heads).astype(jnp.float32)
    if class_mask is not None:
        key = key * class_mask[:, :, None, None, None, None]
    return jnp.einsum("bthwmd,bthwme->bhwmde", key, value), key.sum(1)


def add_padding(sums: Sums, p: Arrays, *, heads: int, count: Float[Array, "b1"], dtype: Any) -> Sums:
    """The sums with `count` equal padding tokens: their share of both is that count times one term."""
    token = layers.layer_norm(p["padding_token"][None].astype(dtype), p["ln_1"])
    key = _joined(p, "key", token, p["padding_guidance"][None], heads)[0]
    value = _heads(layers.linear(token, p["value"]), heads).astype(jnp.float32)[0]
    outer, total = sums
    count = count.reshape(-1, 1, 1, 1, 1)
    outer = outer + count[..., None] * jnp.einsum("md,me->mde", key, value)[None, None, None]
    return outer, total + count * key[None, None, None]


def attend(
    y: Float[Array, "b t h w c"], guidance: Float[Array, "b1 t g"], p: Arrays, sums: Sums, *, heads: int
) -> Float[Array, "b t h w c"]:
    """What each class reads from the sums over all: `q (sum k v^T) / (q sum k + 1e-6)`."""
    query = _joined(p, "query", layers.layer_norm(y, p["ln_1"]), guidance[:, :, None, None], heads)
    outer, total = sums
    weighted = jnp.einsum("bthwmd,bhwmde->bthwme", query, outer)
    attended = weighted / (jnp.einsum("bthwmd,bhwmd->bthwm", query, total)[..., None] + 1e-6)
    return attended.reshape(y.shape).astype(y.dtype)


class ClassLayer(nn.Module):
    """Attention across classes on pooled features, brought back to the grid and added.

    `sums`, then `update`, for classes in parts; calling it does both for all classes at once.
    """

    config: AggregatorConfig

    def setup(self) -> None:
        c = self.config
        channels, joined, wide = c.hidden, c.hidden + c.text_guidance, c.mlp_ratio * c.hidden
        if c.pad_len:
            self.padding_token = self.param("padding_token", layers.zeros, (channels,))
            self.padding_guidance = self.param("padding_guidance", layers.zeros, (c.text_guidance,))
        self.query, self.key = layers.affine(joined, channels), layers.affine(joined, channels)
        self.value = layers.affine(channels, channels)
        self.ln_1, self.ln_2 = layers.norm(channels), layers.norm(channels)
        self.mlp_in, self.mlp_out = layers.affine(channels, wide), layers.affine(wide, channels)

    def _parameters(self) -> dict[str, Any]:
        names = ("query", "key", "value", "ln_1", "ln_2", "mlp_in", "mlp_out")
        p: dict[str, Any] = {name: getattr(self, name)() for name in names}
        if self.config.pad_len:
            p |= {"padding_token": self.padding_token, "padding_guidance": self.padding_guidance}
        return p

    def sums(
        self,
        x: Float[Array, "b t h w c"],
        guidance: Float[Array, "b1 t g"],
        *,
        pooling: int,
        class_mask: Bool[Array, "b1 t"] | None,
    ) -> Sums:
        """These classes' share of the two sums; shares of several parts add up."""
        return attention_sums(
            _pooled(x, pooling), guidance, self._parameters(), heads=self.config.heads, class_mask=class_mask
        )

    def update(
        self,
        x: Float[Array, "b t h w c"],
        guidance: Float[Array, "b1 t g"],
        sums: Sums,
        *,
        pooling: int,
        padding: Float[Array, "b1"],
    ) -> Float[Array, "b t h w c"]:
        """These classes after the attention to all, whose `sums` are complete but for the `padding` tokens."""
        p, heads = self._parameters(), self.config.heads
        if self.config.pad_len:
            sums = add_padding(sums, p, heads=heads, count=padding, dtype=x.dtype)
        y = _pooled(x, pooling)
        y = y + attend(y, guidance, p, sums, heads=heads)
        y = y + layers.linear(jax.nn.relu(layers.linear(layers.layer_norm(y, p["ln_2"]), p["mlp_in"])), p["mlp_out"])
        return x + resize.bilinear(y, (x.shape[2], x.shape[3]), (2, 3), aligned_corners=True)

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        guidance: Float[Array, "b1 t g"],
        *,
        pooling: int,
        class_mask: Bool[Array, "b1 t"] | None,
        padding: Float[Array, "b1"],
    ) -> Float[Array, "b t h w c"]:
        sums = self.sums(x, guidance, pooling=pooling, class_mask=class_mask)
        return self.update(x, guidance, sums, pooling=pooling, padding=padding)


def _pooled(x: jax.Array, pooling: int) -> jax.Array:
    """Means over squares of `pooling` x `pooling` positions."""
    if pooling == 1:
        return x
    images, classes, rows, columns, channels = x.shape
    return x.reshape(images, classes, rows // pooling, pooling, columns // pooling, pooling, channels).mean((3, 5))
