"""Attention within the windows of a grid: how windows lie in memory, and what attends.

Axes: b image, t class, h w grid, c channels, u window, n tokens of a window.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models.ops import attention

MOST_HEAD, HEAD_STEP = 128, 8  # channels of a head that cuDNN's kernel takes: multiples of the step


@dataclasses.dataclass(frozen=True)
class WindowAttention:
    """One way to attend; every way gives the same result up to rounding.

    `by` is "products" (`attention.attend`), or the implementation of `jax.nn.dot_product_attention`: "cudnn" is one
    fused kernel, which never writes the scores to memory, "xla" the same without the kernel. Those two take the windows
    of a class as further heads, since their bias may differ from head to head and not within a batch. Tokens come
    before windows then, so that nothing needs to be transposed for it.
    """

    by: str = "products"

    @property
    def _order(self) -> tuple[int, ...]:
        """Axes b, t, window row, row, window column, column, c: the windows first, or the tokens."""
        return (0, 1, 2, 4, 3, 5, 6) if self.by == "products" else (0, 1, 3, 5, 2, 4, 6)

    def split(self, x: Float[Array, "b t h w c"], window: int) -> jax.Array:
        """`[b, t, u, n, c]`, or with tokens first `[b, t, n, u, c]`."""
        images, classes, rows, columns, channels = x.shape
        x = x.reshape(images, classes, rows // window, window, columns // window, window, channels)
        x = x.transpose(self._order)
        return x.reshape(images, classes, x.shape[2] * x.shape[3], -1, channels)

    def join(self, x: jax.Array, window: int, rows: int, columns: int) -> Float[Array, "b t h w c"]:
        """The inverse of `split`."""
        images, classes, *_, channels = x.shape
        counts = (rows // window, columns // window), (window, window)
        first, second = counts if self.by == "products" else counts[::-1]
        x = x.reshape(images, classes, *first, *second, channels)
        return x.transpose(np.argsort(self._order)).reshape(images, classes, rows, columns, channels)

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, heads: int, mask: Float[np.ndarray, "u n n"] | None
    ) -> jax.Array:
        """Softmax attention within each window, of arrays as `split` makes them; `mask` is added to the scores."""
        if self.by == "products":
            q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in (query, key, value))
            bias = None if mask is None else jnp.asarray(mask)[None, None, :, None]
            return attention.attend(q, k, v, bias).reshape(query.shape)
        images, classes, tokens, windows, channels = query.shape
        shape = (images * classes, tokens, windows * heads, channels // heads)
        q, k, v = (x.reshape(shape) for x in (query, key, value))
        bias = None if mask is None else jnp.asarray(mask.repeat(heads, 0), query.dtype)[None]
        attended = jax.nn.dot_product_attention(q, k, v, bias, implementation="cudnn" if self.by == "cudnn" else "xla")
        return attended.reshape(query.shape)


PRODUCTS = WindowAttention()


def fits_cudnn(*, dtype: str, head: int, window: int) -> bool:
    """Whether cuDNN's kernel takes heads of `head` channels and windows of `window` x `window` tokens of this type."""
    return dtype == "bfloat16" and head <= MOST_HEAD and head % HEAD_STEP == 0 and window % 2 == 0
