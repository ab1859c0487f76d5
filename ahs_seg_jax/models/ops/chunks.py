"""Chunks of classes: what treats classes independently runs over some of them at a time, at bounded memory.

Axes: b image, t class.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ahs_seg_jax.models import sharding
from ahs_seg_jax.models.ops.remat import rematerialised

TPU_CHUNK = 16  # images x classes of a chunk on one TPU: its fast memory holds all that the chunk computes


def chunk_on_tpu(images: int) -> int:
    """Number of classes in a chunk on TPUs for a global batch of `images`."""
    return sharding.class_shards() * max(1, TPU_CHUNK * sharding.batch_shards() // images)


def over_classes(function: Callable[..., jax.Array], *arrays: jax.Array, chunk: int, remat: str = "none") -> jax.Array:
    """`function` of arrays `[b, t, ...]`, which treats classes independently, in chunks of at most `chunk` classes.

    The result `[b, t, ...]` does not depend on the chunk (0: all classes at once); memory does. With `remat`
    (`rematerialised`) training holds the inner activations of one chunk only.
    """
    classes = arrays[0].shape[1]
    if chunk == 0 or chunk >= classes:
        return rematerialised(function, remat, in_loop=False)(*arrays)
    shards = sharding.class_shards()
    chunks = -(-classes // chunk)
    size = -(-classes // (chunks * shards))  # classes of one shard in one chunk

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, chunks * shards * size - classes)] + [(0, 0)] * (x.ndim - 2))
        # Every chunk takes some classes of each shard, so that no class changes its device.
        x = jnp.moveaxis(x.reshape(x.shape[0], shards, chunks, size, *x.shape[2:]), 2, 0)
        return x.reshape(chunks, x.shape[1], shards * size, *x.shape[4:])

    def one_chunk(*parts: jax.Array) -> jax.Array:
        return function(*(sharding.by_class(part) if part.ndim > 2 else part for part in parts))

    # The constraint stands inside what is rematerialised: then the backward pass keeps slices of the input. Outside of
    # it, JAX would keep constrained copies.
    one_chunk = rematerialised(one_chunk, remat, in_loop=True)
    y = jax.lax.map(lambda parts: one_chunk(*parts), tuple(split(x) for x in arrays))
    y = jnp.moveaxis(y.reshape(chunks, y.shape[1], shards, size, *y.shape[3:]), 0, 2)
    return y.reshape(y.shape[0], chunks * shards * size, *y.shape[4:])[:, :classes]
