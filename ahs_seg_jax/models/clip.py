"""CLIP's two towers: dense image features and text embeddings.

Axes: b image, t class, p prompt, n image token (class token first), l text token, h w feature grid, d tower width,
e joint embedding, s layer of a stack, m prompt of a flat batch.

The attention's four matrices come from whoever provides them (plain, rotated, merged): the towers take them as a
dictionary `kernels`, query | key | value | out -> [s, d, d], and never ask where they are from.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.models.layers import (
    Parameters,
    fan_in,
    layer_norm,
    linear,
    norm,
    normal,
    ones,
    quick_gelu,
    stacked,
    zeros,
)
from ahs_seg_jax.models.ops import attention, products, resize
from ahs_seg_jax.models.ops.remat import rematerialised
from ahs_seg_jax.models.parameters import Params

PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)  # RGB, 0..255
PIXEL_STD = (68.5005327, 66.6321579, 70.3231630)
ATTENTION = ("query", "key", "value", "out")
PROMPTS_AT_ONCE = 1024  # longer vocabularies are encoded in passes, so that memory stays bounded


class Blocks(nn.Module):
    """Parameters of a stack of pre-norm transformer blocks, each with a leading axis of layers; None: of one block."""

    layers: int | None
    width: int

    @nn.compact
    def __call__(self) -> dict[str, dict[str, jax.Array]]:
        width = self.width
        shapes = {name: (width, width) for name in ATTENTION} | {
            "mlp_in": (width, 4 * width),
            "mlp_out": (4 * width, width),
        }
        lead = () if self.layers is None else (self.layers,)
        initializer = stacked(fan_in) if lead else fan_in
        blocks = {}
        for name, shape in shapes.items():
            kernel, bias = (initializer, (*lead, *shape)), (zeros, (*lead, shape[1]))
            blocks[name] = Parameters({"kernel": kernel, "bias": bias}, name=name)()
        for name in ("ln_1", "ln_2"):
            size = (*lead, width)
            blocks[name] = Parameters({"scale": (ones, size), "bias": (zeros, size)}, name=name)()
        return blocks


def _mlp(x: jax.Array, p: Params) -> jax.Array:
    return linear(quick_gelu(linear(x, p["mlp_in"])), p["mlp_out"])


def _projected(x: jax.Array, p: Params, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value `[b, n, heads, d / heads]`."""
    y = layer_norm(x, p["ln_1"])
    query, key, value = (linear(y, p[role]).reshape(*y.shape[:-1], heads, -1) for role in ATTENTION[:3])
    return query, key, value


def _rest_of_block(x: jax.Array, attended: jax.Array, p: Params) -> jax.Array:
    x = x + linear(attended.reshape(x.shape), p["out"])
    return x + _mlp(layer_norm(x, p["ln_2"]), p)


def _causal(tokens: int, before: int = 0) -> jax.Array:
    """`[1, 1, n, before + n]`, added to scores: far below every score, yet finite, where a token must not look."""
    return jnp.triu(jnp.full((tokens, before + tokens), -1e9), before + 1)[None, None]


def block(x: Float[Array, "b n d"], p: Params, *, heads: int, causal: bool) -> Float[Array, "b n d"]:
    """One pre-norm transformer block: attention, then MLP, each with its residual."""
    attended = attention.attend(*_projected(x, p, heads), bias=_causal(x.shape[1]) if causal else None)
    return _rest_of_block(x, attended, p)


def prompt_block(
    prefix: Float[Array, "1 q d"], x: Float[Array, "m l d"], p: Params, *, heads: int
) -> tuple[Float[Array, "1 q d"], Float[Array, "m l d"]]:
    """The causal block for prompts that begin alike: `x` are the tokens after the common beginning `prefix`."""
    shared, (query, *own) = _projected(prefix, p, heads), _projected(x, p, heads)
    repeated = [products.repeated(part, x.shape[0]) for part in shared[1:]]
    key, value = (jnp.concatenate(parts, 1) for parts in zip(repeated, own, strict=True))
    attended = attention.attend(query, key, value, bias=_causal(x.shape[1], prefix.shape[1]))
    first = attention.attend(*shared, bias=_causal(prefix.shape[1]))
    return _rest_of_block(prefix, first, p), _rest_of_block(x, attended, p)


