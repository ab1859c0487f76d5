"""CLIP's two towers: dense image features and text embeddings.

Axes: b image, n image token (class token first), m prompt of a flat batch, l text token, q token of a common beginning,
h w feature grid, d tower width, e joint embedding.

Source: OpenAI CLIP; the dense last block is CAT-Seg's. Parity: golden/vitb_forward.npz.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ahs_seg_jax.models.initial import Parameters, lecun, norm, normal
from ahs_seg_jax.models.layers import ACTIVATIONS, layer_norm, linear
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import transformer
from ahs_seg_jax.models.towers.config import ImageTowerConfig, TextTowerConfig
from ahs_seg_jax.models.towers.interface import Parameter, Tower

OtherBlock = Callable[[jax.Array, dict[int, jax.Array], Params, tuple[int, int]], jax.Array]  # [b, n, d] -> [b, N, d]


def dense_block(x: Float[Array, "b n d"], p: Params, activation: transformer.Activation) -> Float[Array, "b n-1 d"]:
    """The image tower's last block: values only, and the class token's residual for every grid token.

    Parity: both published programs do this, and their checkpoints depend on it.
    """
    values = linear(layer_norm(x[:, 1:], p["ln_1"]), p["value"])
    u = linear(values, p["out"]) + x[:, :1]
    return u + transformer.mlp(layer_norm(u, p["ln_2"]), p, activation)


class ImageTower(nn.Module):
    """Vision transformer whose last block is dense."""

    config: ImageTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        width, scale = c.width, c.width**-0.5
        patch = (c.patch_size, c.patch_size, 3, width)
        self.patch_embedding = Parameters({"kernel": (lecun, patch)})
        self.class_embedding = self.param("class_embedding", normal(scale), (width,))
        tokens = c.pretrained_grid**2 + 1
        self.position_embedding = self.param("position_embedding", normal(scale), (tokens, width))
        self.ln_pre, self.ln_post = norm(width), norm(width)
        self.projection = Parameters({"kernel": (normal(scale), (width, self.embed_dim))})
        self.blocks = transformer.Blocks(c.layers, width, c.mlp_width)

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def _positions(self) -> jax.Array:
        c = self.config
        class_token, grid = self.position_embedding[:1], self.position_embedding[1:]
        if c.grid != c.pretrained_grid:
            grid = grid.reshape(c.pretrained_grid, c.pretrained_grid, c.width)
            grid = resize.bicubic(grid, (c.grid, c.grid)).reshape(-1, c.width)
        return jnp.concatenate([class_token, grid])[None]

    def _positions_untrained(self, size: tuple[int, int]) -> jax.Array:
        """Positions of a grid of any size for a tower that was trained at its own only.

        Training-free methods step by `g / (k + 0.1)`, not `g / k`, from one of k tokens to the next: their programs
        hand the size to PyTorch so, and the last rows move by up to a tenth of a cell. Parity: every size that is not
        the pretrained one, golden/training_free_small.npz.
        """
        pretrained = self.config.pretrained_grid
        class_token, grid = self.position_embedding[:1], self.position_embedding[1:]
        if size != (pretrained, pretrained):
            grid = grid.reshape(pretrained, pretrained, -1)
            steps = pretrained / (size[0] + 0.1), pretrained / (size[1] + 0.1)
            grid = resize.bicubic(grid, size, steps).reshape(size[0] * size[1], -1)
        return jnp.concatenate([class_token, grid])[None]

    def _embed(self, images: jax.Array, positions: jax.Array) -> jax.Array:
        c, side = self.config, self.config.patch_size
        x = transformer.patches(images, side) @ self.patch_embedding()["kernel"].astype(self.dtype).reshape(-1, c.width)
        class_token = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (x.shape[0], 1, c.width))
        x = jnp.concatenate([class_token, x], 1) + positions.astype(self.dtype)
        return layer_norm(x, self.ln_pre())

    def _up_to_last(
        self, x: jax.Array, blocks: Any, taps: tuple[int, ...]
    ) -> tuple[jax.Array, dict[int, Float[Array, "b n d"]]]:
        """Embedded tokens through all blocks but the last, and the outputs of the blocks `taps` among these."""
        c = self.config
        step = functools.partial(transformer.block, heads=c.heads, activation=ACTIVATIONS[c.activation], causal=False)
        return transformer.run_tapped(x, blocks, c.layers - 1, step, taps, remat=self.remat)

    def _project(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.ln_post()) @ self.projection()["kernel"].astype(self.dtype)

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Normalised images of the crop's size -> dense features, and the outputs of the blocks `taps`."""
        c = self.config
        blocks = transformer.with_kernels(self.blocks(), kernels)
        on_grid = lambda x: x.reshape(-1, c.grid, c.grid, x.shape[-1])
        x, tokens = self._up_to_last(self._embed(images.astype(self.dtype), self._positions()), blocks, taps)
        found = {tap: on_grid(x[:, 1:]) for tap, x in tokens.items()}
        x = dense_block(x, transformer.part(blocks, -1), ACTIVATIONS[c.activation])
        if c.layers - 1 in taps:
            found[c.layers - 1] = on_grid(x)
        return on_grid(self._project(x)), found

    def pooled(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b e"]:
        """Normalised images of the crop's size -> their embeddings, by CLIP's own last block and class token."""
        c, blocks = self.config, self.blocks()
        x = self._up_to_last(self._embed(images.astype(self.dtype), self._positions()), blocks, ())[0]
        last, activation = transformer.part(blocks, -1), ACTIVATIONS[c.activation]
        x = transformer.block(x, last, heads=c.heads, activation=activation, causal=False)
        return self._project(x[:, 0])

    def training_free(
        self, images: Float[Array, "b H W 3"], last_block: OtherBlock, taps: tuple[int, ...]
    ) -> Float[Array, "b h w e"]:
        """Normalised images of any size of at least a patch -> dense features by another last block.

        `last_block(x, outputs, parameters, grid)` gets the output `[b, n, d]` of the block before it, those of the
        blocks `taps`, its parameters, and rows and columns of the grid. What is left beyond the last whole patch at the
        lower and right border is not seen.
        """
        side, blocks = self.config.patch_size, self.blocks()
        rows, columns = (extent // side for extent in images.shape[1:3])
        images = images[:, : rows * side, : columns * side].astype(self.dtype)
        x, outputs = self._up_to_last(self._embed(images, self._positions_untrained((rows, columns))), blocks, taps)
        x = last_block(x, outputs, transformer.part(blocks, -1), (rows, columns))
        return self._project(x).reshape(-1, rows, columns, self.embed_dim)


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
        self.blocks = transformer.Blocks(c.layers, c.width, c.mlp_width)

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def __call__(
        self, tokens: Int[Array, "m l"], kernels: Params | None = None, prefix: Int[Array, "q"] | None = None
    ) -> Float[Array, "m e"]:
        """Token ids, zero after the end token -> float32 embeddings, not yet normalised.

        The tower is causal: nothing after the end token can reach the result, so l need only be the longest prompt, and
        what all prompts begin with (`prefix`, then not in `tokens`) is computed once. `ends` tells the end token.
        """
        c = self.config
        blocks = transformer.with_kernels(self.blocks(), kernels)
        final, projection = self.ln_final(), self.projection()["kernel"]
        options: Any = {"heads": c.heads, "activation": ACTIVATIONS[c.activation]}

        def embed(tokens: jax.Array, start: int) -> jax.Array:
            positions = self.position_embedding[None, start : start + tokens.shape[-1]].astype(self.dtype)
            return self.token_embedding[tokens].astype(self.dtype) + positions

        def run(x: jax.Array) -> jax.Array:
            if prefix is None:
                step = functools.partial(transformer.block, causal=True, **options)
                return transformer.run_blocks(x, blocks, step, remat=self.remat)
            both = lambda carry, p: transformer.prompt_block(carry[0], carry[1], p, **options)
            return transformer.run_blocks((beginning, x), blocks, both, remat=self.remat)[1]

        def encode(x: jax.Array, end: jax.Array) -> jax.Array:
            x = jnp.take_along_axis(run(x), end[:, None, None], axis=1)[:, 0]
            x = layer_norm(x, final) @ projection.astype(self.dtype)
            return x.astype(jnp.float32)

        beginning = None if prefix is None else embed(prefix[None], 0)
        x = embed(tokens, 0 if prefix is None else prefix.shape[0])
        return transformer.in_batches(encode, x, self.ends(tokens))

    def ends(self, tokens: Int[Array, "m l"]) -> Int[Array, "m"]:
        """Where each prompt's end token stands: it is the largest id."""
        return tokens.argmax(-1)


_REST = (
    Parameter("(class|position|token)_embedding", "clip", decays=False),
    Parameter("patch_embedding/kernel", "clip"),
    Parameter("projection/kernel", "clip"),
    Parameter("ln_.*", "clip", split_from=None),
)
# The recipe of the components trains the biases beside the rotated matrices of the image tower.
_BIASES = Parameter("blocks/(query|key|value|out)/bias", "image_biases", split_from=None)
IMAGE = Tower(ImageTower, (_BIASES, *transformer.PARAMETERS, *_REST), transformer.ROTATED)
TEXT = Tower(TextTower, (*transformer.PARAMETERS, *_REST), transformer.ROTATED)
