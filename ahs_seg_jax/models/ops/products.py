"""Matrix products and repetitions with hand-written gradients.

The gradients that JAX derives are right, but XLA computes some of them badly on a CPU: the gradient of a kernel
transposes the wider operand, and the sum over repeated rows is a slow reduction. Both are products of a better shape
here.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def backward_precision(x: jax.Array) -> jax.lax.Precision:
    """The precision of products in a hand-written backward pass of x.

    The backward pass is traced after the model, where the precision that the model asked for
    (`jax.default_matmul_precision`) no longer holds.
    """
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT


@jax.custom_vjp
def product(x: Float[Array, "*batch c"], kernel: Float[Array, "c o"]) -> Float[Array, "*batch o"]:
    """`x @ kernel`. The kernel's gradient is computed even where nothing asks for it: for kernels that learn."""
    return x @ kernel


def _product_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)  # a call of `product` would hide the product from `remat.rematerialised`


def _product_backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    every = tuple(range(x.ndim - 1))
    contracted = functools.partial(jnp.tensordot, axes=(every, every), precision=backward_precision(x))
    # A CPU transposes the first operand, so the narrower one comes first.
    narrow = x.shape[-1] <= cotangent.shape[-1]
    gradient = contracted(x, cotangent) if narrow else contracted(cotangent, x).T
    return jnp.matmul(cotangent, kernel.T, precision=backward_precision(x)), gradient


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _repeated(x: jax.Array, times: int, axis: int) -> jax.Array:
    return jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], times, *x.shape[axis:]))


def _repeated_forward(x: jax.Array, times: int, axis: int) -> tuple[jax.Array, None]:
    return _repeated(x, times, axis), None


def _repeated_backward(times: int, axis: int, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    # A sum over rows is slow as a reduction on a CPU, and slow as a product unless the ones come first.
    ones = jnp.ones(times, cotangent.dtype)
    return (jnp.tensordot(ones, cotangent, ((0,), (axis,)), precision=backward_precision(cotangent)),)


_repeated.defvjp(_repeated_forward, _repeated_backward)


def repeated(x: Float[Array, "1 ..."], times: int) -> Float[Array, "times ..."]:
    """x once for each of `times` rows."""
    return _repeated(x[0], times, 0)


def for_classes(x: Float[Array, "b 1 ..."], classes: int) -> Float[Array, "b t ..."]:
    """What an image says to all classes alike, once for each of them."""
    return _repeated(x[:, 0], classes, 1)