def dense_block(x: Float[Array, "b n d"], p: Params) -> Float[Array, "b n-1 d"]:
    """The image tower's last block: values only, and the class token's residual for every grid token.

    Parity: both published programs do this, and their checkpoints depend on it.
    """
    values = linear(layer_norm(x[:, 1:], p["ln_1"]), p["value"])
    u = linear(values, p["out"]) + x[:, :1]
    return u + _mlp(layer_norm(u, p["ln_2"]), p)


def run_blocks(x: Any, blocks: Params | list[Params], step: Callable[..., Any], *, remat: str) -> Any:
    """`step(x, parameters)` through the blocks, stacked or listed, one after the other."""
    step = rematerialised(step, remat, in_loop=not isinstance(blocks, list))
    if isinstance(blocks, list):
        return functools.reduce(step, blocks, x)
    return jax.lax.scan(lambda x, p: (step(x, p), None), x, blocks)[0]


def listed(params: Params) -> dict[str, Any]:
    """Parameters of the whole model as one with `scan_layers=False` takes them: each block of the image tower by itself
    (`blocks_0`, `blocks_1`, ... in place of `blocks`, whose arrays have a leading axis of layers).

    XLA copies a layer's part of a stacked array before it uses it, and for a single picture that counts.
    """
    image = dict(params["clip"]["image"])
    blocks = image.pop("blocks")
    count = jax.tree.leaves(blocks)[0].shape[0]
    image |= {f"blocks_{index}": jax.tree.map(lambda a, i=index: a[i], blocks) for index in range(count)}
    return dict(params) | {"clip": dict(params["clip"]) | {"image": image}}


def _with_kernels(blocks: dict[str, dict[str, jax.Array]], kernels: Params | None) -> dict[str, dict[str, jax.Array]]:
    if kernels is None:
        return blocks
    return blocks | {name: blocks[name] | {"kernel": kernels[name]} for name in ATTENTION}


class ImageTower(nn.Module):
    """Vision transformer whose last block is dense."""

    config: ImageTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = True  # False: parameters as `listed` makes them

    def setup(self) -> None:
        c = self.config
        width, scale = c.width, c.width**-0.5
        patch = (c.patch_size, c.patch_size, 3, width)
        self.patch_embedding = Parameters({"kernel": (fan_in, patch)})
        self.class_embedding = self.param("class_embedding", normal(scale), (width,))
        tokens = c.pretrained_grid**2 + 1
        self.position_embedding = self.param("position_embedding", normal(scale), (tokens, width))
        self.ln_pre, self.ln_post = norm(width), norm(width)
        self.projection = Parameters({"kernel": (normal(scale), (width, self.embed_dim))})
        self.blocks = Blocks(c.layers, width) if self.scan_layers else [Blocks(None, width) for _ in range(c.layers)]

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, name -> `[s, d, d]`; only of stacked layers."""
        assert isinstance(self.blocks, Blocks)
        blocks = self.blocks()
        return {name: blocks[name]["kernel"] for name in ATTENTION}

    def _blocks(self, kernels: Params | None) -> tuple[Callable[[int, int], Any], Params]:
        """Blocks `start` to `stop`, as a function of both, and the last block."""
        if isinstance(self.blocks, Blocks):
            stack = _with_kernels(self.blocks(), kernels)
            part = lambda at: jax.tree.map(lambda a: a[at], stack)
            return lambda start, stop: part(slice(start, stop)), part(-1)
        blocks = [block() for block in self.blocks]
        return lambda start, stop: blocks[start:stop], blocks[-1]

    def _positions(self) -> jax.Array:
        c = self.config
        class_token, grid = self.position_embedding[:1], self.position_embedding[1:]
        if c.grid != c.pretrained_grid:
            grid = grid.reshape(c.pretrained_grid, c.pretrained_grid, c.width)
            grid = resize.bicubic(grid, (c.grid, c.grid)).reshape(-1, c.width)
        return jnp.concatenate([class_token, grid])[None]

    def _embed(self, images: jax.Array) -> jax.Array:
        c = self.config
        side, grid = c.patch_size, c.grid
        patches = images.reshape(-1, grid, side, grid, side, 3).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(-1, grid * grid, side * side * 3)
        x = patches @ self.patch_embedding()["kernel"].astype(self.dtype).reshape(-1, c.width)
        class_token = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (x.shape[0], 1, c.width))
        x = jnp.concatenate([class_token, x], 1) + self._positions().astype(self.dtype)
        return layer_norm(x, self.ln_pre())

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Normalised images of the crop's size -> dense features, and the outputs of the blocks `taps`."""
        c = self.config
        take, dense = self._blocks(kernels)
        on_grid = lambda x: x.reshape(-1, c.grid, c.grid, x.shape[-1])
        x, found = self._embed(images.astype(self.dtype)), {}
        last, start = c.layers - 1, 0
        step = functools.partial(block, heads=c.heads, causal=False)
        for stop in sorted({*(tap + 1 for tap in taps if tap < last), last}):
            x = run_blocks(x, take(start, stop), step, remat=self.remat)
            start = stop
            if stop - 1 in taps:
                found[stop - 1] = on_grid(x[:, 1:])
        x = dense_block(x, dense)
        if last in taps:
            found[last] = on_grid(x)
        x = layer_norm(x, self.ln_post()) @ self.projection()["kernel"].astype(self.dtype)
        return on_grid(x), found


