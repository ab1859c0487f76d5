"""SC-CLIP's last block: outliers are repaired, and features smoothed by the similarity of earlier blocks.

The cuts at 0.4, at the mean and at the quantile make it discontinuous: a value may jump where float32 rounds otherwise.

Axes: N M grid token, d tower width, m head, c channel of a head. One view at a time; `last_block` maps over views.
Source: SC-CLIP (arXiv 2411.15869) and its program. Parity: golden/training_free_vitb16.npz.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import transformer

NEIGHBOURS = 30  # of a token, by which its density is judged; all others in a smaller grid
OUTLIERS = 0.05  # share of the tokens
ALIKE = 0.4  # similarities below it are not used
SHARPNESS = 3.0  # factor of the similarities in the attention
CLASS_SHARE = 0.3  # of the class token's output, added to every token
EPSILON = 1e-6
_HIGHEST = jax.lax.Precision.HIGHEST


def last_block(
    x: Float[Array, "b n d"],
    outputs: Mapping[int, Float[Array, "b n d"]],
    p: Params,
    heads: int,
    grid: tuple[int, int],
    blocks: tuple[int, int, int, int],
) -> Float[Array, "b N d"]:
    """Features of the grid's tokens. `x` is the output of the last block but one; see `TrainingFree.sc_clip_blocks`."""
    smoothing, results, first, stop = blocks
    summed = sum((outputs[j] for j in range(first + 1, stop)), outputs[first])

    def one(x: jax.Array, alike: jax.Array, alike_results: jax.Array, summed: jax.Array) -> jax.Array:
        wrong = outliers(x[1:])
        similarity = _similarity(repaired(alike[1:], wrong, grid))
        features = _smoothed(repaired(x[1:], wrong, grid), similarity)
        attend = lambda z: _attend(z, similarity, p, heads)
        of_results = _similarity(alike_results[1:])
        first = _smoothed(attend(features) + CLASS_SHARE * x[:1], of_results)
        return first + _smoothed(attend(summed[1:]) + CLASS_SHARE * summed[:1], of_results)

    return jax.vmap(one)(x, outputs[smoothing], outputs[results], summed)


def outliers(tokens: Float[Array, "N d"]) -> Array:
    """Bool `[N]`: the tokens in the sparsest surroundings, by the local outlier factor."""
    wide = tokens.astype(jnp.float32)
    squares = (wide * wide).sum(-1)
    products = jnp.matmul(wide, wide.T, precision=_HIGHEST)
    distances = squares[:, None] + squares[None, :] - 2 * products
    count = min(NEIGHBOURS, len(tokens) - 1)
    if count < 1:
        return jnp.zeros(len(tokens), bool)
    apart = jnp.where(jnp.eye(len(tokens), dtype=bool), jnp.inf, jnp.maximum(distances, 0.0))
    nearest, index = jax.lax.top_k(-apart, count)
    reach = -nearest[:, -1]
    factor = reach * (1 / reach)[index].mean(-1)
    return factor > jnp.quantile(factor, 1 - OUTLIERS)


def repaired(tokens: Float[Array, "N d"], wrong: Array, grid: tuple[int, int]) -> Float[Array, "N d"]:
    """Outliers become the mean of those of their 8 neighbours on the grid that are none; without any they stay."""
    rows, columns = grid
    good = jnp.where(wrong, 0.0, 1.0).astype(tokens.dtype).reshape(rows, columns, 1)
    kept = tokens.reshape(rows, columns, -1) * good
    sums, counts = (_around(x).reshape(len(tokens), -1) for x in (kept, good))
    return jnp.where(wrong[:, None] & (counts > 0), sums / jnp.maximum(counts, 1), tokens)


def _around(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The sum over the 8 neighbours."""
    rows, columns = x.shape[:2]
    wide = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    shifted = [wide[i : i + rows, j : j + columns] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return sum(shifted[1:], shifted[0])


def _similarity(tokens: Float[Array, "N d"]) -> Float[Array, "N N"]:
    """Cosine of every two tokens."""
    wide = tokens.astype(jnp.float32)
    unit = wide / jnp.sqrt((wide * wide).sum(-1, keepdims=True))
    return jnp.matmul(unit, unit.T, precision=_HIGHEST)


def _smoothed(tokens: Float[Array, "N d"], similarity: Float[Array, "N N"]) -> Float[Array, "N d"]:
    """Each token as the mean of the tokens that are alike enough, by their similarity."""
    weights = jnp.where(similarity >= ALIKE, similarity, 0.0)
    weights = weights / (weights.sum(-1, keepdims=True) + EPSILON)
    return weights.astype(tokens.dtype) @ tokens


def _attend(tokens: Float[Array, "N d"], similarity: Float[Array, "N N"], p: Params, heads: int) -> Float[Array, "N d"]:
    """Attention by similarity and, as in NACLIP without its Gaussian, by keys, half of each."""
    _, key, value = transformer.projected_by_head(tokens[None], p, heads)
    above = SHARPNESS * (similarity - similarity.mean())
    alike = jax.nn.softmax(jnp.where(above < 0, -jnp.inf, above))
    scores = jnp.einsum("bmnc,bmkc->bmnk", key * key.shape[-1] ** -0.5, key).astype(jnp.float32)
    weights = (alike[None, None] + jax.nn.softmax(scores)) / 2
    return transformer.joined(jnp.einsum("bmnk,bmkc->bmnc", weights.astype(value.dtype), value), p)[0]
