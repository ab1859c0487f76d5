"""The attention head that pools an image's tokens, as SigLIP's and PE's towers end.

One learned query, the probe, attends to all tokens; then comes an MLP with a residual. With `value` and `out` the
head's maps, `a_i` its attention and `z_i` the tokens: `u = out(sum_i a_i value(z_i))`, `pooled = u + mlp(norm(u))`.

A token alone gets the whole attention, so that what is left of the head is its value path: `u_i = out(value(z_i))`,
`dense_i = u_i + mlp(norm(u_i))`. The embedding of an image is what the head was trained for; the value path is how
each token speaks the same language.

Axes: b image, n token, d tower width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models.initial import Parameters, lecun, norm, normal, zeros
from ahs_seg_jax.models.layers import layer_norm, linear
from ahs_seg_jax.models.ops import attention
from ahs_seg_jax.models.towers import transformer
from ahs_seg_jax.models.towers.interface import SLOTS, Parameter

PARAMETERS = (
    Parameter("pool_probe", "clip", split_from=None, decays=False),
    Parameter("pool_norm/scale", "clip", split_from=None),
    Parameter("pool_.*/kernel", "clip"),
    Parameter("pool_.*/bias", "clip", split_from=None),
)


class PoolingHead(nn.Module):
    """What a tower with such a head inherits; it calls `declare_head` in its `setup`."""

    def declare_head(self, width: int, mlp_width: int) -> None:
        """The parameters `pool_*`; an `mlp_width` of 0 is four times the width."""
        inner = mlp_width or 4 * width
        affine = lambda wide, out: Parameters({"kernel": (lecun, (wide, out)), "bias": (zeros, (out,))})
        self.pool_probe = self.param("pool_probe", normal(1.0), (width,))
        self.pool_query, self.pool_key, self.pool_value, self.pool_out = (affine(width, width) for _ in SLOTS)
        self.pool_norm = norm(width)
        self.pool_mlp_in, self.pool_mlp_out = affine(width, inner), affine(inner, width)

    def each_alone(
        self, tokens: Float[Array, "b n d"], activation: transformer.Activation, epsilon: float
    ) -> Float[Array, "b n d"]:
        """The value path of each token."""
        self.pool_query(), self.pool_key()  # nothing is computed of them: the tower's parameters are those of both ways
        u = linear(linear(tokens, self.pool_value()), self.pool_out())
        return self._rest_of_head(u, activation, epsilon)

    def all_together(
        self, tokens: Float[Array, "b n d"], heads: int, activation: transformer.Activation, epsilon: float
    ) -> Float[Array, "b d"]:
        """What the probe makes of all tokens."""
        by_head = lambda x, p: linear(x, p).reshape(*x.shape[:-1], heads, -1)
        probe = jnp.broadcast_to(self.pool_probe.astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[-1]))
        query, key, value = (by_head(probe, self.pool_query()), by_head(tokens, self.pool_key()), self.pool_value())
        attended = attention.attend(query, key, by_head(tokens, value)).reshape(probe.shape)
        return self._rest_of_head(linear(attended, self.pool_out()), activation, epsilon)[:, 0]

    def _rest_of_head(self, u: jax.Array, activation: transformer.Activation, epsilon: float) -> jax.Array:
        p = {"mlp_in": self.pool_mlp_in(), "mlp_out": self.pool_mlp_out()}
        return u + transformer.mlp(layer_norm(u, self.pool_norm(), epsilon), p, activation)
