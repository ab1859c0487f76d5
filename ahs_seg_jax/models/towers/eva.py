"""The image tower of EVA-02-CLIP, B/16 and L/14; its text tower is CLIP's, with GELU.

Beside CLIP's image tower: no norm before the blocks; keys have no bias; queries and keys of every block are turned by
their tokens' places (2-D RoPE), beside a learned position embedding; a norm before the attention's output matrix; MLPs
are SwiGLU with a norm before the last matrix, `mlp(x) = out(norm(silu(gate(x)) in(x)))`; every epsilon is 1e-6; the
projection has a bias.

RoPE (`rotary`): token `(row, column)` of a grid of h x w has the place `16 row / h, 16 column / w`, and rows come
first: places are shares of the picture, whatever the grid's size.

Dense features: in the last block a token takes its own value, with its own residual. With `x` the output of the block
before it, `u = out(norm(value(norm(x)))) + x`, `dense = projection(norm(u + mlp(norm(u))))`. CLIP's tower has the class
token's residual there, because CAT-Seg's checkpoints were trained so; nothing was trained so with this one.

Axes: b image, n token (class token first), h w feature grid, d tower width, e joint embedding.

Source: EVA-CLIP (arXiv 2303.15389); dense features as CLIPSelf takes them (arXiv 2310.01403). Parity: timm's and
open_clip's, tests/models/towers/test_eva.py.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ahs_seg_jax.models.initial import Parameters, lecun, norm, normal, zeros
from ahs_seg_jax.models.layers import ACTIVATIONS, layer_norm, linear
from ahs_seg_jax.models.ops import attention, resize
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import clip, rotary, transformer
from ahs_seg_jax.models.towers.config import ImageTowerConfig
from ahs_seg_jax.models.towers.interface import Parameter, Tower

EPSILON = 1e-6
PLACES = 16  # a side of the picture, in RoPE's units: the grid that its first pretraining had


def angles(grid: tuple[int, int], channels: int) -> np.ndarray:
    """Float32 `[n, c / 2]`: by how much each pair of a head's `channels` is turned, class token first."""
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return rotary.angles(y * PLACES / grid[0], x * PLACES / grid[1], channels)


class Blocks(transformer.Blocks):
    """Parameters of a stack of blocks with a gate and two norms more, and without the bias of keys."""

    @nn.nowrap
    def shapes(self) -> transformer.Shapes:
        """The parameters of a block."""
        plain = super().shapes()
        return {
            **plain,
            "key": {"kernel": plain["key"]["kernel"]},
            "mlp_gate": plain["mlp_in"],
            "ln_attention": transformer.scaled(self.width),
            "ln_mlp": transformer.scaled(*plain["mlp_in"]["bias"]),
        }


def _rest_of_block(
    x: Float[Array, "b n d"], attended: jax.Array, p: Params, activation: transformer.Activation
) -> Float[Array, "b n d"]:
    """A block behind its attention; `attended` is what each token took of the values."""
    x = x + linear(layer_norm(attended.reshape(x.shape), p["ln_attention"], EPSILON), p["out"])
    y = layer_norm(x, p["ln_2"], EPSILON)
    gated = activation(linear(y, p["mlp_gate"])) * linear(y, p["mlp_in"])
    return x + linear(layer_norm(gated, p["ln_mlp"], EPSILON), p["mlp_out"])


def block(
    x: Float[Array, "b n d"],
    p: Params,
    *,
    heads: int,
    activation: transformer.Activation,
    placed: transformer.Placed,
) -> Float[Array, "b n d"]:
    """One block; `placed` turns queries and keys `[b, n, heads, d / heads]` by their tokens' positions."""
    query, key, value = transformer.projected(x, p, heads, EPSILON)
    return _rest_of_block(x, attention.attend(placed(query), placed(key), value), p, activation)


def dense_block(x: Float[Array, "b n d"], p: Params, activation: transformer.Activation) -> Float[Array, "b n d"]:
    """The last block with each token's own value in place of attention."""
    return _rest_of_block(x, linear(layer_norm(x, p["ln_1"], EPSILON), p["value"]), p, activation)


