"""Convolutions of stride 1 with hand-written gradients, arranged for the platform.

XLA on a CPU computes the gradients of a convolution many times slower than equal products: fifty times and more inside
a compiled loop. Three convolutions of the decoder therefore bring their gradients along: `same_in_loop`, `at_corners`
(2x2 at the corners between pixels) and `to_one_channel` (3x3 to one channel).

Axes: n image x class, h w rows and columns, c o input and output channels, k kernel side.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models.ops.products import backward_precision

_Saved = tuple[jax.Array, jax.Array]  # x and kernel, for the backward pass

# ---------------------------------------------------------------------------------------------- any kernel, zero
# padding


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k c o"],
    padding: tuple[tuple[int, int], tuple[int, int]],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "n h2 w2 o"]:
    """Convolution with `padding` zeros: ((rows before, rows after), (columns before, columns after))."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout, precision=precision)


def same(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"], precision: jax.lax.Precision | None = None
) -> Float[Array, "n h w o"]:
    """Convolution with an odd kernel and zero padding to the size of x."""
    reach = kernel.shape[0] // 2
    return convolve(x, kernel, ((reach, reach), (reach, reach)), precision)


@jax.custom_vjp
def same_in_loop(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"]) -> Float[Array, "n h w o"]:
    """`same` for a call inside a compiled loop."""
    return same(x, kernel)


def _same_on_all_cores(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    """`same`, from a convolution with one more row of zeros above x than it needs.

    Where the result is larger than x, XLA on a CPU computes the convolution itself, on all cores. What it leaves to its
    library runs on one core.
    """
    reach = kernel.shape[0] // 2
    return convolve(x, kernel, ((reach + 1, reach), (reach, reach)), precision)[:, 1:]


def _same_by_platform(x: jax.Array, kernel: jax.Array, precision: jax.lax.Precision | None = None) -> jax.Array:
    cpu, default = (functools.partial(f, precision=precision) for f in (_same_on_all_cores, same))
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _same_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Saved]:
    return _same_by_platform(x, kernel), (x, kernel)


def _kernel_gradient(
    x: Float[Array, "n h+k-1 w+k-1 c"], cotangent: Float[Array, "n h w o"], side: int
) -> Float[Array, "k k c o"]:
    """The kernel's gradient of a convolution of x without padding, by products: one for each row of the kernel.

    The columns of a kernel's row are joined, so that x is copied k times and not k * k times. Every image has a product
    of its own, so that all cores take part, and these are summed. The narrower operand is the one that is transposed.
    """
    rows, width = cotangent.shape[1:3]
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(side)], -1)
    product = functools.partial(jnp.einsum, "bhwo,bhwc->boc", precision=backward_precision(x))
    products = [product(cotangent, columns[:, i : i + rows]).sum(0) for i in range(side)]
    return jnp.stack(products).reshape(side, cotangent.shape[-1], side, x.shape[-1]).transpose(0, 2, 3, 1)


def _kernel_gradient_as_products(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    reach = kernel.shape[0] // 2
    return _kernel_gradient(jnp.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)]), cotangent, kernel.shape[0])


def _kernel_gradient_as_convolution(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    return jax.linear_transpose(lambda kernel: same(x, kernel, backward_precision(x)), kernel)(cotangent)[0]


def _same_backward(saved: _Saved, cotangent: jax.Array) -> _Saved:
    x, kernel = saved
    # Inside a loop on a CPU, the input's gradient as it stands here is twenty times faster than what XLA derives, and
    # the kernel's gradient by products at least fifty times.
    x_gradient = _same_by_platform(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), backward_precision(x))
    return x_gradient, jax.lax.platform_dependent(
        x, kernel, cotangent, cpu=_kernel_gradient_as_products, default=_kernel_gradient_as_convolution
    )


same_in_loop.defvjp(_same_forward, _same_backward)

# ---------------------------------------------------------------------------------------- 2x2, at corners between
# pixels


def _padded(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])


@jax.custom_vjp
def at_corners(x: Float[Array, "n h w c"], kernel: Float[Array, "2 2 c o"]) -> Float[Array, "n h+1 w+1 o"]:
    """2x2 convolution at every corner between pixels, zeros around the grid.

    XLA on a CPU is fastest with a convolution forward, and a hundred times faster with products for the gradients.
    """
    return convolve(x, kernel, ((1, 1), (1, 1)))


def _at_corners_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`at_corners` as one product over the 2x2 patches: its transpose is the better way to the gradient of x."""
    rows, columns, channels = x.shape[-3:]
    patch = [_padded(x)[:, i : i + rows + 1, j : j + columns + 1] for i in range(2) for j in range(2)]
    kernel = kernel.reshape(4 * channels, -1)
    return jnp.matmul(jnp.concatenate(patch, -1), kernel, precision=backward_precision(x))


def _at_corners_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Saved]:
    return convolve(x, kernel, ((1, 1), (1, 1))), (x, kernel)


def _at_corners_backward(saved: _Saved, cotangent: jax.Array) -> _Saved:
    x, kernel = saved
    x_gradient = jax.linear_transpose(lambda x: _at_corners_by_product(x, kernel), x)(cotangent)[0]
    return x_gradient, _kernel_gradient(_padded(x), cotangent, 2)


at_corners.defvjp(_at_corners_forward, _at_corners_backward)

# ------------------------------------------------------------------------------------------------- 3x3, to one channel


def _summed_taps(x: Float[Array, "n h w c"], kernel: Float[Array, "9 c"]) -> Float[Array, "n h w"]:
    """3x3 convolution to one channel: a product for its nine taps, then their sum at nine shifts."""
    rows, columns = x.shape[1:3]
    taps = jnp.pad(x @ kernel.T, [(0, 0), (1, 1), (1, 1), (0, 0)])
    shifted = [taps[:, i : i + rows, j : j + columns, 3 * i + j] for i in range(3) for j in range(3)]
    return sum(shifted[1:], start=shifted[0])


def _shifted(x: Float[Array, "n h w"]) -> Float[Array, "9 n h w"]:
    """x at the places where the nine taps of a 3x3 convolution's transpose read it, zeros around the grid."""
    rows, columns = x.shape[1:]
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1)])
    return jnp.stack([padded[:, 2 - i :, 2 - j :][:, :rows, :columns] for i in range(3) for j in range(3)])


def _to_one_channel_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, _Saved]:
    return _summed_taps(x, kernel), (x, kernel)


def _to_one_channel_backward(saved: _Saved, cotangent: jax.Array) -> _Saved:
    # XLA on a CPU would add up nine padded arrays, and read all nine for every place of the sum: eight times slower.
    x, kernel = saved
    product = functools.partial(jnp.matmul, precision=backward_precision(x))
    shifted = _shifted(cotangent).reshape(9, -1)
    return product(shifted.T, kernel).reshape(x.shape), product(shifted, x.reshape(-1, x.shape[-1]))


to_one_channel = jax.custom_vjp(_summed_taps)
to_one_channel.defvjp(_to_one_channel_forward, _to_one_channel_backward)
