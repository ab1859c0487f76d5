"""Resizes as products with constant matrices: no anti-aliasing, PyTorch's sampling positions.

A resize along one axis is a linear map with a fixed matrix. Two small matrix products are fast on every accelerator,
and the transpose is the gradient. Logits are resized once, after the model, and gathered instead (`interpolated`).

Axes: h w rows and columns, c channel; where a function takes `axes`, these name rows and columns of any array.
Source: parity with PyTorch's interpolate, golden/resize.npz.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]  # per output: two source indices and the second one's weight


def _from_taps(size_in: int, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    matrix = np.zeros((indices.shape[0], size_in), np.float64)
    for tap in range(indices.shape[1]):
        np.add.at(matrix, (np.arange(indices.shape[0]), indices[:, tap]), weights[:, tap])
    return matrix.astype(np.float32)


def linear_taps(size_in: int, size_out: int, aligned_corners: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights `[size_out, 2]` of the two inputs that each output of a linear interpolation reads."""
    index = np.arange(size_out, dtype=np.float64)
    if aligned_corners:
        source = index * ((size_in - 1) / (size_out - 1)) if size_out > 1 else np.zeros(1)
    else:
        source = np.maximum((index + 0.5) * size_in / size_out - 0.5, 0.0)
    low = np.minimum(np.floor(source).astype(np.int64), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = source - low
    return np.stack([low, high], 1), np.stack([1.0 - fraction, fraction], 1)


@functools.lru_cache(maxsize=256)
def bilinear_matrix(size_in: int, size_out: int, aligned_corners: bool = False) -> np.ndarray:
    """Weights `[size_out, size_in]` of linear interpolation; each row sums to one."""
    return _from_taps(size_in, *linear_taps(size_in, size_out, aligned_corners))


@functools.lru_cache(maxsize=256)
def _joined_matrix(size_in: int, through: int, size_out: int) -> np.ndarray:
    second, first = bilinear_matrix(through, size_out), bilinear_matrix(size_in, through)
    return (second.astype(np.float64) @ first.astype(np.float64)).astype(np.float32)


@functools.lru_cache(maxsize=256)
def bicubic_matrix(size_in: int, size_out: int, step: float | None = None) -> np.ndarray:
    """Weights `[size_out, size_in]` of cubic interpolation with a = -0.75 (PyTorch's).

    `step` is how far apart outputs lie, in inputs; None: `size_in / size_out`, so that both cover the same extent.
    """
    a = -0.75
    index = np.arange(size_out, dtype=np.float64) + 0.5
    source = (index * size_in / size_out if step is None else index * step) - 0.5
    low = np.floor(source).astype(np.int64)
    distance = np.abs((source - low)[:, None] - np.arange(-1, 3)[None, :])
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    indices = np.clip(low[:, None] + np.arange(-1, 3)[None, :], 0, size_in - 1)
    return _from_taps(size_in, indices, np.where(distance <= 1, near, far))


def _apply(x: jax.Array, row_matrix: np.ndarray, column_matrix: np.ndarray, axes: tuple[int, int]) -> jax.Array:
    for matrix, axis in zip((row_matrix, column_matrix), axes, strict=True):
        if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix), dtype=np.float32)):
            continue
        axis = axis % x.ndim
        product = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((axis,), (1,)), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(product, -1, axis)
    return x


def bilinear(
    x: jax.Array, size: tuple[int, int], axes: tuple[int, int] = (-3, -2), *, aligned_corners: bool = False
) -> jax.Array:
    """Bilinear resize of two axes to `size` (rows, columns), without anti-aliasing. Same dtype as `x`."""
    rows, columns = (bilinear_matrix(x.shape[axis], out, aligned_corners) for axis, out in zip(axes, size, strict=True))
    return _apply(x, rows, columns, axes)


def bilinear_through(
    x: jax.Array, through: tuple[int, int], size: tuple[int, int], axes: tuple[int, int] = (-3, -2)
) -> jax.Array:
    """`bilinear` to `through` and from there to `size`, as one map: nothing of the size `through` is computed."""
    sizes = zip((x.shape[axis] for axis in axes), through, size, strict=True)
    rows, columns = (_joined_matrix(*along) for along in sizes)
    return _apply(x, rows, columns, axes)


def bicubic(
    x: Float[Array, "*batch h w c"], size: tuple[int, int], steps: tuple[float, float] | None = None
) -> Float[Array, "*batch h2 w2 c"]:
    """Bicubic resize (a = -0.75) to `size` (rows, columns), without anti-aliasing; `steps` as in `bicubic_matrix`."""
    along_axes = zip(x.shape[-3:-1], size, steps or (None, None), strict=True)
    rows, columns = (bicubic_matrix(n, out, step) for n, out, step in along_axes)
    return _apply(x, rows, columns, (-3, -2))


def nearest(labels: Shaped[Array, "*batch h w"], size: tuple[int, int]) -> Shaped[Array, "*batch h2 w2"]:
    """Nearest-neighbour resize of labels: output i reads input floor(i n / m), in integers."""
    for axis, out in zip((-2, -1), size, strict=True):
        labels = jnp.take(labels, np.arange(out) * labels.shape[axis] // out, axis=axis)
    return labels


def interpolated(x: jax.Array, row_taps: Taps, column_taps: Taps) -> jax.Array:
    """Bilinear resize of the last two axes. The taps may be arguments, so that one program serves all sizes.

    Gathering two neighbours is far cheaper than a product with a matrix of mostly zeros, and needs no rounding mode.
    """
    return turned(jnp.swapaxes(x, -1, -2), column_taps, row_taps)


def turned(x: jax.Array, row_taps: Taps, column_taps: Taps) -> jax.Array:
    """`interpolated`, transposed: `[..., h, w] -> [..., W, H]`."""
    return along(jnp.swapaxes(along(x, row_taps), -1, -2), column_taps)


def along(x: jax.Array, taps: Taps) -> jax.Array:
    """Linear interpolation of the last axis but one: `[..., h, w] -> [..., H, w]`."""
    low, high, weight = taps
    first, second = (jnp.take(x, index, axis=-2, mode="clip") for index in (low, high))
    weight = weight.reshape((1,) * (x.ndim - 2) + (-1, 1))
    return first * (1 - weight) + second * weight
