"""PAMR: logits at the image's size follow the image's edges. Step by step, a pixel takes over its neighbours' values.

The weights depend on the image alone and the refinement is linear in the logits, so queries may come in chunks, and
rows in bands with a margin of `reach`.

Axes: c query, H W pixels of a region, padded; r s its rows and columns extended by the largest dilation on both sides;
k neighbour, 8 for each dilation.
Source: pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020) as in NACLIP's program.
Parity: golden/training_free_small.npz, golden/training_free_vitb16.npz.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

EPSILON, SHARE_OF_SPREAD = 1e-8, 0.1


def reach(steps: int, dilations: tuple[int, ...]) -> int:
    """How many pixels away something may lie that changes a result."""
    return steps * max(dilations)


def extended_index(extent: int, padded: int, margin: int) -> np.ndarray:
    """int32 `[margin + padded + margin]`: the pixel that each place of an extended axis shows; the border repeats.

    `extent` pixels are real; what fills them up to `padded` repeats the last one too.
    """
    return np.clip(np.arange(-margin, padded + margin), 0, extent - 1).astype(np.int32)


def _extended(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.take(jnp.take(x, rows, axis=-2, mode="clip"), columns, axis=-1, mode="clip")


def _shifted(wide: jax.Array, dy: int, dx: int, margin: int) -> jax.Array:
    """The region's neighbours at (dy, dx) in what is extended by `margin`."""
    height, width = (extent - 2 * margin for extent in wide.shape[-2:])
    return wide[..., margin + dy : margin + dy + height, margin + dx : margin + dx + width]


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """Those of the neighbours, dilation by dilation."""
    around = [place for place in itertools.product((-1, 0, 1), repeat=2) if place != (0, 0)]
    return [(y * dilation, x * dilation) for dilation in dilations for y, x in around]


def weights(
    image: Float[Array, "3 H W"], rows: Int[Array, "r"], columns: Int[Array, "s"], dilations: tuple[int, ...]
) -> Float[Array, "k H W"]:
    """The share of each neighbour at every pixel of a normalised image; they sum to 1."""
    margin = max(dilations)
    wide, offsets = _extended(image, rows, columns), _offsets(dilations)
    # The centre counts once for each dilation, as the 9 values of a 3 x 3 neighbourhood do.
    values, count = len(dilations), 9 * len(dilations)
    mean = (values * image + sum(_shifted(wide, *place, margin) for place in offsets)) / count
    squares = sum(jnp.square(_shifted(wide, *place, margin) - mean) for place in offsets)
    spread = jnp.sqrt((squares + values * jnp.square(image - mean)) / (count - 1))
    scale = 1 / (EPSILON + SHARE_OF_SPREAD * spread)
    alike = [-(jnp.abs(image - _shifted(wide, *place, margin)) * scale).mean(0) for place in offsets]
    return jax.nn.softmax(jnp.stack(alike), axis=0)


def refined(
    logits: Float[Array, "c H W"],
    shares: Float[Array, "k H W"],
    rows: Int[Array, "r"],
    columns: Int[Array, "s"],
    *,
    steps: int,
    dilations: tuple[int, ...],
) -> Float[Array, "c H W"]:
    """The logits after `steps`; in each, a pixel's value is the weighted sum of its neighbours' values."""
    margin = max(dilations)
    extend = functools.partial(_extended, rows=rows, columns=columns)

    def step(_: int, x: jax.Array) -> jax.Array:
        wide = jax.lax.optimization_barrier(extend(x))  # otherwise it is computed anew for every neighbour
        neighbours = zip(shares, _offsets(dilations), strict=True)
        parts = (share[None] * _shifted(wide, *place, margin) for share, place in neighbours)
        return sum(parts, jnp.zeros_like(x))

    return jax.lax.fori_loop(0, steps, step, logits)
