"""Pre-norm transformer blocks, as towers share them.

Axes: b image or prompt, n token, q token of a common beginning, l token after it, m prompt, d tower width, s layer.

The attention's four matrices come from whoever provides them (plain, rotated, merged): a dictionary `kernels`,
query | key | value | out -> [s, d, d], takes the place of the tower's own.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ahs_seg_jax.models.initial import Parameters, lecun, ones, stacked, zeros
from ahs_seg_jax.models.layers import EPSILON, layer_norm, linear
from ahs_seg_jax.models.ops import attention, products
from ahs_seg_jax.models.ops.remat import rematerialised
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers.interface import SLOTS, Parameter

Activation = Callable[[jax.Array], jax.Array]
Placed = Callable[[jax.Array], jax.Array]
Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]

PROMPTS_AT_ONCE = 1024  # larger vocabularies are encoded in batches, so that memory stays bounded
ROTATED = {slot: f"blocks/{slot}/kernel" for slot in SLOTS}
PARAMETERS = (
    # Layers are stacked on the first axis and visited one after the other, so that axis must stay whole.
    Parameter("blocks/(query|value)/kernel", "attention", split_from=1),
    Parameter("blocks/.*", "blocks", split_from=1),
)


def affine(features_in: int, features_out: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a linear map in a block."""
    return {"kernel": (features_in, features_out), "bias": (features_out,)}


