"""Softmax attention, shared by CLIP's towers and the aggregator's windows.

Axes: n k tokens, m head, d channels of a head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attend(
    query: Float[Array, "*batch n m d"],
    key: Float[Array, "*batch k m d"],
    value: Float[Array, "*batch k m d"],
    bias: Float[Array, "*batch1 #m n k"] | None = None,
) -> Float[Array, "*batch n m d"]:
    """`softmax(query key^T / sqrt(d) + bias) value` by head; scores, their sum and its division in float32.

    Equal to `jax.nn.dot_product_attention` up to rounding, and faster on a CPU (docs/performance.md): the division
    comes after the product with the values, where there are fewer numbers, and heads come before tokens, so that every
    product is one of plain matrices. `bias` must be finite.
    """
    query, key, value = (jnp.moveaxis(x, -2, -3) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = jnp.einsum("...nd,...kd->...nk", query, key).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    shares = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    summed = jnp.einsum("...nk,...kd->...nd", shares.astype(value.dtype), value).astype(jnp.float32)
    return jnp.moveaxis(summed / shares.sum(-1, keepdims=True), -3, -2).astype(value.dtype)
