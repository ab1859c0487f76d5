"""Block-orthogonal adaptation of CLIP's attention, and HA-HEM's modulation of it.

Axes: B side of a rotation block (x y, k i o inside products), l layer, r slot of a layer (query, key, value, out),
s all slots (4 l + r), i j blocks of both towers (text first), d tower width.

Source: AHS-Seg, orthogonal relation layers; parity: golden/orthogonal.npz, golden/ha_hem.npz.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.ops.inverse import inverse_of_one_plus
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import registry
from ahs_seg_jax.models.towers.interface import SLOTS

_HIGHEST = jax.lax.Precision.HIGHEST


def cayley(x: Float[Array, "*batch B B"]) -> Float[Array, "*batch B B"]:
    """`(I - K)(I + K)^-1` with `K = (x - x^T) / 2`: a rotation for every x. float32."""
    skew = (x - jnp.swapaxes(x, -1, -2)) / 2
    # (I - K)(I + K)^-1 = (2 I - (I + K))(I + K)^-1.
    eye = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return 2 * inverse_of_one_plus(skew) - eye


def modulate(
    rotation: Float[Array, "l r j B B"], alpha: Float[Array, "l"], beta: Float[Array, ""]
) -> Float[Array, "l r j B B"]:
    """HA-HEM: `(1 - alpha_l beta) I + alpha_l beta R`."""
    eye = jnp.broadcast_to(jnp.eye(rotation.shape[-1], dtype=rotation.dtype), rotation.shape)
    strength = (alpha * beta).reshape(-1, 1, 1, 1, 1)
    return eye + strength * (rotation - eye)


def energy_weights(layers: int) -> jax.Array:
    """Weight of each layer's energy `[l]`: linear from 1.0 (first) to 0.3 (last)."""
    return jnp.linspace(1.0, 0.3, layers)


def energy(rotation: Float[Array, "l r j B B"], alpha: Float[Array, "l"]) -> Float[Array, ""]:
    """Hyperspherical energy of one tower's modulated matrices (parity: golden/ha_hem.npz).

    `sum_l w_l sum_{r,j} ||R^T R - I||_F^2 - 0.1 Var(alpha) + 0.05 mean((alpha[l+1] - alpha[l])^2)`; Var is unbiased.
    """
    weights = energy_weights(rotation.shape[0])
    eye = jnp.broadcast_to(jnp.eye(rotation.shape[-1], dtype=rotation.dtype), rotation.shape)
    excess = jnp.einsum("lrjki,lrjko->lrjio", rotation, rotation, precision=_HIGHEST) - eye
    orthogonality = (weights * (excess * excess).sum((1, 2, 3, 4))).sum()
    if alpha.shape[0] < 2:
        return orthogonality
    return orthogonality - 0.1 * jnp.var(alpha, ddof=1) + 0.05 * jnp.mean(jnp.diff(alpha) ** 2)


def rotate(kernels: Params, rotation: Float[Array, "l r j B B"]) -> dict[str, Float[Array, "l d d"]]:
    """Attention matrices `[l, in, out]` rotated block by block: query, key, value on their input, out on its output.

    With weights stored `[out, in]` this is `W Q` and `Q W` with block-diagonal Q, which is never built.
    """
    _, _, blocks, side, _ = rotation.shape
    rotated = {}
    for slot, name in enumerate(SLOTS):
        kernel, q = kernels[name], rotation[:, slot]
        layers, inside, outside = kernel.shape
        if name == "out":
            split = kernel.reshape(layers, inside, blocks, side)
            product = jnp.einsum("lijk,ljok->lijo", split, q, precision=_HIGHEST)
        else:
            split = kernel.reshape(layers, blocks, side, outside)
            product = jnp.einsum("ljki,ljko->ljio", q, split, precision=_HIGHEST)
        rotated[name] = product.reshape(kernel.shape)
    return rotated


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


