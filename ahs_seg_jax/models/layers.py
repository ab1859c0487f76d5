"""Parameter declarations and the few layers that the whole model shares.

Modules own parameters; the arithmetic is pure functions over dictionaries of arrays, so that a stack of layers can
be scanned, chunked over classes and rematerialised without lifting Flax transformations.

Axes: b image, h w rows and columns, c o input and output channels, k kernel side.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models import sharding

SHORT = 256  # channels: products of shorter vectors are computed again rather than kept
TPU_PASS = 16  # images x classes of a pass on one TPU: its fast memory holds all that the pass computes
EPSILON = 1e-5  # PyTorch's default of LayerNorm and GroupNorm; Flax's differs

Arrays = Mapping[str, Any]  # nested dictionary of arrays

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


def backward_precision(x: jax.Array) -> jax.lax.Precision:
    """That of products in a backward pass that is written by hand: it is traced after the model, where what the model
    has asked for (`jax.default_matmul_precision`) no longer holds."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)  # not `_product`, which would hide the product from `rematerialised`


def _product_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    every = tuple(range(x.ndim - 1))
    product = functools.partial(jnp.tensordot, axes=(every, every), precision=backward_precision(x))
    # A CPU transposes the first operand: it shall be the narrower one.
    narrow = x.shape[-1] <= cotangent.shape[-1]
    gradient = product(x, cotangent) if narrow else product(cotangent, x).T
    return jnp.matmul(cotangent, kernel.T, precision=backward_precision(x)), gradient


_product.defvjp(_product_forward, _product_backward)


def linear(x: jax.Array, p: Arrays, *, learned: bool = False) -> jax.Array:
    """`x kernel + bias` over the last axis, in x's dtype.

    `learned` is for kernels that always learn: same result, a faster way to their gradient, computed even if frozen.
    """
    kernel = p["kernel"].astype(x.dtype)
    y = _product(x, kernel) if learned else x @ kernel
    return y + _broadcast(p["bias"], y) if "bias" in p else y


learned_linear = functools.partial(linear, learned=True)  # of the aggregator, which learns whatever else is frozen


def _broadcast(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)


def layer_norm(x: jax.Array, p: Arrays) -> jax.Array:
    """LayerNorm over the last axis; statistics in float32, result in x's dtype."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPSILON)
    return (y * _broadcast(p["scale"], y) + _broadcast(p["bias"], y)).astype(x.dtype)


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
    scale = jax.lax.rsqrt(variance + EPSILON) * _broadcast(p["scale"], wide)
    # One factor and one summand for each channel, so that nothing as large as x is written but the result.
    return (wide * scale + (_broadcast(p["bias"], wide) - mean * scale)).astype(x.dtype)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _repeated(x: jax.Array, times: int, axis: int) -> jax.Array:
    return jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], times, *x.shape[axis:]))


def _repeated_forward(x: jax.Array, times: int, axis: int) -> tuple[jax.Array, None]:
    return _repeated(x, times, axis), None


def _repeated_backward(times: int, axis: int, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    # A sum over rows, which is slow as a reduction on a CPU, and slow as a product unless the ones come first.
    ones = jnp.ones(times, cotangent.dtype)
    return (jnp.tensordot(ones, cotangent, ((0,), (axis,)), precision=backward_precision(cotangent)),)


_repeated.defvjp(_repeated_forward, _repeated_backward)


def repeated(x: Float[Array, "1 ..."], times: int) -> Float[Array, "times ..."]:
    """x once for each of `times` rows."""
    return _repeated(x[0], times, 0)


def for_classes(x: Float[Array, "b 1 ..."], classes: int) -> Float[Array, "b t ..."]:
    """What an image says to all classes alike, for each of them."""
    return _repeated(x[:, 0], classes, 1)


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k c o"],
    padding: tuple[tuple[int, int], tuple[int, int]],
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Convolution of stride 1 with so many rows and columns of zeros before and after: `[n, h', w', o]`."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout, precision=precision)


def _same(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    reach = kernel.shape[0] // 2
    return convolve(x, kernel, ((reach, reach), (reach, reach)), precision)


@jax.custom_vjp
def _same_in_loop(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _same(x, kernel)


def _same_on_all_cores(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    """`_same` with one row more than needed above it: a result larger than x is what XLA on a CPU computes itself, on all
    cores; what it leaves to its library runs on one."""
    reach = kernel.shape[0] // 2
    return convolve(x, kernel, ((reach + 1, reach), (reach, reach)), precision)[:, 1:]


def _same_by_platform(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    cpu, default = (functools.partial(f, precision=precision) for f in (_same_on_all_cores, _same))
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _same_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _same_by_platform(x, kernel), (x, kernel)


def kernel_gradient(
    x: Float[Array, "b h+k-1 w+k-1 c"], cotangent: Float[Array, "b h w o"], side: int
) -> Float[Array, "k k c o"]:
    """That of a convolution of x without padding, by products: one for each row of the kernel.

    The columns of a kernel's row stand beside each other, so that x is copied k times and not k * k. Every image has a
    product of its own, to be summed, so that all cores take part; the narrower operand is the one that is transposed.
    """
    rows, width = cotangent.shape[1:3]
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(side)], -1)
    product = functools.partial(jnp.einsum, "bhwo,bhwc->boc", precision=backward_precision(x))
    products = [product(cotangent, columns[:, i : i + rows]).sum(0) for i in range(side)]
    return jnp.stack(products).reshape(side, cotangent.shape[-1], side, x.shape[-1]).transpose(0, 2, 3, 1)


def _kernel_gradient_as_products(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    reach = kernel.shape[0] // 2
    return kernel_gradient(jnp.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)]), cotangent, kernel.shape[0])


def _kernel_gradient_as_convolution(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    return jax.linear_transpose(lambda kernel: _same(x, kernel, backward_precision(x)), kernel)(cotangent)[0]


def _same_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # XLA on a CPU knows neither gradient of a convolution well inside a loop: the input's, as it stands here, is twenty
    # times faster than what it derives, the kernel's fifty times and more as products.
    x_gradient = _same_by_platform(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), backward_precision(x))
    return x_gradient, jax.lax.platform_dependent(
        x, kernel, cotangent, cpu=_kernel_gradient_as_products, default=_kernel_gradient_as_convolution
    )


_same_in_loop.defvjp(_same_forward, _same_backward)


def conv_same(x: jax.Array, p: Arrays, *, in_loop: bool = False) -> jax.Array:
    """Convolution `[..., h, w, c] -> [..., h, w, o]` with an odd kernel and zero padding, in x's dtype.

    `in_loop` says that the call stands inside a compiled loop: same result, another way to the gradient.
    """
    flat, kernel = x.reshape(-1, *x.shape[-3:]), p["kernel"].astype(x.dtype)
    y = _same_in_loop(flat, kernel) if in_loop else _same(flat, kernel)
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    return y + _broadcast(p["bias"], y) if "bias" in p else y


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
    return y + _broadcast(p["bias"], y)


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
