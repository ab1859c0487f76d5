"""The image tower of the Perception Encoder, PE-Core B/16 and L/14; its text tower is CLIP's, with GELU.

Beside CLIP's image tower, queries and keys of every block are turned by their tokens' places (2-D RoPE), beside a
learned position embedding; no block is special; and an attention head over all tokens, the class token's too, pools
them, after the last norm and before the projection.

RoPE (`rotary`): token `(row, column)` of the grid has the place `x = column + 1, y = row + 1`, and x comes first.
Places count tokens whatever the grid's size.

Dense features: with z a grid token after the last norm, `dense = projection(u + mlp(norm(u)))`, `u = out(value(z))`,
the value path of the pooling head (`pooling`).

Axes: b image, n token (class token first), h w feature grid, d tower width, e joint embedding, m head, c its channels.

Source: Perception Encoder (arXiv 2504.13181). Parity: timm's and open_clip's, tests/models/towers/test_pe.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models.initial import Parameters, lecun, norm, normal
from ahs_seg_jax.models.layers import ACTIVATIONS, EPSILON, layer_norm
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import clip, pooling, rotary, transformer
from ahs_seg_jax.models.towers.config import ImageTowerConfig
from ahs_seg_jax.models.towers.interface import Tower

POOLING_HEADS = 8  # of the pooling head, whatever the tower has


def angles(grid: tuple[int, int], channels: int) -> np.ndarray:
    """Float32 `[n, c / 2]`: by how much each pair of a head's `channels` is turned, class token first."""
    rows, columns = grid
    y, x = np.divmod(np.arange(rows * columns), columns)
    return rotary.angles(x + 1, y + 1, channels)


class ImageTower(pooling.PoolingHead):
    """Vision transformer with a class token and 2-D RoPE, read through its pooling head."""

    config: ImageTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        width, scale = c.width, c.width**-0.5
        self.patch_embedding = Parameters({"kernel": (lecun, (c.patch_size, c.patch_size, 3, width))})
        self.class_embedding = self.param("class_embedding", normal(scale), (width,))
        tokens = c.pretrained_grid**2 + 1
        self.position_embedding = self.param("position_embedding", normal(scale), (tokens, width))
        self.ln_pre, self.ln_post = norm(width), norm(width)
        self.blocks = transformer.Blocks(c.layers, width, c.mlp_width)
        self.declare_head(width, c.mlp_width)
        self.projection = Parameters({"kernel": (normal(scale), (width, self.embed_dim))})

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices of the blocks, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        side, width = self.config.pretrained_grid, self.config.width
        if grid == (side, side):
            return self.position_embedding[None]
        resized = resize.bilinear(self.position_embedding[1:].reshape(side, side, width), grid)
        return jnp.concatenate([self.position_embedding[:1], resized.reshape(-1, width)])[None]

    def _tokens(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None
    ) -> tuple[Float[Array, "b n d"], dict[int, Float[Array, "b n d"]]]:
        """Tokens after the last norm, and the outputs of the blocks `taps`."""
        c = self.config
        grid = images.shape[1] // c.patch_size, images.shape[2] // c.patch_size
        kernel = self.patch_embedding()["kernel"].astype(self.dtype).reshape(-1, c.width)
        x = transformer.patches(images.astype(self.dtype), c.patch_size) @ kernel
        class_token = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (x.shape[0], 1, c.width))
        x = jnp.concatenate([class_token, x], 1) + self._positions(grid).astype(self.dtype)
        placed = functools.partial(rotary.turned, by=angles(grid, c.width // c.heads))
        options: Any = {"heads": c.heads, "activation": ACTIVATIONS[c.activation], "placed": placed}
        step = functools.partial(transformer.block, **options)
        blocks = transformer.with_kernels(self.blocks(), kernels)
        x = layer_norm(x, self.ln_pre())
        x, found = transformer.run_tapped(x, blocks, c.layers, step, taps, remat=self.remat)
        return layer_norm(x, self.ln_post()), found

    def _project(self, x: jax.Array) -> jax.Array:
        return x @ self.projection()["kernel"].astype(self.dtype)

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Normalised images of whole patches -> dense features, and the outputs of the blocks `taps`."""
        rows, columns = (extent // self.config.patch_size for extent in images.shape[1:3])
        on_grid = lambda x: x.reshape(-1, rows, columns, x.shape[-1])
        tokens, found = self._tokens(images, taps, kernels)
        dense = self._project(self.each_alone(tokens[:, 1:], ACTIVATIONS[self.config.activation], EPSILON))
        return on_grid(dense), {tap: on_grid(x[:, 1:]) for tap, x in found.items()}

    def pooled(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b e"]:
        """Normalised images of the crop's size -> one embedding each, not yet normalised."""
        tokens, _ = self._tokens(images, (), None)
        return self._project(self.all_together(tokens, POOLING_HEADS, ACTIVATIONS[self.config.activation], EPSILON))


_PARAMETERS = (*clip.IMAGE.parameters, *pooling.PARAMETERS)
IMAGE = Tower(ImageTower, _PARAMETERS, transformer.ROTATED, squashes=True, head_multiple=rotary.HEAD_MULTIPLE)
