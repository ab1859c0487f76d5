"""Rotary position embedding of two axes (RoPE): queries and keys are turned by the places of their tokens.

With c channels of a head, `f_k = 10000^(-4 k / c)` for k below c / 4: the pairs of neighbouring channels are turned by
`first f_0, first f_1, ...`, then, from the middle on, by `second f_0, second f_1, ...`. What a place counts, and which
axis comes first, each tower says. The class token stands at `(0, 0)`, so that it is not turned.

Axes: b image, n token (class token first), m head, c its channels.

Source: RoFormer (arXiv 2104.09864), for two axes as in EVA-02 (arXiv 2303.11331).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BASE = 10000.0  # of the frequencies
HEAD_MULTIPLE = 4  # channels of a head: a pair for each of the two axes


def angles(first: np.ndarray, second: np.ndarray, channels: int) -> np.ndarray:
    """Float32 `[1 + n, c / 2]` of n places on both axes: by how much each pair of a head's channels is turned."""
    frequencies = BASE ** (-np.arange(channels // 4, dtype=np.float64) * 4 / channels)
    turned = np.concatenate([np.outer(first, frequencies), np.outer(second, frequencies)], 1)
    return np.pad(turned, ((1, 0), (0, 0))).astype(np.float32)


def turned(x: Float[Array, "b n m c"], by: np.ndarray) -> Float[Array, "b n m c"]:
    """Each pair of neighbouring channels turned by its angle `[n, c / 2]`, in float32; result in x's dtype."""
    cosine, sine = (jnp.asarray(f(by))[None, :, None] for f in (np.cos, np.sin))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    both = jnp.stack([first * cosine - second * sine, second * cosine + first * sine], -1)
    return both.reshape(x.shape).astype(x.dtype)
