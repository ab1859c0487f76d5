"""DC-HSP: a class's complexity, estimated from its text embedding, scales a low-rank change of its projection.

It acts through its losses (losses.py) and costs nothing at inference.

Axes: t class, e joint embedding, r rank.

Source: AHS-Seg, dynamic class-aware hyperspherical projection; parity: golden/dc_hsp.npz (the published program
passed widths that do not match).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.initial import TORCH, Initial, Parameters, norm, zeros

DROPOUT = 0.1


class Complexity(nn.Module):
    """Text embedding `[t, e]` -> complexity `[t]` in 0..1. Dropout acts in training only."""

    initial: Initial = TORCH

    @nn.compact
    def __call__(self, text: Float[Array, "t e"], train: bool = False) -> Float[Array, "t"]:
        x = layers.linear(text, self.initial.affine(text.shape[-1], 256, name="dense_0")())
        x = layers.gelu(layers.layer_norm(x, norm(256, name="norm_0")()))
        x = nn.Dropout(DROPOUT, deterministic=not train)(x)
        x = layers.linear(x, self.initial.affine(256, 128, name="dense_1")())
        x = layers.gelu(layers.layer_norm(x, norm(128, name="norm_1")()))
        return jax.nn.sigmoid(layers.linear(x, self.initial.affine(128, 1, name="dense_2")())[:, 0])


class DCHSP(nn.Module):
    """Projections of dense features and text embeddings onto one sphere of learned radius. float32 throughout."""

    features: int
    rank: int
    initial: Initial = TORCH

    def setup(self) -> None:
        e, r = self.features, self.rank
        # From nothing, the identity: the losses then teach the alignment of the features themselves.
        base = {"base": (self.initial.matrix(e, scratch=nn.initializers.constant(jnp.eye(e))), (e, e))}
        delta = {
            "scale": (nn.initializers.constant(0.1), ()),
            "a": (self.initial.matrix(e), (e, r)),
            "b": (zeros, (r, e)),
        }
        self.complexity = Complexity(self.initial)
        self.image = Parameters(base)
        self.text = Parameters(base | delta)
        self.radius = self.param("radius", nn.initializers.constant(e**0.5), ())

    def __call__(
        self, image: Float[Array, "*space e"], text: Float[Array, "t e"], train: bool = False
    ) -> dict[str, Any]:
        """`image` `[..., e]` and `text` `[t, e]` on the sphere, and `complexity` `[t]`.

        Images use the base projection only: complexity belongs to a class.
        """
        image, text = image.astype(jnp.float32), text.astype(jnp.float32)
        complexity = self.complexity(text, train)
        p = self.text()
        delta = p["scale"] * complexity[:, None] * (text @ p["a"] @ p["b"])
        return {
            "image": self.radius * layers.l2_normalise(image @ self.image()["base"]),
            "text": self.radius * layers.l2_normalise(text @ p["base"] + delta),
            "complexity": complexity,
        }
