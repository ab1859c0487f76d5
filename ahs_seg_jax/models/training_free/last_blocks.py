"""The last block of the image tower, as each training-free method computes it.

A last block turns its input, the output of the block before it, into features of the grid's tokens; the tower's final
norm and projection come after it. All methods but sc_clip and pearl differ in which attention they take, and in whether
the block keeps its residuals and its MLP.

Axes: b view, n k token (class token first), N grid token, d tower width, m head, c channel of a head.
Parity: golden/training_free_small.npz, golden/training_free_vitb16.npz.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models.layers import layer_norm, linear
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import transformer
from ahs_seg_jax.models.training_free import pearl, sc_clip
from ahs_seg_jax.models.training_free.settings import TrainingFree


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a last block reads besides its input: its parameters, the tower's sizes, earlier blocks, the settings."""

    parameters: Params  # of the block
    heads: int
    activation: transformer.Activation
    grid: tuple[int, int]  # rows and columns of tokens
    layers: int  # of the tower
    outputs: Mapping[int, jax.Array]  # [b, n, d] of the blocks that `settings.taps` names
    settings: TrainingFree


LastBlock = Callable[[Float[Array, "b n d"], Inputs], Float[Array, "b N d"]]
Attention = Callable[[jax.Array, jax.Array, Inputs], jax.Array]  # query, key [b, m, n, c] -> weights [b, m, n, k]


def _scores(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a b^T / sqrt(c)` in float32."""
    return jnp.einsum("bmnc,bmkc->bmnk", a * a.shape[-1] ** -0.5, b).astype(jnp.float32)


def ordinary(query: jax.Array, key: jax.Array, inputs: Inputs) -> jax.Array:
    """What the tower was trained with."""
    return jax.nn.softmax(_scores(query, key))


def alike(query: jax.Array, key: jax.Array, inputs: Inputs) -> jax.Array:
    """SCLIP: the sum, not the mean, of what looks alike by queries and by keys; a row sums to 2."""
    return jax.nn.softmax(_scores(query, query)) + jax.nn.softmax(_scores(key, key))


def by_queries(query: jax.Array, key: jax.Array, inputs: Inputs) -> jax.Array:
    """ClearCLIP: what looks alike by queries."""
    return jax.nn.softmax(_scores(query, query))


def neighbourly(query: jax.Array, key: jax.Array, inputs: Inputs) -> jax.Array:
    """NACLIP: what looks alike by keys, and lies near."""
    near = neighbourhood(inputs.grid, inputs.settings.gaussian_std)
    return jax.nn.softmax(_scores(key, key) + jnp.asarray(near)[None, None])


def neighbourhood(grid: tuple[int, int], std: float) -> np.ndarray:
    """Float32 `[n, n]`: a Gaussian of the distance of two grid tokens, 0 for the class token."""
    rows, columns = grid
    squares = lambda count: np.square(np.arange(count)[:, None] - np.arange(count)[None, :], dtype=np.float64)
    along_rows, along_columns = np.exp(-squares(rows) / (2 * std**2)), np.exp(-squares(columns) / (2 * std**2))
    return np.pad(np.kron(along_rows, along_columns), ((1, 0), (1, 0))).astype(np.float32)


def attended(attention: Attention) -> LastBlock:
    """The attention's result alone: no residual, no MLP."""

    def block(x: jax.Array, inputs: Inputs) -> jax.Array:
        return _attend(attention, x, inputs)[:, 1:]

    return block


def complete(attention: Attention | None) -> LastBlock:
    """Residuals and MLP as in every other block; None stands for the identity, each token's own value."""

    def block(x: jax.Array, inputs: Inputs) -> jax.Array:
        p = inputs.parameters
        u = x + (_own_values(x, p) if attention is None else _attend(attention, x, inputs))
        return (u + transformer.mlp(layer_norm(u, p["ln_2"]), p, inputs.activation))[:, 1:]

    return block


def values_only(x: jax.Array, inputs: Inputs) -> jax.Array:
    """MaskCLIP: each token's own value."""
    return _own_values(x[:, 1:], inputs.parameters)


def _own_values(x: jax.Array, p: Params) -> jax.Array:
    return linear(linear(layer_norm(x, p["ln_1"]), p["value"]), p["out"])


def _attend(attention: Attention, x: jax.Array, inputs: Inputs) -> jax.Array:
    query, key, value = transformer.projected_by_head(x, inputs.parameters, inputs.heads)
    weights = attention(query, key, inputs).astype(value.dtype)
    return transformer.joined(jnp.einsum("bmnk,bmkc->bmnc", weights, value), inputs.parameters)


def _pearl_attention(query: jax.Array, key: jax.Array, inputs: Inputs) -> jax.Array:
    return pearl.attention(query, key, inputs.settings.pearl_alpha)


def _self_calibrated(x: jax.Array, inputs: Inputs) -> jax.Array:
    blocks = inputs.settings.blocks_of_sc_clip(inputs.layers)
    return sc_clip.last_block(x, inputs.outputs, inputs.parameters, inputs.heads, inputs.grid, blocks)


LAST_BLOCKS: dict[str, LastBlock] = {
    "maskclip": values_only,
    "maskclip_residual": complete(None),
    "clip": complete(ordinary),
    "sclip": complete(alike),
    "clearclip": attended(by_queries),
    "naclip": attended(neighbourly),
    "sc_clip": _self_calibrated,
    "pearl": attended(_pearl_attention),
}
