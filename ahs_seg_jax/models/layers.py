"""The layers that the whole model shares, as pure functions.

Modules own parameters (`initial`); the arithmetic is functions of dictionaries of arrays, so that a stack of layers can
be scanned, cut into chunks of classes and rematerialised without lifting Flax transformations.

Axes: b image, h w rows and columns, c o input and output channels, k kernel side.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models.ops import products
from ahs_seg_jax.models.ops.convolution import same, same_in_loop
from ahs_seg_jax.models.parameters import Params

EPSILON = 1e-5  # PyTorch's default of LayerNorm and GroupNorm; Flax's differs


def _along_last(vector: jax.Array, x: jax.Array) -> jax.Array:
    """`[c]` in x's dtype and with x's number of axes."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)


def _with_bias(y: jax.Array, p: Params) -> jax.Array:
    return y + _along_last(p["bias"], y) if "bias" in p else y


def linear(x: Float[Array, "*batch c"], p: Params) -> Float[Array, "*batch o"]:
    """`x kernel + bias` over the last axis, in x's dtype."""
    return _with_bias(x @ p["kernel"].astype(x.dtype), p)


def learned_linear(x: Float[Array, "*batch c"], p: Params) -> Float[Array, "*batch o"]:
    """`linear` with a faster gradient of the kernel, for the aggregator: its kernels learn whatever else is frozen."""
    return _with_bias(products.product(x, p["kernel"].astype(x.dtype)), p)


def layer_norm(x: Float[Array, "*batch c"], p: Params, epsilon: float = EPSILON) -> Float[Array, "*batch c"]:
    """LayerNorm over the last axis; statistics in float32, result in x's dtype."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return (y * _along_last(p["scale"], y) + _along_last(p["bias"], y)).astype(x.dtype)


def _mean_of_group(x: jax.Array, groups: int) -> jax.Array:
    """`[..., h, w, c] -> [..., 1, 1, c]`: for each channel the mean over h, w and the channels of its group.

    The mean of each channel comes first, because XLA on a CPU then adds up many channels at once.
    """
    of_channel = x.mean((-3, -2), keepdims=True)
    of_group = of_channel.reshape(*of_channel.shape[:-1], groups, -1).mean(-1, keepdims=True)
    return jnp.repeat(of_group, x.shape[-1] // groups, -1).reshape(of_channel.shape)


def group_norm(x: Float[Array, "*batch h w c"], p: Params, groups: int) -> Float[Array, "*batch h w c"]:
    """GroupNorm over h, w and each group's channels; statistics in float32."""
    wide = x.astype(jnp.float32)
    mean = _mean_of_group(wide, groups)
    variance = _mean_of_group(jnp.square(wide - mean), groups)
    scale = jax.lax.rsqrt(variance + EPSILON) * _along_last(p["scale"], wide)
    # One factor and one summand for each channel, so that nothing as large as x is written but the result.
    return (wide * scale + (_along_last(p["bias"], wide) - mean * scale)).astype(x.dtype)


def l2_normalise(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """x divided by the float32 norm of its last axis (at least 1e-12, as PyTorch's normalize); result in x's dtype."""
    wide = x.astype(jnp.float32)
    # The maximum is taken under the root: the norm's gradient at zero would be NaN.
    squares = jnp.maximum((wide * wide).sum(-1, keepdims=True), 1e-24)
    return (wide * jax.lax.rsqrt(squares)).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (error function) GELU. `jax.nn.gelu` takes erfc, which costs three times as much on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU approximated by the hyperbolic tangent, as SigLIP has it."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": jax.nn.silu,
}


def conv_same(x: Float[Array, "*batch h w c"], p: Params, *, in_loop: bool = False) -> Float[Array, "*batch h w o"]:
    """Convolution with an odd kernel and zero padding, in x's dtype.

    `in_loop` says that the call stands inside a compiled loop: same result, another way to the gradient.
    """
    flat, kernel = x.reshape(-1, *x.shape[-3:]), p["kernel"].astype(x.dtype)
    y = same_in_loop(flat, kernel) if in_loop else same(flat, kernel)
    return _with_bias(y.reshape(*x.shape[:-1], y.shape[-1]), p)


def conv_transpose(x: Float[Array, "*batch h w c"], p: Params) -> Float[Array, "*batch h2 w2 o"]:
    """Transposed convolution whose stride is its kernel's side k.

    Output pixels do not overlap, so that it is one matrix product and a rearrangement: output pixel (k y + i, k x + j)
    is `x[y, x] kernel[i, j] + bias`.
    """
    *lead, rows, columns, channels = x.shape
    side, _, _, features = p["kernel"].shape
    kernel = p["kernel"].astype(x.dtype).transpose(2, 0, 1, 3).reshape(channels, -1)
    y = (x.reshape(-1, channels) @ kernel).reshape(-1, rows, columns, side, side, features)
    return _with_bias(y.transpose(0, 1, 3, 2, 4, 5).reshape(*lead, rows * side, columns * side, features), p)


def patches(x: Float[Array, "*batch h w c"], side: int) -> Float[Array, "*batch h w kkc"]:
    """Zero-padded neighbourhoods of `side` x `side` positions, row by row."""
    rows, columns = x.shape[-3:-1]
    reach = side // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(reach, reach), (reach, reach), (0, 0)])
    shifted = [padded[..., i : i + rows, j : j + columns, :] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifted, -1)


def split_linear(p: Params, features: int) -> tuple[Params, jax.Array]:
    """A linear map of `[features, guidance]` as the features' map (with the bias) and the guidance's kernel.

    Such a map is the sum of two. Guidance is the same for all classes of an image (or all positions of a class), so
    that its half is computed once and added: this makes the aggregator cheap, and the result stays exact.
    """
    return {"kernel": p["kernel"][:features], "bias": p["bias"]}, p["kernel"][features:]
