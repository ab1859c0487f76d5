"""Matrix products with hand-written gradients."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Arrays = Mapping[str, Any]  # nested dictionary of arrays


def backward_precision(x: jax.Array) -> jax.lax.Precision:
    """That of products in a backward pass that is written by hand: it is traced after the model, where what the model
    has asked for (`jax.default_matmul_precision`) no longer holds."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
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


product.defvjp(_product_forward, _product_backward)


def broadcast(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)


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
