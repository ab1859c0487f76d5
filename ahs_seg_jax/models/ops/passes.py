"""Passes over classes that recompute in the backward pass what is not worth keeping."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.models import sharding

SHORT = 256  # channels: products of shorter vectors are computed again rather than kept
TPU_PASS = 16  # images x classes of a pass on one TPU: its fast memory holds all that the pass computes


def _is_worth_keeping(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """Whether a result is that of a convolution or of a product of long vectors with parameters (without a batch axis): a
    number of a short product is little work for its memory."""
    if primitive.name != "dot_general":
        return primitive.name == "conv_general_dilated"
    (contracted, _), (batch, _) = parameters["dimension_numbers"]
    return not batch and math.prod(operands[0].shape[axis] for axis in contracted) >= SHORT


def rematerialised(function: Callable[..., Any], remat: str, *, in_loop: bool) -> Callable[..., Any]:
    """`function`, whose backward pass computes again, by `remat`: "none", nothing; "cheap", everything but convolutions
    and long vectors' products with parameters, whose results are kept; "all", everything.

    `in_loop` as in `conv_same`. A primitive within a function with a gradient of its own (`jax.custom_vjp`) is seen only
    where the forward rule calls it: a rule that calls the function itself hides it, and all of it is computed again.
    """
    if remat == "none":
        return function
    policy = _is_worth_keeping if remat == "cheap" else None
    return jax.checkpoint(function, prevent_cse=not in_loop, policy=policy)


def few_classes(images: int) -> int:
    """Classes of a pass that suits TPUs, for so many images on all of them."""
    return sharding.class_shards() * max(1, TPU_PASS * sharding.batch_shards() // images)


def over_classes(function: Callable[..., jax.Array], *arrays: jax.Array, chunk: int, remat: str = "none") -> jax.Array:
    """`function` of arrays `[b, t, ...]`, which treats classes independently, in passes of at most `chunk` classes.

    The result `[b, t, ...]` does not depend on the chunk (0: one pass); memory does. With `remat` (`rematerialised`)
    training holds the inner activations of one pass only.
    """
    classes = arrays[0].shape[1]
    if chunk == 0 or chunk >= classes:
        return rematerialised(function, remat, in_loop=False)(*arrays)
    shards = sharding.class_shards()
    passes = -(-classes // chunk)
    size = -(-classes // (passes * shards))  # classes of one shard in one pass

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, passes * shards * size - classes)] + [(0, 0)] * (x.ndim - 2))
        # Every pass takes some classes of each shard, so that no class changes its device.
        x = jnp.moveaxis(x.reshape(x.shape[0], shards, passes, size, *x.shape[2:]), 2, 0)
        return x.reshape(passes, x.shape[1], shards * size, *x.shape[4:])

    def one_pass(*parts: jax.Array) -> jax.Array:
        return function(*(sharding.by_class(part) if part.ndim > 2 else part for part in parts))

    # What a pass takes is kept for its backward pass as it comes, a part of what is there; constrained it would be a copy.
    one_pass = rematerialised(one_pass, remat, in_loop=True)
    y = jax.lax.map(lambda parts: one_pass(*parts), tuple(split(x) for x in arrays))
    y = jnp.moveaxis(y.reshape(passes, y.shape[1], shards, size, *y.shape[3:]), 0, 2)
    return y.reshape(y.shape[0], passes * shards * size, *y.shape[4:])[:, :classes]
