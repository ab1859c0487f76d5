"""Decoder: each class's aggregated features, upsampled four times under the guidance of shallow image features.

Axes: b image, t class, h w feature grid, c hidden channels, g guidance channels.

Source: CAT-Seg (Cho et al., 2024), decoder; parity: golden/aggregator.npz.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models import layers
from ahs_seg_jax.models.initial import TORCH, Initial, norm
from ahs_seg_jax.models.ops import products
from ahs_seg_jax.models.ops.convolution import at_corners, to_one_channel
from ahs_seg_jax.models.parameters import Params


class Prepared(NamedTuple):
    """Everything a stage needs that does not depend on the class, but for its norms."""

    upsampling: jax.Array  # `joined_kernel`
    share: jax.Array  # `guidance_share`
    convolution: jax.Array  # the second convolution's kernel


class Stage(nn.Module):
    """Parameters of one stage: transposed convolution, then two 3x3 convolutions without bias, with GroupNorm."""

    features_in: int
    guidance: int
    features: int
    initial: Initial = TORCH

    @nn.compact
    def __call__(self) -> dict[str, Params]:
        joined, c = self.features_in, self.features
        upsampled = joined - self.guidance
        declare = self.initial
        return {
            "up": declare.transposed(2, joined, upsampled, name="up")(),
            "conv_1": declare.convolution(3, joined, c, bias=None, name="conv_1")(),
            "norm_1": norm(c, name="norm_1")(),
            "conv_2": declare.convolution(3, c, c, bias=None, name="conv_2")(),
            "norm_2": norm(c, name="norm_2")(),
        }


def guidance_share(guidance: Float[Array, "b h w g"], p: Params) -> Float[Array, "b 1 h w o"]:
    """The share of a stage's first convolution that is the same for every class.

    It comes from the guidance, and from the bias of the transposed convolution before it. That bias is not just a
    constant: the zero padding of the 3x3 convolution cuts it off at the edges.
    """
    bias = jnp.broadcast_to(p["up"]["bias"].astype(guidance.dtype), (*guidance.shape[:-1], p["up"]["bias"].shape[0]))
    return layers.conv_same(jnp.concatenate([bias, guidance], -1), p["conv_1"])[:, None]


@functools.cache
def meeting() -> np.ndarray:
    """`[i, a, p, s]`: 1 where tap a of the 3x3 kernel, at row i of an output block, meets row s upsampled from row p.

    A block lies around the corner between the two input rows p of its patch: its first row belongs to the upper one.
    """
    found = np.zeros((2, 3, 2, 2), np.float32)
    for row in range(2):
        for tap in range(3):
            found[row, tap, (row + tap) // 2, (row + tap) % 2] = 1
    return found


def joined_kernel(p: Params) -> Float[Array, "p q c i j o"]:
    """Transposed convolution and the 3x3 convolution after it as one map, of 2x2 input pixels to 2x2 output pixels.

    Nothing stands between the two, so they are one linear map, which is half the work of both.
    """
    meets, up = meeting(), p["up"]["kernel"]
    kernel = p["conv_1"]["kernel"][:, :, : up.shape[-1]]
    spread = jnp.einsum("iaps,jbqt,abuo->pqstuijo", meets, meets, kernel, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("stcu,pqstuijo->pqcijo", up, spread, precision=jax.lax.Precision.HIGHEST)


def prepare(guidance: Float[Array, "b h w g"], p: Params) -> Prepared:
    """Everything a decoder stage needs that does not depend on the class."""
    return Prepared(joined_kernel(p), guidance_share(guidance, p), p["conv_2"]["kernel"])


def upsample(x: Float[Array, "b t h w c"], kernel: Float[Array, "p q c i j o"]) -> Float[Array, "b t 2h 2w o"]:
    """The map of `joined_kernel` at every corner between pixels, the zeros around the grid included."""
    *lead, rows, columns, channels = x.shape
    y = at_corners(x.reshape(-1, rows, columns, channels), kernel.astype(x.dtype).reshape(2, 2, channels, -1))
    y = y.reshape(-1, rows + 1, columns + 1, 2, 2, kernel.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(*lead, 2 * rows + 2, 2 * columns + 2, -1)
    return y[..., 1:-1, 1:-1, :]


def run_stage(x: jax.Array, p: Params, prepared: Prepared, *, in_loop: bool) -> jax.Array:
    """`[b, t, h, w, c] -> [b, t, 2h, 2w, o]`; `prepared` as `prepare` makes it of the same parameters."""
    groups = p["norm_1"]["scale"].shape[0] // 16
    x = upsample(x, prepared.upsampling) + products.for_classes(prepared.share, x.shape[1])
    x = jax.nn.relu(layers.group_norm(x, p["norm_1"], groups))
    x = layers.conv_same(x, {"kernel": prepared.convolution}, in_loop=in_loop)
    return jax.nn.relu(layers.group_norm(x, p["norm_2"], groups))


def head(x: Float[Array, "*batch h w c"], p: Params) -> Float[Array, "*batch h w"]:
    """3x3 convolution to one channel."""
    kernel = p["kernel"].astype(x.dtype).reshape(9, x.shape[-1])
    return to_one_channel(x.reshape(-1, *x.shape[-3:]), kernel).reshape(x.shape[:-1]) + p["bias"].astype(x.dtype)[0]


def decode(
    x: Float[Array, "b t h w c"],
    stages: Sequence[Params],
    prepared: Sequence[Prepared],
    head_parameters: Params,
    *,
    in_loop: bool,
) -> Float[Array, "b t h4 w4"]:
    """All stages and the head, to float32 logits."""
    for p, of_image in zip(stages, prepared, strict=True):
        x = run_stage(x, p, of_image, in_loop=in_loop)
    return head(x, head_parameters).astype(jnp.float32)
