"""PEARL's attention: keys are turned towards the queries before they are compared.

Axes: b view, m head, n k token (class token first), c a channel of a head.
Source: PEARL (arXiv 2603.21528) and its program, whose five steps do not converge: five are its definition.
Parity: golden/training_free_small.npz, golden/training_free_vitb16.npz.
"""

import jax
import jax.numpy as jnp

STEPS = 5  # of the inverse square root
EPSILON = 1e-6
_HIGHEST = jax.lax.Precision.HIGHEST


def attention(query: jax.Array, key: jax.Array, alpha: float) -> jax.Array:
    """Weights float32 `[b, m, n, k]` of queries and keys `[b, m, n, c]`."""
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    lengths = jnp.sqrt((query * query).sum(-1, keepdims=True)).at[:, :, 0].set(0.0)
    weights = lengths / (lengths.sum(-2, keepdims=True) + EPSILON)
    centred_query, centred_key = (x - (weights * x).sum(-2, keepdims=True) for x in (query, key))
    turned = jnp.matmul(key, _rotation(centred_query, centred_key), precision=_HIGHEST)
    scores = jnp.einsum("bmnc,bmkc->bmnk", query, turned)
    scores = scores + alpha * jnp.einsum("bmnc,bmkc->bmnk", centred_key, centred_key)
    return jax.nn.softmax(scores * query.shape[-1] ** -0.5)


def _rotation(query: jax.Array, key: jax.Array) -> jax.Array:
    """`[b, m, c, c]`, nearly orthogonal: what turns the centred keys towards the centred queries (Procrustes)."""
    product = lambda a, b: jnp.matmul(a, b, precision=_HIGHEST)
    mixed = product(key.mT, query)
    squared = product(mixed.mT, mixed)
    size = jnp.maximum(jnp.sqrt((squared * squared).sum((-2, -1), keepdims=True)), EPSILON)
    eye = jnp.broadcast_to(jnp.eye(mixed.shape[-1], dtype=jnp.float32), mixed.shape)
    y, z = squared / size + EPSILON * eye, eye
    for _ in range(STEPS):  # Newton and Schulz: z approaches y^-1/2
        t = (3 * eye - product(z, y)) / 2
        y, z = product(y, t), product(t, z)
    return product(mixed, z) / jnp.sqrt(size)
