"""PEARL's propagation: sure pixels keep their logits, the others take them over from pixels that look alike.

It is solved on a small grid, for all queries together: the solver's step sizes are common to them. Its 25 steps do not
converge; they are its definition.

Axes: q query, h w the small grid.
Source: PEARL (arXiv 2603.21528) and its program. Parity: golden/training_free_vitb16.npz.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

STEPS = 25  # of conjugate gradients
TINY, EPSILON = 1e-12, 1e-6
_GREY = (0.299, 0.587, 0.114)
_HIGHEST = jax.lax.Precision.HIGHEST


def pooling(extent: int, grid: int) -> int:
    """How many pixels of an axis become one of about `grid`; what does not fill one at the end is cut off."""
    return max(1, round(extent / grid))  # half to even


def propagated(
    logits: Float[Array, "q h w"], image: Float[Array, "3 h w"], text: Float[Array, "q e"], real: Bool[Array, "q"]
) -> Float[Array, "q h w"]:
    """Logits after the propagation. `image` is normalised; a query that is not `real` only fills up the array."""
    by_query = lambda x: x.reshape(-1, 1, 1)
    logits = jnp.where(by_query(real), logits, 0.0)
    likely = jax.nn.softmax(jnp.where(by_query(real), logits, -jnp.inf), axis=0)
    distinct = by_query(_distinctness(text, real))
    sure = jnp.square(jnp.maximum(likely.max(0), 0.05))
    sure = sure * (1 + jnp.clip((likely * likely * distinct).sum(0), 0, 1))
    grey = jnp.tensordot(jnp.asarray(_GREY, jnp.float32), image, 1, precision=_HIGHEST)
    across, down = (_links(grey, likely, distinct, axis) for axis in (-1, -2))
    return _solved(logits, sure, across, down)


def _distinctness(text: jax.Array, real: jax.Array) -> jax.Array:
    """`[q]`: how much of a query's similarity to all queries is to itself."""
    similar = jnp.matmul(text, text.T, precision=_HIGHEST) / 0.5
    own = jnp.diagonal(jax.nn.softmax(jnp.where(real[None, :], similar, -jnp.inf), axis=-1))
    return (own + 10) / (1 + 10 + EPSILON)


def _ends(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Both pixels of every pair of neighbours along an axis."""
    count = x.shape[axis]
    return jax.lax.slice_in_dim(x, 0, count - 1, axis=axis), jax.lax.slice_in_dim(x, 1, count, axis=axis)


def _links(grey: jax.Array, likely: jax.Array, distinct: jax.Array, axis: int) -> jax.Array:
    """The weight, 0..1, of every pair of neighbours along an axis; a row or column of one pixel has none."""
    first, second = _ends(grey, axis)
    if not first.size:
        return first
    apart = jnp.abs(first - second)
    apart = apart / (apart.mean() + EPSILON)
    one, other = _ends(likely, axis)
    agree = jnp.clip((one * distinct * other).sum(0), 0, 1)
    return jnp.clip(jnp.exp(-5 * apart) * (1 + agree), 0, 1)


def _solved(logits: jax.Array, sure: jax.Array, across: jax.Array, down: jax.Array) -> jax.Array:
    """`(diag(sure) + Laplacian) X = sure logits` by conjugate gradients from X = logits."""

    def flow(x: jax.Array, links: jax.Array, axis: int) -> jax.Array:
        first, second = _ends(x, axis)
        moved = links[None] * (first - second)
        before, after = ([(0, 0)] * x.ndim for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        return jnp.pad(moved, after) - jnp.pad(moved, before)

    matrix = lambda x: sure[None] * x + flow(x, across, 2) + flow(x, down, 1)
    residual = sure[None] * logits - matrix(logits)

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, residual, direction, size = state
        image = matrix(direction)
        length = size / ((direction * image).sum() + TINY)
        x, residual = x + length * direction, residual - length * image
        new_size = (residual * residual).sum()
        return x, residual, residual + new_size / (size + TINY) * direction, new_size

    state = (logits, residual, residual, (residual * residual).sum())
    return jax.lax.fori_loop(0, STEPS, step, state)[0]
