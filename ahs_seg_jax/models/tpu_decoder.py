"""The decoder arranged for TPUs: the four pixels of a 2x2 block are channels of one position.

A TPU works through 128 channels at a time, and the decoder has 64 and 32: four pixels fill them up. The joined
upsampling (`decoder.joined_kernel`) makes such blocks by itself. They lie around the corners between pixels, so that
the first and last rows and columns of blocks reach beyond the edges. A 3x3 convolution takes four such blocks to one
block of pixels, so that nothing is rearranged between the two. Same results as `decoder`; docs/performance.md has the
estimates.

Axes: n image x class, b image, h w grid before upsampling, c o input and output channels, i j row and column in a
block.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models import decoder, layers
from ahs_seg_jax.models.decoder import Prepared
from ahs_seg_jax.models.ops import convolution
from ahs_seg_jax.models.parameters import Params


def to_blocks(x: Float[Array, "*n 2h 2w c"]) -> Float[Array, "*n h w ijc"]:
    """Squares of 2x2 pixels as channels."""
    *lead, rows, columns, channels = x.shape
    x = x.reshape(*lead, rows // 2, 2, columns // 2, 2, channels)
    return jnp.moveaxis(x, -4, -3).reshape(*lead, rows // 2, columns // 2, 4 * channels)


def to_pixels(x: Float[Array, "*n h w ijc"]) -> Float[Array, "*n 2h 2w c"]:
    """The inverse of `to_blocks`."""
    *lead, rows, columns, channels = x.shape
    x = jnp.moveaxis(x.reshape(*lead, rows, columns, 2, 2, channels // 4), -4, -3)
    return x.reshape(*lead, 2 * rows, 2 * columns, channels // 4)


@functools.cache
def inside(rows: int, columns: int, channels: int) -> np.ndarray:
    """`[h + 1, w + 1, ijc]`: 1 where a pixel of the blocks around corners is one of the 2h x 2w, 0 beyond the edges."""
    within = np.zeros((2 * rows + 2, 2 * columns + 2), np.float32)
    within[1:-1, 1:-1] = 1
    blocks = within.reshape(rows + 1, 2, columns + 1, 2).transpose(0, 2, 1, 3).reshape(rows + 1, columns + 1, 4)
    return np.repeat(blocks, channels, -1)


def corner_kernel(kernel: Float[Array, "3 3 c o"]) -> Float[Array, "2 2 ijc ijo"]:
    """A 3x3 convolution as one of blocks around corners to blocks of pixels."""
    meets, (channels, features) = decoder.meeting(), kernel.shape[2:]
    spread = jnp.einsum("iaps,jbqt,abco->pqstcijo", meets, meets, kernel, precision=jax.lax.Precision.HIGHEST)
    return spread.reshape(2, 2, 4 * channels, 4 * features)


def prepare(guidance: Float[Array, "b 2h 2w g"], p: Params) -> Prepared:
    """Everything a decoder stage needs that does not depend on the class.

    `upsampling` is `[2, 2, c, ijo]`, `share` stands in blocks around corners `[b, 1, h + 1, w + 1, ijo]`, and the
    second convolution is a `corner_kernel`.
    """
    plain, dtype = decoder.prepare(guidance, p), guidance.dtype
    share = jnp.pad(plain.share, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    upsampling = plain.upsampling.reshape(2, 2, plain.upsampling.shape[2], -1)
    return Prepared(upsampling.astype(dtype), to_blocks(share), corner_kernel(p["conv_2"]["kernel"]).astype(dtype))


def _norm_relu(x: Float[Array, "n h w ijc"], p: Params, mask: np.ndarray | None = None) -> Float[Array, "n h w ijc"]:
    """GroupNorm (16 channels a group), then ReLU, over the pixels where `mask` is 1 (None: all); 0 elsewhere."""
    channels, side = x.shape[-1] // 4, 16
    wide = x.astype(jnp.float32)
    count = side * (4 * x.shape[1] * x.shape[2] if mask is None else int(mask[..., ::channels].sum()))

    def only(y: jax.Array) -> jax.Array:
        return y if mask is None else y * mask[None]

    def mean(y: jax.Array) -> jax.Array:
        of_group = only(y).sum((1, 2)).reshape(-1, 4, channels // side, side).sum((1, 3)) / count
        return jnp.tile(jnp.repeat(of_group, side, -1), 4)[:, None, None]

    middle = mean(wide)
    variance = mean(jnp.square(wide - middle))
    factor, summand = (jnp.tile(p[name], 4)[None, None, None] for name in ("scale", "bias"))
    scale = jax.lax.rsqrt(variance + layers.EPSILON) * factor
    return only(jax.nn.relu(wide * scale + (summand - middle * scale))).astype(x.dtype)


def run_stage(x: Float[Array, "b t h w c"], p: Params, prepared: Prepared) -> Float[Array, "b t h w ijo"]:
    """One stage: the 2h x 2w pixels of its output as blocks."""
    images, classes, rows, columns, channels = x.shape
    y = convolution.convolve(x.reshape(-1, rows, columns, channels), prepared.upsampling, ((1, 1), (1, 1)))
    y = y.reshape(images, classes, *y.shape[1:]) + prepared.share
    mask = inside(rows, columns, y.shape[-1] // 4)
    y = _norm_relu(y.reshape(-1, *y.shape[2:]), p["norm_1"], mask)
    y = convolution.convolve(y, prepared.convolution, ((0, 0), (0, 0)))
    y = _norm_relu(y, p["norm_2"])
    return y.reshape(images, classes, *y.shape[1:])


@functools.cache
def _reach() -> np.ndarray:
    """`[i, a, u]`: 1 where tap a of a 3x3 kernel takes row i of a block to row u of the four that the block reaches."""
    found = np.zeros((2, 3, 4), np.float32)
    for row in range(2):
        for tap in range(3):
            found[row, tap, row + 2 - tap] = 1
    return found


def _sources(row: int) -> tuple[tuple[slice, int], tuple[slice, int]]:
    """The blocks that reach row `row` of a block, and by which of their rows: itself and its neighbour on that side.

    One block of padding lies around the grid.
    """
    return (slice(1, -1), row + 1), (slice(0, -2), 3) if row == 0 else (slice(2, None), 0)


def head(x: Float[Array, "b t h w ijc"], p: Params) -> Float[Array, "b t 2h 2w"]:
    """3x3 convolution of blocks to one channel: what each block adds to 4x4 pixels, then their sum."""
    *lead, rows, columns, channels = x.shape
    reach, kernel = _reach(), p["kernel"][..., 0]
    kernel = jnp.einsum("iau,jbv,abc->ijcuv", reach, reach, kernel, precision=jax.lax.Precision.HIGHEST)
    added = x.reshape(-1, rows, columns, channels) @ kernel.reshape(channels, 16).astype(x.dtype)
    added = jnp.pad(added, [(0, 0), (1, 1), (1, 1), (0, 0)])

    def pixel(i: int, j: int) -> jax.Array:
        parts = [added[:, here, there, 4 * u + v] for here, u in _sources(i) for there, v in _sources(j)]
        return sum(parts[1:], start=parts[0])

    y = jnp.stack([pixel(i, j) for i in range(2) for j in range(2)], -1)
    return to_pixels(y).reshape(*lead, 2 * rows, 2 * columns) + p["bias"].astype(x.dtype)[0]


def decode(
    x: Float[Array, "b t h w c"],
    stages: Sequence[Params],
    prepared: Sequence[Prepared],
    head_parameters: Params,
    *,
    in_loop: bool,  # makes no difference here
) -> Float[Array, "b t h4 w4"]:
    """Both stages and the head, to float32 logits: `decoder.decode`."""
    first, second = zip(stages, prepared, strict=True)
    x = to_pixels(run_stage(x, *first))
    return head(run_stage(x, *second), head_parameters).astype(jnp.float32)