def scaled(features: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a LayerNorm in a block."""
    return {"scale": (features,), "bias": (features,)}


def _declared(shapes: Shapes, lead: tuple[int, ...]) -> dict[str, Params]:
    """The parameters of one block (`lead` is empty), or of a stack of blocks (`lead` is the number of layers)."""
    initial = {"kernel": stacked(lecun) if lead else lecun, "bias": zeros, "scale": ones}
    declared: dict[str, Params] = {}
    for name, group in shapes.items():
        leaves = {leaf: (initial[leaf], (*lead, *shape)) for leaf, shape in group.items()}
        declared[name] = Parameters(leaves, name=name)()
    return declared


class _Block(nn.Module):
    """Parameters of one block by itself."""

    shapes: Shapes

    @nn.compact
    def __call__(self) -> dict[str, Params]:
        return _declared(self.shapes, ())


class Blocks(nn.Module):
    """Parameters of a stack of blocks: arrays with a leading axis of layers.

    Inference may give each block's parameters by itself instead, under the names "0", "1", ... (`encoding.listed`):
    then they come as a list. XLA copies a layer's part of a stacked array before it uses it, and for one picture that
    counts. A tower whose blocks have other parameters inherits this and says their `shapes`.
    """

    layers: int
    width: int
    mlp_width: int = 0  # 0: four times the width

    @nn.nowrap
    def shapes(self) -> Shapes:
        """The parameters of a block: group -> leaf (kernel, bias, scale) -> shape."""
        width, inner = self.width, self.mlp_width or 4 * self.width
        return {
            **{slot: affine(width, width) for slot in SLOTS},
            "mlp_in": affine(width, inner),
            "mlp_out": affine(inner, width),
            "ln_1": scaled(width),
            "ln_2": scaled(width),
        }

    @nn.compact
    def __call__(self) -> dict[str, Params] | list[dict[str, Params]]:
        if self.has_variable("params", "0"):
            return [_Block(self.shapes(), name=str(index))() for index in range(self.layers)]
        return _declared(self.shapes(), (self.layers,))


def attention_kernels(blocks: Any) -> dict[str, jax.Array]:
    """The plain attention matrices of stacked blocks, slot -> `[s, d, d]`."""
    return {slot: blocks[slot]["kernel"] for slot in SLOTS}


def with_kernels(blocks: Any, kernels: Params | None) -> Any:
    """Stacked blocks with other attention matrices; None leaves the blocks as they are."""
    if kernels is None:
        return blocks
    return blocks | {slot: blocks[slot] | {"kernel": kernels[slot]} for slot in SLOTS}


def part(blocks: Any, at: int | slice) -> Any:
    """One block, or some, of stacked or listed blocks."""
    return blocks[at] if isinstance(blocks, list) else jax.tree.map(lambda a: a[at], blocks)


def mlp(x: jax.Array, p: Params, activation: Activation) -> jax.Array:
    """Two linear maps with the activation between them."""
    return linear(activation(linear(x, p["mlp_in"])), p["mlp_out"])


def projected(x: jax.Array, p: Params, heads: int, epsilon: float = EPSILON) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value `[b, n, heads, d / heads]`."""
    y = layer_norm(x, p["ln_1"], epsilon)
    query, key, value = (linear(y, p[role]).reshape(*y.shape[:-1], heads, -1) for role in SLOTS[:3])
    return query, key, value


def projected_by_head(x: jax.Array, p: Params, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value `[b, heads, n, d / heads]` of `x` `[b, n, d]`, after the block's first norm."""
    query, key, value = (jnp.moveaxis(part, -2, -3) for part in projected(x, p, heads))
    return query, key, value


def joined(attended: jax.Array, p: Params) -> jax.Array:
    """The output projection `[b, n, d]` of what the heads attended to, `[b, heads, n, d / heads]`."""
    by_token = jnp.moveaxis(attended, -3, -2)
    return linear(by_token.reshape(*by_token.shape[:-2], -1), p["out"])


def _rest_of_block(
    x: jax.Array, attended: jax.Array, p: Params, activation: Activation, epsilon: float = EPSILON
) -> jax.Array:
    x = x + linear(attended.reshape(x.shape), p["out"])
    return x + mlp(layer_norm(x, p["ln_2"], epsilon), p, activation)


def _causal(tokens: int, before: int = 0) -> jax.Array:
    """`[1, 1, n, before + n]`, added to scores: far below every score, yet finite, where a token must not look."""
    return jnp.triu(jnp.full((tokens, before + tokens), -1e9), before + 1)[None, None]


def block(
    x: Float[Array, "b n d"],
    p: Params,
    *,
    heads: int,
    activation: Activation,
    causal: bool = False,
    epsilon: float = EPSILON,
    placed: Placed | None = None,
) -> Float[Array, "b n d"]:
    """One pre-norm transformer block: attention, then MLP, each with its residual.

    `placed` turns queries and keys `[b, n, heads, d / heads]` by their tokens' positions.
    """
    query, key, value = projected(x, p, heads, epsilon)
    if placed is not None:
        query, key = placed(query), placed(key)
    attended = attention.attend(query, key, value, bias=_causal(x.shape[1]) if causal else None)
    return _rest_of_block(x, attended, p, activation, epsilon)


def prompt_block(
    prefix: Float[Array, "1 q d"], x: Float[Array, "m l d"], p: Params, *, heads: int, activation: Activation
) -> tuple[Float[Array, "1 q d"], Float[Array, "m l d"]]:
    """The causal block for prompts that begin alike: `x` are the tokens after the common beginning `prefix`."""
    shared, (query, *own) = projected(prefix, p, heads), projected(x, p, heads)
    repeated = [products.repeated(part, x.shape[0]) for part in shared[1:]]
    key, value = (jnp.concatenate(parts, 1) for parts in zip(repeated, own, strict=True))
    attended = attention.attend(query, key, value, bias=_causal(x.shape[1], prefix.shape[1]))
    first = attention.attend(*shared, bias=_causal(prefix.shape[1]))
    return _rest_of_block(prefix, first, p, activation), _rest_of_block(x, attended, p, activation)


def patches(images: Float[Array, "b H W 3"], side: int) -> Float[Array, "b n c"]:
    """The pixels of each whole patch of `side`, row by row: what a convolution with that stride multiplies."""
    rows, columns = (extent // side for extent in images.shape[1:3])
    cut = images.reshape(-1, rows, side, columns, side, 3).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, rows * columns, side * side * 3)


def in_batches(encode: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`encode(*arrays)` of prompts, PROMPTS_AT_ONCE at a time."""
    if arrays[0].shape[0] <= PROMPTS_AT_ONCE:
        return encode(*arrays)
    one = lambda prompt: encode(*(part[None] for part in prompt))[0]
    return jax.lax.map(one, arrays, batch_size=PROMPTS_AT_ONCE)


def run_blocks(x: Any, blocks: Any, step: Callable[..., Any], *, remat: str) -> Any:
    """`step(x, parameters)` through the blocks, stacked or listed, one after the other."""
    step = rematerialised(step, remat, in_loop=not isinstance(blocks, list))
    if isinstance(blocks, list):
        return functools.reduce(jax.jit(step), blocks, x)  # so that it is traced once
    return jax.lax.scan(lambda x, p: (step(x, p), None), x, blocks)[0]


def run_tapped(
    x: Float[Array, "b n d"], blocks: Any, count: int, step: Callable[..., Any], taps: tuple[int, ...], *, remat: str
) -> tuple[Float[Array, "b n d"], dict[int, Float[Array, "b n d"]]]:
    """`x` through the first `count` blocks, and the outputs of those of `taps` that are among them."""
    found: dict[int, jax.Array] = {}
    start = 0
    for stop in sorted({*(tap + 1 for tap in taps if tap < count), count}):
        x = run_blocks(x, part(blocks, slice(start, stop)), step, remat=remat)
        start = stop
        if stop - 1 in taps:
            found[stop - 1] = x
    return x, found