class OrthogonalAdaptation(nn.Module):
    """The shared parameters of both towers' rotations."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        side, blocks, depth = c.block_size, c.text_blocks + c.image_blocks, max(c.text.layers, c.image.layers)

        def core_init(_: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            image = (jnp.arange(blocks) >= c.text_blocks).astype(dtype)
            return jnp.broadcast_to(jnp.einsum("xy,i->xyi", jnp.eye(side), image)[:, :, None], shape).astype(dtype)

        def identity_init(_: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)

        self.core = self.param("core", core_init, (side, side, 4 * depth, blocks))
        self.block_mix = self.param("block_mix", identity_init, (depth, blocks, blocks))
        self.slot_mix = self.param("slot_mix", identity_init, (4 * depth, 4 * depth))
        if c.adaptation == "ha_hem":
            constant = nn.initializers.constant
            self.alpha_text = self.param("alpha_text", constant(_logit(c.alpha)), (c.text.layers,))
            self.alpha_image = self.param("alpha_image", constant(_logit(c.alpha)), (c.image.layers,))
            self.beta_text = self.param("beta_text", constant(_logit(c.beta_text)), ())
            self.beta_image = self.param("beta_image", constant(_logit(c.beta_image)), ())

    def _mixed(self) -> tuple[jax.Array, jax.Array]:
        """The mixed matrices X of text `[l, r, j, B, B]` and image: slots once for both, then each layer's blocks."""
        c = self.config
        side, depth = c.block_size, self.block_mix.shape[0]
        slots = jnp.einsum("rs,xysi->rixy", self.slot_mix, self.core, precision=_HIGHEST)
        slots = slots.reshape(depth, 4, -1, side, side)

        def blocks(layers: int, rows: slice) -> jax.Array:
            mix = self.block_mix[:layers, rows]
            return jnp.einsum("lrixy,lji->lrjxy", slots[:layers], mix, precision=_HIGHEST)

        return blocks(c.text.layers, slice(0, c.text_blocks)), blocks(c.image.layers, slice(c.text_blocks, None))

    def __call__(self) -> dict[str, Any]:
        """`text` and `image`: rotations `[l, r, j, B, B]`.

        Under HA-HEM they are modulated, and `alpha_*`, `beta_*` and `energy` come along.
        """
        text, image = self._mixed()
        if self.config.adaptation == "orthogonal":
            # The published model uses the image tower's matrices as they are: free, not orthogonal.
            return {"text": cayley(text), "image": image}
        side = text.shape[-1]
        shapes = (text.shape, image.shape)
        flat = cayley(jnp.concatenate([text.reshape(-1, side, side), image.reshape(-1, side, side)]))
        text, image = (
            part.reshape(s) for part, s in zip(jnp.split(flat, [math.prod(shapes[0][:3])]), shapes, strict=True)
        )
        strengths = {
            "alpha_text": jax.nn.sigmoid(self.alpha_text),
            "alpha_image": jax.nn.sigmoid(self.alpha_image),
            "beta_text": jax.nn.sigmoid(self.beta_text),
            "beta_image": jax.nn.sigmoid(self.beta_image),
        }
        text = modulate(text, strengths["alpha_text"], strengths["beta_text"])
        image = modulate(image, strengths["alpha_image"], strengths["beta_image"])
        total = energy(text, strengths["alpha_text"]) + energy(image, strengths["alpha_image"])
        return {"text": text, "image": image, "energy": total, **strengths}


def merge(config: ModelConfig, params: Params) -> tuple[ModelConfig, dict[str, Any]]:
    """Folds the rotations into CLIP's weights: the same function as a plain CLIP, at no extra cost.

    Returns a configuration whose adaptation is "none" and parameters without `clip/adaptation`. The arguments are
    left as they are; parameters of a model without adaptation come back unchanged.
    """
    if config.adaptation == "none":
        return config, dict(params)
    clip = dict(params["clip"])
    rotations: Any = OrthogonalAdaptation(config).apply({"params": clip.pop("adaptation")})
    for side, tower in registry.towers(config.image, config.text).items():
        leaves = dict(parameters.flatten(clip[side]))
        kernels = rotate({slot: leaves[name] for slot, name in tower.rotated.items()}, rotations[side])
        clip[side] = parameters.unflatten(leaves | {name: kernels[slot] for slot, name in tower.rotated.items()})
    return dataclasses.replace(config, adaptation="none"), dict(params) | {"clip": clip}
