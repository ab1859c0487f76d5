"""MH-FPN: three depths of the image tower on one hypersphere, fused into guidance for the aggregation.

Axes: b image, h w feature grid, d tower width, e joint embedding, v level.

Source: AHS-Seg, multi-scale hyperspherical feature pyramid; parity: golden/mh_fpn.npz (the published program could
never run it on its own tower).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.initial import TORCH, Initial, norm, zeros
from ahs_seg_jax.models.parameters import Params

LEVELS = 3


def _depthwise(x: Float[Array, "b h w e"], p: Params) -> Float[Array, "b h w e"]:
    """3x3 depthwise convolution as nine shifted products: cheap, and so is its gradient on every backend."""
    rows, columns = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = p["kernel"].astype(x.dtype)[:, :, 0]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    weigh = lambda i, j: padded[:, i : i + rows, j : j + columns] * kernel[i, j].reshape(1, 1, 1, -1)
    return sum(weigh(i, j) for i, j in shifts) + p["bias"].astype(x.dtype).reshape(1, 1, 1, -1)


class Level(nn.Module):
    """One depth: aligned to a sphere of learned radius, then enhanced in space."""

    features: int
    initial: Initial = TORCH

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w e"]:
        e = self.features
        aligned = layers.linear(x, self.initial.affine(x.shape[-1], e, name="align")())
        aligned = layers.gelu(layers.layer_norm(aligned, norm(e, name="align_norm")()))
        radius = self.param("radius", nn.initializers.constant(e**0.5), ())
        x = layers.l2_normalise(aligned) * radius.astype(x.dtype)
        x = _depthwise(x, self.initial.depthwise(3, e, name="depthwise")())
        x = layers.conv_same(x, self.initial.convolution(1, e, e, name="pointwise")())
        return layers.gelu(layers.group_norm(x, norm(e, name="norm")(), e // 16))


class MHFPN(nn.Module):
    """The pyramid: `levels` from shallow to deep, each `[b, h, w, d]` -> fused `[b, h, w, e]`.

    `fusion`: "weighted" (softmax of three learned weights), "attention" (weights from the levels' means, by image) or
    "concat" (1x1 convolution of all levels).
    """

    features: int
    fusion: str = "weighted"
    initial: Initial = TORCH

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "b h w d"]]) -> tuple[Float[Array, "b h w e"], dict[str, Any]]:
        """Returns the fused features, and `weights`: `[3]`, `[b, 3]` or absent (concat)."""
        e = self.features
        aligned = [Level(e, self.initial, name=f"level_{v}")(x) for v, x in enumerate(levels)]
        out: dict[str, Any] = {}
        if self.fusion == "concat":
            fused = layers.conv_same(
                jnp.concatenate(aligned, -1), self.initial.convolution(1, LEVELS * e, e, name="fusion")()
            )
            fused = layers.gelu(layers.group_norm(fused, norm(e, name="fusion_norm")(), e // 16))
        else:
            weights = self._weights(aligned)
            out["weights"] = weights
            fused = jnp.einsum(
                "vbhwe,...v->bhwe" if weights.ndim == 1 else "vbhwe,bv->bhwe",
                jnp.stack(aligned),
                weights.astype(aligned[0].dtype),
            )
        x = layers.conv_same(fused, self.initial.convolution(3, e, e, name="out_conv_1")())
        x = layers.gelu(layers.group_norm(x, norm(e, name="out_norm")(), e // 16))
        return layers.conv_same(x, self.initial.convolution(1, e, e, name="out_conv_2")()), out

    def _weights(self, aligned: list[jax.Array]) -> jax.Array:
        if self.fusion == "weighted":
            return jax.nn.softmax(self.param("fusion_weights", zeros, (LEVELS,)))
        means = jnp.concatenate([x.astype(jnp.float32).mean((1, 2)) for x in aligned], -1)
        scores = layers.linear(means, self.initial.affine(LEVELS * self.features, LEVELS, name="fusion")())
        return jax.nn.softmax(scores, axis=-1)
