"""The aggregator's spatial layer: windowed attention over the grid, each class separately.

Axes: b image, t class, h w feature grid, c hidden channels, g guidance channels, u window, n k tokens of a window,
m head, d channels of a head.

Source: CAT-Seg (Cho et al., 2024), spatial aggregation with Swin blocks; parity: golden/aggregator.npz.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.architecture import AggregatorConfig
from ahs_seg_jax.models.initial import TORCH, Initial, norm
from ahs_seg_jax.models.ops import chunks, products
from ahs_seg_jax.models.ops.windows import PRODUCTS, WindowAttention
from ahs_seg_jax.models.parameters import Params


def shift_mask(side: int, window: int, shift: int) -> np.ndarray:
    """Added to a shifted window's scores `[windows, n, n]`: -100 between tokens that were not neighbours."""
    region = np.zeros((side, side), np.int32)
    for index, rows in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
        for inner, columns in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
            region[rows, columns] = 3 * index + inner
    count = side // window
    tokens = region.reshape(count, window, count, window).transpose(0, 2, 1, 3).reshape(count * count, -1)
    return np.where(tokens[:, :, None] == tokens[:, None, :], 0.0, -100.0).astype(np.float32)


def swin_block(
    x: Float[Array, "b t h w c"],
    guidance: tuple[Float[Array, "b 1 h w c"], Float[Array, "b 1 h w c"]],
    p: Params,
    *,
    heads: int,
    window: int,
    shift: int,
    attention: WindowAttention = PRODUCTS,
) -> Float[Array, "b t h w c"]:
    """Windowed self-attention of each class over the grid, then MLP. `guidance`: its shares of queries and keys."""
    rows, columns, channels = x.shape[2:]
    features = channels
    roll = lambda x: jnp.roll(x, (-shift, -shift), (2, 3)) if shift else x
    y = attention.split(roll(layers.layer_norm(x, p["ln_1"])), window)
    share = [products.for_classes(attention.split(roll(g), window), x.shape[1]) for g in guidance]
    query = layers.learned_linear(y, layers.split_linear(p["query"], features)[0]) + share[0]
    key = layers.learned_linear(y, layers.split_linear(p["key"], features)[0]) + share[1]
    value = layers.learned_linear(y, p["value"])
    attended = attention.attend(query, key, value, heads, shift_mask(rows, window, shift) if shift else None)
    attended = attention.join(layers.learned_linear(attended, p["out"]), window, rows, columns)
    x = x + (jnp.roll(attended, (shift, shift), (2, 3)) if shift else attended)
    y = layers.layer_norm(x, p["ln_2"])
    return x + layers.learned_linear(layers.gelu(layers.learned_linear(y, p["mlp_in"])), p["mlp_out"])


class SwinBlock(nn.Module):
    """Parameters of one Swin block; `guidance` channels join queries and keys."""

    config: AggregatorConfig
    initial: Initial = TORCH

    @nn.compact
    def __call__(self) -> dict[str, Params]:
        c = self.config.hidden
        joined = c + self.config.appearance_guidance
        shapes = {
            "query": (joined, c),
            "key": (joined, c),
            "value": (c, c),
            "out": (c, c),
            "mlp_in": (c, self.config.mlp_ratio * c),
            "mlp_out": (self.config.mlp_ratio * c, c),
        }
        p: dict[str, Params] = {name: self.initial.affine(*shape, name=name)() for name, shape in shapes.items()}
        return p | {name: norm(c, name=name)() for name in ("ln_1", "ln_2")}


class SpatialLayer(nn.Module):
    """Two Swin blocks over the grid, each class separately; the second shifted by half a window."""

    config: AggregatorConfig
    initial: Initial = TORCH
    attention: WindowAttention = PRODUCTS

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], guidance: Float[Array, "b h w g"], *, chunk: int, remat: str
    ) -> Float[Array, "b t h w c"]:
        c = self.config
        normed = layers.layer_norm(guidance, norm(c.appearance_guidance, name="guidance_norm")())[:, None]
        side = min(x.shape[2:4])
        window, shift = (side, 0) if side <= c.window else (c.window, c.window // 2)
        blocks = []
        for name, by in (("block_1", 0), ("block_2", shift)):
            p = SwinBlock(c, self.initial, name=name)()
            kernels = [layers.split_linear(p[role], c.hidden)[1].astype(x.dtype) for role in ("query", "key")]
            blocks.append((p, (normed @ kernels[0], normed @ kernels[1]), by))

        def both(x: jax.Array) -> jax.Array:
            for p, share, by in blocks:
                x = swin_block(x, share, p, heads=c.heads, window=window, shift=by, attention=self.attention)
            return x

        return chunks.over_classes(both, x, chunk=chunk, remat=remat)
