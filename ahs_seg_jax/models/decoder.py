"""Decoder: each class's aggregated features, upsampled four times under the guidance of shallow image features.

Axes: b image, t class, h w feature grid, c hidden channels, g guidance channels.

Source: CAT-Seg (Cho et al., 2024), decoder; parity: golden/aggregator.npz.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.layers import Arrays, Parameters

# Each output pixel of a transposed convolution sees one kernel position: the fan-in is the channels alone.
UP_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=2, out_axis=3, batch_axis=(0, 1))


class Stage(nn.Module):
    """Parameters of one stage: transposed convolution, then two 3x3 convolutions without bias, with GroupNorm."""

    features_in: int
    guidance: int
    features: int

    @nn.compact
    def __call__(self) -> dict[str, Arrays]:
        joined, c = self.features_in, self.features
        upsampled = joined - self.guidance
        up = {"kernel": (UP_INIT, (2, 2, joined, upsampled)), "bias": (layers.zeros, (upsampled,))}
        return {
            "up": Parameters(up, name="up")(),
            "conv_1": layers.convolution(3, joined, c, bias=False, name="conv_1")(),
            "norm_1": layers.norm(c, name="norm_1")(),
            "conv_2": layers.convolution(3, c, c, bias=False, name="conv_2")(),
            "norm_2": layers.norm(c, name="norm_2")(),
        }


def guidance_share(guidance: Float[Array, "b h w g"], p: Arrays) -> Float[Array, "b 1 h w o"]:
    """The guidance's half of a stage's first convolution, once for all classes."""
    kernel = p["conv_1"]["kernel"][:, :, -guidance.shape[-1] :]
    return layers.conv_same(guidance, {"kernel": kernel})[:, None]


def run_stage(x: jax.Array, p: Arrays, guidance: jax.Array, *, in_loop: bool) -> jax.Array:
    """`[b, t, h, w, c] -> [b, t, 2h, 2w, o]`; `guidance` `[b, 1, 2h, 2w, o]` is its share of the first convolution."""
    up = layers.conv_transpose(x, p["up"])
    groups = p["norm_1"]["scale"].shape[0] // 16
    x = layers.conv_same(up, {"kernel": p["conv_1"]["kernel"][:, :, : up.shape[-1]]}, in_loop=in_loop) + guidance
    x = jax.nn.relu(layers.group_norm(x, p["norm_1"], groups))
    return jax.nn.relu(layers.group_norm(layers.conv_same(x, p["conv_2"], in_loop=in_loop), p["norm_2"], groups))