class ImageTower(nn.Module):
    """Vision transformer with a class token, 2-D RoPE and gated MLPs, whose last block is dense."""

    config: ImageTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        width, side, scale = c.width, c.patch_size, c.width**-0.5
        self.patch_embedding = Parameters({"kernel": (lecun, (side, side, 3, width)), "bias": (zeros, (width,))})
        self.class_embedding = self.param("class_embedding", normal(scale), (width,))
        tokens = c.pretrained_grid**2 + 1
        self.position_embedding = self.param("position_embedding", normal(scale), (tokens, width))
        self.blocks = Blocks(c.layers, width, c.mlp_width)
        self.ln_post = norm(width)
        projection = {"kernel": (normal(scale), (width, self.embed_dim)), "bias": (zeros, (self.embed_dim,))}
        self.projection = Parameters(projection)

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def _grid(self, images: jax.Array) -> tuple[int, int]:
        return images.shape[1] // self.config.patch_size, images.shape[2] // self.config.patch_size

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        side = self.config.pretrained_grid
        learned = self.position_embedding[1:]
        if grid != (side, side):
            learned = resize.bicubic(learned.reshape(side, side, -1), grid).reshape(grid[0] * grid[1], -1)
        return jnp.concatenate([self.position_embedding[:1], learned])[None]

    def _up_to_last(
        self, images: Float[Array, "b H W 3"], blocks: Any, taps: tuple[int, ...]
    ) -> tuple[Float[Array, "b n d"], dict[int, Float[Array, "b n d"]]]:
        """Tokens after all blocks but the last, and the outputs of the blocks `taps` among these."""
        c, grid = self.config, self._grid(images)
        embedding = self.patch_embedding()
        flat = {"kernel": embedding["kernel"].reshape(-1, c.width), "bias": embedding["bias"]}
        x = linear(transformer.patches(images.astype(self.dtype), c.patch_size), flat)
        class_token = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (x.shape[0], 1, c.width))
        x = jnp.concatenate([class_token, x], 1) + self._positions(grid).astype(self.dtype)
        return transformer.run_tapped(x, blocks, c.layers - 1, self._step(grid), taps, remat=self.remat)

    def _step(self, grid: tuple[int, int]) -> Any:
        """A block of this tower, as a function of tokens and parameters."""
        c = self.config
        placed = functools.partial(rotary.turned, by=angles(grid, c.width // c.heads))
        return functools.partial(block, heads=c.heads, activation=ACTIVATIONS[c.activation], placed=placed)

    def _project(self, x: jax.Array) -> jax.Array:
        return linear(layer_norm(x, self.ln_post(), EPSILON), self.projection())

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Normalised images of whole patches -> dense features, and the outputs of the blocks `taps`."""
        c, (rows, columns) = self.config, self._grid(images)
        blocks = transformer.with_kernels(self.blocks(), kernels)
        on_grid = lambda x: x.reshape(-1, rows, columns, x.shape[-1])
        x, tokens = self._up_to_last(images, blocks, taps)
        found = {tap: on_grid(x[:, 1:]) for tap, x in tokens.items()}
        x = dense_block(x[:, 1:], transformer.part(blocks, -1), ACTIVATIONS[c.activation])
        if c.layers - 1 in taps:
            found[c.layers - 1] = on_grid(x)
        return on_grid(self._project(x)), found

    def pooled(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b e"]:
        """Normalised images of the crop's size -> their embeddings, by the class token."""
        blocks = self.blocks()
        x, _ = self._up_to_last(images, blocks, ())
        return self._project(self._step(self._grid(images))(x, transformer.part(blocks, -1))[:, 0])


_PARAMETERS = (*clip.IMAGE.parameters, Parameter("(projection|patch_embedding)/bias", "clip", split_from=None))
IMAGE = Tower(ImageTower, _PARAMETERS, transformer.ROTATED, head_multiple=rotary.HEAD_MULTIPLE, gated=True)
