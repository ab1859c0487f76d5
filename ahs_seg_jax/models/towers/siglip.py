"""SigLIP 2's two towers of fixed resolution: dense image features and text embeddings.

Beside CLIP's there is no class token and no causal mask; images are pooled by an attention head, texts are read at the
last place of the context, and text is padded to the whole context, which the published model sees.

Dense features: every token after the last norm goes alone through the pooling head (formula in `pooling`). All of them
together make the published embedding of the image (`pooled`).

Axes: b image, n image token, m prompt of a flat batch, l text token, q token of a common beginning, h w feature grid,
d tower width, e joint embedding (as wide as the image tower).

Source: SigLIP 2 (arXiv 2502.14786). Parity: transformers' SiglipModel, tests/models/towers/test_siglip.py.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ahs_seg_jax.models.initial import Parameters, lecun, norm, normal, zeros
from ahs_seg_jax.models.layers import ACTIVATIONS, layer_norm, linear
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.towers import pooling, transformer
from ahs_seg_jax.models.towers.config import ImageTowerConfig, TextTowerConfig
from ahs_seg_jax.models.towers.interface import Parameter, Tower

EPSILON = 1e-6  # of every layer norm


class ImageTower(pooling.PoolingHead):
    """Vision transformer without a class token, read through its pooling head."""

    config: ImageTowerConfig
    embed_dim: int  # the tower's width: there is no projection
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        width = c.width
        patch = (c.patch_size, c.patch_size, 3, width)
        self.patch_embedding = Parameters({"kernel": (lecun, patch), "bias": (zeros, (width,))})
        self.position_embedding = self.param("position_embedding", normal(width**-0.5), (c.pretrained_grid**2, width))
        self.blocks = transformer.Blocks(c.layers, width, c.mlp_width)
        self.ln_post = norm(width)
        self.declare_head(width, c.mlp_width)

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices of the blocks, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        side, width = self.config.pretrained_grid, self.config.width
        if grid == (side, side):
            return self.position_embedding[None]
        return resize.bicubic(self.position_embedding.reshape(side, side, width), grid).reshape(1, -1, width)

    def _tokens(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None
    ) -> tuple[Float[Array, "b n d"], dict[int, Float[Array, "b n d"]]]:
        """Tokens after the last norm, and the outputs of the blocks `taps`."""
        c, patch = self.config, self.patch_embedding()
        positions = self._positions((images.shape[1] // c.patch_size, images.shape[2] // c.patch_size))
        kernel = patch["kernel"].astype(self.dtype).reshape(-1, c.width)
        x = transformer.patches(images.astype(self.dtype), c.patch_size) @ kernel
        x = x + (patch["bias"][None, None] + positions).astype(self.dtype)
        blocks = transformer.with_kernels(self.blocks(), kernels)
        options: Any = {"heads": c.heads, "activation": ACTIVATIONS[c.activation], "epsilon": EPSILON}
        step = functools.partial(transformer.block, **options)
        x, found = transformer.run_tapped(x, blocks, c.layers, step, taps, remat=self.remat)
        return layer_norm(x, self.ln_post(), EPSILON), found

    def __call__(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], kernels: Params | None = None
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Normalised images of whole patches -> dense features, and the outputs of the blocks `taps`."""
        rows, columns = (extent // self.config.patch_size for extent in images.shape[1:3])
        on_grid = lambda x: x.reshape(-1, rows, columns, x.shape[-1])
        tokens, found = self._tokens(images, taps, kernels)
        dense = self.each_alone(tokens, ACTIVATIONS[self.config.activation], EPSILON)
        return on_grid(dense), {tap: on_grid(x) for tap, x in found.items()}

    def pooled(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b e"]:
        """Normalised images of the crop's size -> one embedding each, not yet normalised."""
        tokens, _ = self._tokens(images, (), None)
        return self.all_together(tokens, self.config.heads, ACTIVATIONS[self.config.activation], EPSILON)


class TextTower(nn.Module):
    """Transformer that sees the whole context, padding included, read at its last place."""

    config: TextTowerConfig
    embed_dim: int
    dtype: Any = jnp.float32
    remat: str = "none"

    def setup(self) -> None:
        c = self.config
        self.token_embedding = self.param("token_embedding", normal(c.width**-0.5), (c.vocab_size, c.width))
        self.position_embedding = self.param("position_embedding", normal(c.width**-0.5), (c.context, c.width))
        self.blocks = transformer.Blocks(c.layers, c.width, c.mlp_width)
        self.ln_final = norm(c.width)
        shape = (c.width, self.embed_dim)
        self.projection = Parameters({"kernel": (lecun, shape), "bias": (zeros, shape[1:])})
        # What the sigmoid loss adds to its logits: no part of segmentation, kept for a checkpoint's round trip.
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def attention_kernels(self) -> dict[str, jax.Array]:
        """The plain attention matrices, slot -> `[s, d, d]`."""
        return transformer.attention_kernels(self.blocks())

    def __call__(
        self, tokens: Int[Array, "m l"], kernels: Params | None = None, prefix: Int[Array, "q"] | None = None
    ) -> Float[Array, "m e"]:
        """Token ids, zero after the end token -> float32 embeddings, not yet normalised.

        Every token sees every other, so that a common beginning saves nothing: it is put in front of each prompt.
        """
        c = self.config
        if prefix is not None:
            tokens = jnp.concatenate([jnp.broadcast_to(prefix, (tokens.shape[0], prefix.shape[0])), tokens], 1)
        tokens = jnp.pad(tokens, ((0, 0), (0, c.context - tokens.shape[1])))
        blocks = transformer.with_kernels(self.blocks(), kernels)
        options: Any = {"heads": c.heads, "activation": ACTIVATIONS[c.activation], "epsilon": EPSILON}
        step = functools.partial(transformer.block, **options)
        final, projection = self.ln_final(), self.projection()

        def encode(tokens: jax.Array) -> jax.Array:
            x = (self.token_embedding[tokens] + self.position_embedding[None]).astype(self.dtype)
            x = transformer.run_blocks(x, blocks, step, remat=self.remat)[:, -1]
            return linear(layer_norm(x, final, EPSILON), projection).astype(jnp.float32)

        return transformer.in_batches(encode, tokens)


_REST = (
    Parameter("(position|token)_embedding", "clip", decays=False),
    Parameter("logit_bias", "clip", split_from=None, decays=False),
    Parameter("(projection|patch_embedding)/kernel", "clip"),
    Parameter("(projection|patch_embedding)/bias", "clip", split_from=None),
    Parameter("ln_.*", "clip", split_from=None),
)
_BIASES = Parameter("blocks/(query|key|value|out)/bias", "image_biases", split_from=None)
_IMAGE_PARAMETERS = (_BIASES, *transformer.PARAMETERS, *pooling.PARAMETERS, *_REST)
IMAGE = Tower(ImageTower, _IMAGE_PARAMETERS, transformer.ROTATED, embeds_width=True, squashes=True)
TEXT = Tower(TextTower, (*transformer.PARAMETERS, *_REST), transformer.ROTATED)
