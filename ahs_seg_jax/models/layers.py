"""Parameter declarations and the few layers that the whole model shares.

Modules own parameters; the arithmetic is pure functions over dictionaries of arrays, so that a stack of layers can
be scanned, chunked over classes and rematerialised without lifting Flax transformations.

Axes: b image, h w rows and columns, c o input and output channels, k kernel side.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ahs_seg_jax.models.ops import products
from ahs_seg_jax.models.ops.convolution import same, same_in_loop
from ahs_seg_jax.models.ops.products import Arrays

EPSILON = 1e-5  # PyTorch's default of LayerNorm and GroupNorm; Flax's differs

zeros = nn.initializers.zeros_init()
ones = nn.initializers.ones_init()
normal = nn.initializers.normal
fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def stacked(initializer: Any) -> Any:
    """The initializer of one layer, applied to each index of a leading axis of layers."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda key: initializer(key, shape[1:], dtype))(keys)

    return initialize


class Parameters(nn.Module):
    """Named float32 arrays: `shapes` maps a name to (initializer, shape). Calling it hands them out."""

    shapes: Mapping[str, tuple[Any, tuple[int, ...]]]

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        return {name: self.param(name, init, shape) for name, (init, shape) in self.shapes.items()}


def affine(features_in: int, features_out: int, name: str | None = None) -> Parameters:
    """`kernel [in, out]` and `bias [out]` of a linear map."""
    shapes = {"kernel": (fan_in, (features_in, features_out)), "bias": (zeros, (features_out,))}
    return Parameters(shapes, name=name)


def convolution(
    side: int, features_in: int, features_out: int, name: str | None = None, *, bias: bool = True
) -> Parameters:
    """`kernel [k, k, in, out]` and, unless told otherwise, `bias [out]`."""
    shapes = {"kernel": (fan_in, (side, side, features_in, features_out))}
    return Parameters(shapes | ({"bias": (zeros, (features_out,))} if bias else {}), name=name)


def norm(features: int, name: str | None = None) -> Parameters:
    """`scale [c]` and `bias [c]` of a LayerNorm or GroupNorm."""
    return Parameters({"scale": (ones, (features,)), "bias": (zeros, (features,))}, name=name)


def linear(x: jax.Array, p: Arrays, *, learned: bool = False) -> jax.Array:
    """`x kernel + bias` over the last axis, in x's dtype.

    `learned` is for kernels that always learn: same result, a faster way to their gradient, computed even if frozen.
    """
    kernel = p["kernel"].astype(x.dtype)
    y = products.product(x, kernel) if learned else x @ kernel
    return y + products.broadcast(p["bias"], y) if "bias" in p else y


learned_linear = functools.partial(linear, learned=True)  # of the aggregator, which learns whatever else is frozen


def layer_norm(x: jax.Array, p: Arrays) -> jax.Array:
    """LayerNorm over the last axis; statistics in float32, result in x's dtype."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
    return (y * products.broadcast(p["scale"], y) + products.broadcast(p["bias"], y)).astype(x.dtype)


def _mean_of_group(x: jax.Array, groups: int) -> jax.Array:
    """`[..., h, w, c] -> [..., 1, 1, c]`: for each channel the mean over h, w and the channels of its group.

    Each channel by itself first: XLA on a CPU then adds up many channels at once.
    """
    of_channel = x.mean((-3, -2), keepdims=True)
    of_group = of_channel.reshape(*of_channel.shape[:-1], groups, -1).mean(-1, keepdims=True)
    return jnp.repeat(of_group, x.shape[-1] // groups, -1).reshape(of_channel.shape)


def group_norm(x: jax.Array, p: Arrays, groups: int) -> jax.Array:
    """GroupNorm of `[..., h, w, c]` over h, w and each group's channels; statistics in float32."""
    wide = x.astype(jnp.float32)
    mean = _mean_of_group(wide, groups)
    variance = _mean_of_group(jnp.square(wide - mean), groups)
    scale = jax.lax.rsqrt(variance + EPSILON) * products.broadcast(p["scale"], wide)
    # One factor and one summand for each channel, so that nothing as large as x is written but the result.
    return (wide * scale + (products.broadcast(p["bias"], wide) - mean * scale)).astype(x.dtype)


def l2_normalise(x: jax.Array, axis: int = -1) -> jax.Array:
    """x divided by its float32 norm (at least 1e-12, as PyTorch's normalize); result in x's dtype."""
    wide = x.astype(jnp.float32)
    # The maximum is taken under the root: the norm's gradient at zero would be NaN.
    squares = jnp.maximum((wide * wide).sum(axis, keepdims=True), 1e-24)
    return (wide * jax.lax.rsqrt(squares)).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (error function) GELU. `jax.nn.gelu` takes erfc, which costs three times as much on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def conv_same(x: jax.Array, p: Arrays, *, in_loop: bool = False) -> jax.Array:
    """Convolution `[..., h, w, c] -> [..., h, w, o]` with an odd kernel and zero padding, in x's dtype.

    `in_loop` says that the call stands inside a compiled loop: same result, another way to the gradient.
    """
    flat, kernel = x.reshape(-1, *x.shape[-3:]), p["kernel"].astype(x.dtype)
    y = same_in_loop(flat, kernel) if in_loop else same(flat, kernel)
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    return y + products.broadcast(p["bias"], y) if "bias" in p else y


def conv_transpose(x: jax.Array, p: Arrays) -> jax.Array:
    """Transposed convolution whose stride is its kernel's side: `[..., h, w, c] -> [..., k h, k w, o]`.

    Output pixels do not overlap, so that it is one matrix product and a rearrangement: output pixel (k y + i, k x + j)
    is `x[y, x] kernel[i, j] + bias`.
    """
    *lead, rows, columns, channels = x.shape
    side, _, _, features = p["kernel"].shape
    kernel = p["kernel"].astype(x.dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
    y = (x.reshape(-1, channels) @ kernel).reshape(-1, rows, columns, side, side, features)
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(*lead, rows * side, columns * side, features)
    return y + products.broadcast(p["bias"], y)


def patches(x: jax.Array, side: int) -> jax.Array:
    """Zero-padded neighbourhoods `[..., h, w, c] -> [..., h, w, side * side * c]`, row by row."""
    rows, columns = x.shape[-3:-1]
    reach = side // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, reach), (reach, reach), (0, 0)])
    shifted = [padded[..., i : i + rows, j : j + columns, :] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifted, -1)


def split_linear(p: Arrays, features: int) -> tuple[Arrays, jax.Array]:
    """A linear map of `[features, guidance]` as the features' map (with the bias) and the guidance's kernel.

    The rule that makes the aggregator cheap, exactly: such a map is the sum of two. Guidance is the same for all classes
    of an image (or all positions of a class), so that its half is computed once and added.
    """
    return {"kernel": p["kernel"][:features], "bias": p["bias"]}, p["kernel"][features:]
