"""`(I + K)^-1` for skew-symmetric K, by products and elimination, with a hand-written gradient.

No LAPACK: batched LU is slow on a TPU, and independent LU calls can wait for each other for ever on a CPU with few
threads. The gradient is written by hand because it needs the result alone, not the steps that led to it.

Axes: B side of a matrix; any axes before the last two count matrices.
"""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST
_RESIDUAL = 1e-4  # Frobenius norm. Convergence is quadratic: one more update brings it below float32's rounding
_MOST_ITERATIONS = 60
_ELIMINATED = 32  # side of a block that is inverted by elimination; larger ones come from their quarters


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=_HIGHEST)


def _frobenius(x: jax.Array) -> jax.Array:
    return jnp.sqrt((x * x).sum((-2, -1), keepdims=True))


def _by_elimination(a: jax.Array) -> jax.Array:
    """Inverse of small matrices `[..., n, n]` by Gauss-Jordan elimination without pivots."""

    def eliminate(i: jax.Array, a: jax.Array) -> jax.Array:
        here = (jnp.arange(a.shape[-1]) == i).astype(a.dtype).reshape((1,) * (a.ndim - 1) + (-1,))
        row, column = (jax.lax.dynamic_slice_in_dim(a, i, 1, axis) for axis in (-2, -1))
        pivot = jax.lax.dynamic_slice_in_dim(row, i, 1, -1)
        below = jnp.swapaxes(here, -1, -2)
        row = (row * (1 - here) + here) / pivot
        return a * (1 - here) * (1 - below) - column * (1 - below) * row + below * row

    return jax.lax.fori_loop(0, a.shape[-1], eliminate, a)


def _by_blocks(a: jax.Array) -> jax.Array:
    """Inverse of `[..., n, n]` from the inverses of its upper left quarter and of that quarter's Schur complement.

    For `I + K` no pivots are needed: the symmetric part of every Schur complement is at least I.
    """
    if a.shape[-1] <= _ELIMINATED:
        return _by_elimination(a)
    half = a.shape[-1] // 2
    upper, lower = jnp.split(a, [half], -2)
    (p, q), (r, s) = jnp.split(upper, [half], -1), jnp.split(lower, [half], -1)
    p_inverse = _by_blocks(p)
    left, right = _product(r, p_inverse), _product(p_inverse, q)
    complement = _by_blocks(s - _product(r, right))
    corner = -_product(right, complement)
    upper = jnp.concatenate([p_inverse - _product(corner, left), corner], -1)
    return jnp.concatenate([upper, jnp.concatenate([-_product(complement, left), complement], -1)], -2)


@jax.custom_vjp
def inverse_of_one_plus(skew: jax.Array) -> jax.Array:
    """`(I + K)^-1` of skew-symmetric matrices K `[..., B, B]`.

    It is computed by blocks, and then improved to float32's rounding by `Y <- Y (2 I - (I + K) Y)`. Where K is so large
    that rounding spoils the blocks, that iteration starts from `Y = (I - K) / (1 + r^2)`, r >= ||K||_2, from which it
    converges for every K.
    """
    eye = jnp.broadcast_to(jnp.eye(skew.shape[-1], dtype=skew.dtype), skew.shape)
    # Singular values of a skew-symmetric matrix come in pairs: ||K||_2^2 <= ||K||_F^2 / 2.
    rows = jnp.abs(skew).sum(-1, keepdims=True).max(-2, keepdims=True)
    sure = (eye - skew) / (1 + jnp.minimum(_frobenius(skew) ** 2 / 2, rows**2))

    def residual(y: jax.Array) -> jax.Array:
        return eye - _product(eye + skew, y)

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, worst, count = state
        return (worst > _RESIDUAL) & (count < _MOST_ITERATIONS)

    def update(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        y, _, count = state
        r = residual(y)
        return y + _product(y, r), _frobenius(r).max(), count + 1

    blocks = _by_blocks(eye + skew)
    r = residual(blocks)
    size = _frobenius(r)
    good = size < 0.5  # False also where the size is NaN
    start = jnp.where(good, blocks + _product(blocks, r), sure)
    return jax.lax.while_loop(unfinished, update, (start, jnp.where(good, size, jnp.inf).max(), jnp.asarray(0)))[0]


def _inverse_forward(skew: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse = inverse_of_one_plus(skew)
    return inverse, inverse


def _inverse_backward(inverse: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    transposed = jnp.swapaxes(inverse, -1, -2)
    return (-_product(_product(transposed, cotangent), transposed),)


inverse_of_one_plus.defvjp(_inverse_forward, _inverse_backward)
