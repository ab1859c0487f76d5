"""The aggregator's class layer: linear attention across the classes of each position.

Classes meet in two sums only, so that padding, masks, chunks and shards of classes are exact: `sums` of some classes
may be added to those of others before any class is updated.

Axes: b image (b1: b or 1), t class, h w grid, c hidden channels, g guidance channels, m head, d e channels of a head.

Source: CAT-Seg (Cho et al., 2024), class aggregation; parity: golden/aggregator.npz.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.architecture import AggregatorConfig
from ahs_seg_jax.models.initial import TORCH, Initial, norm, zeros
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.parameters import Params

Sums = jax.Array  # over classes [b, h, w, m, d, e + 1]: keys times values and, in the last column, the keys
FEW = 8  # classes that are added to sums one after another


def _by_head(x: jax.Array, heads: int) -> jax.Array:
    """`[b, t, h, w, c] -> [b, h, w, m, t, d]` float32: each position's and head's classes beside each other."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], heads, -1), 1, 4).astype(jnp.float32)


def _mapped(p: Params, name: str, x: jax.Array, guidance: jax.Array, heads: int) -> jax.Array:
    """The feature map `elu + 1` of a linear map of `[x, guidance]`, by head."""
    own, kernel = layers.split_linear(p[name], x.shape[-1])
    joined = layers.learned_linear(x, own) + guidance.astype(x.dtype) @ kernel.astype(x.dtype)
    return jax.nn.elu(_by_head(joined, heads)) + 1


def attention_sums(
    y: Float[Array, "b t h w c"],
    guidance: Float[Array, "b1 t g"],
    p: Params,
    *,
    heads: int,
    class_mask: Bool[Array, "b1 t"] | None,
    onto: Sums | None = None,
) -> Sums:
    """The two sums over the classes of each position, on top of `onto`. Classes with a False mask take no part."""
    normed = layers.layer_norm(y, p["ln_1"])
    key = _mapped(p, "key", normed, guidance[:, :, None, None], heads)
    if class_mask is not None:
        key = key * class_mask[:, None, None, None, :, None]
    # With a one beside each value, one product makes both sums: a reduction over classes alone is slow on a CPU.
    value = jnp.pad(
        _by_head(layers.learned_linear(normed, p["value"]), heads), [(0, 0)] * 5 + [(0, 1)], constant_values=1.0
    )
    return _sums(key, value) if onto is None else _added(onto, key, value)


def _sums(key: jax.Array, value: jax.Array) -> Sums:
    return jnp.einsum("bhwmtd,bhwmte->bhwmde", key, value)


def _added(sums: Sums, key: jax.Array, value: jax.Array) -> Sums:
    """`sums + _sums(key, value)`, of few classes in one walk over the sums: they are larger than what is added, and a
    product so short takes a CPU several times as long."""
    if key.shape[4] > FEW:
        return sums + _sums(key, value)
    for t in range(key.shape[4]):
        sums = sums + key[..., t, :, None] * value[..., t, None, :]
    return sums


def no_sums(config: AggregatorConfig, images: int, side: int) -> Sums:
    """The sums over no classes, of a (pooled) grid of `side` x `side`."""
    depth = config.hidden // config.heads
    return jnp.zeros((images, side, side, config.heads, depth, depth + 1), jnp.float32)


def add_padding(sums: Sums, p: Params, *, heads: int, count: Float[Array, "b1"], dtype: Any) -> Sums:
    """The sums with `count` equal padding tokens: their share of both is that count times one term."""
    token = p["padding_token"].astype(dtype)[None, None, None, None]
    share = attention_sums(token, p["padding_guidance"][None, None], p, heads=heads, class_mask=None)
    return sums + count.reshape(-1, 1, 1, 1, 1, 1) * share


def attend(
    y: Float[Array, "b t h w c"], guidance: Float[Array, "b1 t g"], p: Params, sums: Sums, *, heads: int
) -> Float[Array, "b t h w c"]:
    """What each class reads from the sums over all: `q (sum k v^T) / (q sum k + 1e-6)`."""
    query = _mapped(p, "query", layers.layer_norm(y, p["ln_1"]), guidance[:, :, None, None], heads)
    read = jnp.einsum("bhwmtd,bhwmde->bhwmte", query, sums)
    attended = read[..., :-1] / (read[..., -1:] + 1e-6)
    return jnp.moveaxis(attended, 4, 1).reshape(y.shape).astype(y.dtype)


class ClassLayer(nn.Module):
    """Attention across classes on pooled features, brought back to the grid and added.

    `sums`, `complete`, then `update`, for classes in parts; calling it does all for all classes at once.
    """

    config: AggregatorConfig
    initial: Initial = TORCH

    def setup(self) -> None:
        c, declare = self.config, self.initial
        channels, joined, wide = c.hidden, c.hidden + c.text_guidance, c.mlp_ratio * c.hidden
        if c.pad_len:
            self.padding_token = self.param("padding_token", zeros, (channels,))
            self.padding_guidance = self.param("padding_guidance", zeros, (c.text_guidance,))
        self.query, self.key = declare.affine(joined, channels), declare.affine(joined, channels)
        self.value = declare.affine(channels, channels)
        self.ln_1, self.ln_2 = norm(channels), norm(channels)
        self.mlp_in, self.mlp_out = declare.affine(channels, wide), declare.affine(wide, channels)

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
        onto: Sums | None = None,
    ) -> Sums:
        """These classes' share of the two sums, on top of `onto`; shares of several parts add up."""
        return attention_sums(
            _pooled(x, pooling),
            guidance,
            self._parameters(),
            heads=self.config.heads,
            class_mask=class_mask,
            onto=onto,
        )

    def complete(self, sums: Sums, padding: Float[Array, "b1"], dtype: Any) -> Sums:
        """The sums over all classes together with those of the `padding` tokens; `dtype` is the activations'."""
        if not self.config.pad_len:
            return sums
        return add_padding(sums, self._parameters(), heads=self.config.heads, count=padding, dtype=dtype)

    def update(
        self,
        x: Float[Array, "b t h w c"],
        guidance: Float[Array, "b1 t g"],
        sums: Sums,
        *,
        pooling: int,
    ) -> Float[Array, "b t h w c"]:
        """These classes after the attention to all, whose `sums` are complete."""
        p = self._parameters()
        y = _pooled(x, pooling)
        y = y + attend(y, guidance, p, sums, heads=self.config.heads)
        y = y + layers.learned_linear(
            jax.nn.relu(layers.learned_linear(layers.layer_norm(y, p["ln_2"]), p["mlp_in"])), p["mlp_out"]
        )
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
        return self.update(x, guidance, self.complete(sums, padding, x.dtype), pooling=pooling)


def _pooled(x: jax.Array, pooling: int) -> jax.Array:
    """Means over squares of `pooling` x `pooling` positions."""
    if pooling == 1:
        return x
    # A sum of strided slices: as a reduction it is several times slower on a CPU.
    offsets = itertools.product(range(pooling), repeat=2)
    parts = [x[:, :, row::pooling, column::pooling] for row, column in offsets]
    return sum(parts[1:], start=parts[0]) / pooling**2