class TextTower(nn.Module):
    """Causal transformer read at the end token."""

    config: TextTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        self.token_embedding = self.param("token_embedding", normal(0.02), (c.vocab_size, c.width))
        self.position_embedding = self.param("position_embedding", normal(0.01), (c.context, c.width))
        self.ln_final = norm(c.width)
        self.projection = Parameters({"kernel": (normal(c.width**-0.5), (c.width, self.embed_dim))})
        self.blocks = Blocks(c.layers, c.width)

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, name -> `[s, d, d]`."""
        blocks = self.blocks()
        return {name: blocks[name]["kernel"] for name in ATTENTION}

    def __call__(
        self, tokens: Int[Array, "m l"], kernels: Params | None = None, prefix: Int[Array, "q"] | None = None
    ) -> Float[Array, "m e"]:
        """Token ids, zero after the end token -> float32 embeddings, not yet normalised.

        The tower is causal: nothing after the end token can reach the result, so l need only be the longest prompt, and
        what all prompts begin with (`prefix`, then not in `tokens`) is computed once. The end token is the largest id.
        """
        c = self.config
        blocks = _with_kernels(self.blocks(), kernels)
        final, projection = self.ln_final(), self.projection()["kernel"]
        whole = functools.partial(block, heads=c.heads, causal=True)

        def embed(tokens: jax.Array, start: int) -> jax.Array:
            positions = self.position_embedding[None, start : start + tokens.shape[-1]].astype(self.dtype)
            return self.token_embedding[tokens].astype(self.dtype) + positions

        def run(x: jax.Array) -> jax.Array:
            if prefix is None:
                return run_blocks(x, blocks, whole, remat=self.remat)
            both = lambda carry, p: prompt_block(carry[0], carry[1], p, heads=c.heads)
            return run_blocks((beginning, x), blocks, both, remat=self.remat)[1]

        def encode(x: jax.Array, end: jax.Array) -> jax.Array:
            x = jnp.take_along_axis(run(x), end[:, None, None], axis=1)[:, 0]
            x = layer_norm(x, final) @ projection.astype(self.dtype)
            return x.astype(jnp.float32)

        beginning = None if prefix is None else embed(prefix[None], 0)
        x = embed(tokens, 0 if prefix is None else prefix.shape[0])
        end = tokens.argmax(-1)
        if tokens.shape[0] <= PROMPTS_AT_ONCE:
            return encode(x, end)
        one = lambda prompt: encode(prompt[0][None], prompt[1][None])[0]
        return jax.lax.map(one, (x, end), batch_size=PROMPTS_AT_ONCE)


def towers(config: ModelConfig, scan_layers: bool = True) -> tuple[ImageTower, TextTower]:
    """Both towers of a model; `scan_layers` of the image tower's."""
    dtype = jnp.dtype(config.dtype)
    return (
        ImageTower(config.image, config.embed_dim, dtype, config.remat, scan_layers),
        TextTower(config.text, config.embed_dim, dtype, config.remat),
    )


def normalise_pixels(images: Float[Array, "b H W 3"], crop: int) -> Float[Array, "b crop crop 3"]:
    """RGB 0..255 -> zero mean and unit variance by channel, then bilinear to the tower's crop."""
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (PIXEL_MEAN, PIXEL_STD))
    return resize.bilinear((images.astype(jnp.float32) - mean) / std, (crop, crop))
