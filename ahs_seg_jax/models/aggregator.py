"""Cost aggregation: the correlation of image and text, refined in space for each class and across classes.

Axes: b image (b1: b or 1), t class, p prompt, h w feature grid, c hidden channels, e joint embedding.

Source: CAT-Seg (Cho et al., 2024), aggregator; parity: golden/aggregator.npz.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ahs_seg_jax.models import decoder, layers
from ahs_seg_jax.models.architecture import AggregatorConfig
from ahs_seg_jax.models.arrangement import DEFAULT, Arrangement
from ahs_seg_jax.models.class_layer import ClassLayer
from ahs_seg_jax.models.initial import TORCH, Initial, normal
from ahs_seg_jax.models.ops import chunks
from ahs_seg_jax.models.ops.windows import PRODUCTS, WindowAttention
from ahs_seg_jax.models.spatial_layer import SpatialLayer

DROPPED_LOGIT = -100.0  # of a class outside the kept ones


@dataclasses.dataclass(frozen=True)
class Kept:
    """Which classes each image keeps: `indices` `[b, k]` ascending, of `classes` in all."""

    indices: jax.Array
    classes: int

    def take(self, x: jax.Array) -> jax.Array:
        """Rows of `[b or 1, t, ...]` by image: `[b, k, ...]`."""
        x = jnp.broadcast_to(x, (self.indices.shape[0], *x.shape[1:]))
        return jnp.take_along_axis(x, self.indices.reshape(*self.indices.shape, *(1,) * (x.ndim - 2)), axis=1)

    def put_back(self, logits: jax.Array) -> jax.Array:
        """`[b, k, h, w] -> [b, t, h, w]`, -100 where a class was not kept."""
        images = logits.shape[0]
        full = jnp.full((images, self.classes, *logits.shape[2:]), DROPPED_LOGIT, logits.dtype)
        return full.at[jnp.arange(images)[:, None], self.indices].set(logits)


def keep_best(correlation: Float[Array, "b t h w p"], count: int, class_mask: Bool[Array, "t"] | None) -> Kept:
    """The `count` classes of each image with the largest correlation over positions and prompts."""
    best = jax.lax.stop_gradient(correlation).astype(jnp.float32).max((2, 3, 4))
    if class_mask is not None:
        best = jnp.where(class_mask[None], best, -jnp.inf)
    indices = jax.lax.top_k(best, count)[1]
    return Kept(jnp.sort(indices, axis=-1), correlation.shape[1])


class AggregationLayer(nn.Module):
    """A spatial and a class layer."""

    config: AggregatorConfig
    initial: Initial = TORCH
    attention: WindowAttention = PRODUCTS

    def setup(self) -> None:
        self.spatial = SpatialLayer(self.config, self.initial, self.attention)
        # `class` is a reserved word: the attribute is set by name so that the parameters are called what they are.
        setattr(self, "class", ClassLayer(self.config, self.initial))

    @property
    def classes(self) -> ClassLayer:
        """The class layer."""
        return getattr(self, "class")

    def __call__(self, x: jax.Array, appearance: jax.Array, text: jax.Array, **options: Any) -> jax.Array:
        """See SpatialLayer (options chunk, remat) and ClassLayer (options pooling, class_mask, padding)."""
        by_space = {name: options.pop(name) for name in ("chunk", "remat")}
        return self.classes(self.spatial(x, appearance, **by_space), text, **options)


class Aggregator(nn.Module):
    """Embedding of the correlation, aggregation layers, decoder. `features` are the joint embedding's channels."""

    config: AggregatorConfig
    features: int
    chunk: int = 0
    remat: str = "none"
    arrangement: Arrangement = DEFAULT
    initial: Initial = TORCH

    def setup(self) -> None:
        c, declare = self.config, self.initial
        # LayerNorm does not see a vector's length, and a correlation of one number is little else. From nothing, a bias
        # of similar size turns the length into a direction from the first step on.
        self.correlation_embedding = declare.convolution(7, c.prompts, c.hidden, bias=normal(0.5))
        self.appearance_guidance = declare.convolution(3, self.features, c.appearance_guidance)
        self.text_guidance = declare.affine(self.features, c.text_guidance)
        self.decoder_guidance_1 = declare.convolution(3, c.guidance_up[0], c.decoder_guidance[0])
        self.decoder_guidance_2 = declare.convolution(3, c.guidance_up[1], c.decoder_guidance[1])
        attention = self.arrangement.attention
        self.layers = [AggregationLayer(c, self.initial, attention) for _ in range(c.layers)]
        first, second = c.decoder
        # The guidance replaces the last of the incoming channels: 128 -> 96 + 32 and 64 -> 48 + 16.
        self.decoder_1 = decoder.Stage(c.hidden, c.decoder_guidance[0], first, self.initial)
        self.decoder_2 = decoder.Stage(first, c.decoder_guidance[1], second, self.initial)
        self.head = declare.convolution(3, second, 1)

    def embed(self, correlation: Float[Array, "b t h w p"], dtype: Any) -> Float[Array, "b t h w c"]:
        """7x7 convolution of each class's correlation: all float32, only the result is of the activations' type."""
        with jax.default_matmul_precision("highest"):
            return self.arrangement.embed(correlation, self.correlation_embedding()).astype(dtype)

    def guide_image(
        self,
        dense: Float[Array, "b h w e"],
        upsampled: tuple[Float[Array, "b h2 w2 c1"], Float[Array, "b h4 w4 c2"]],
    ) -> dict[str, jax.Array]:
        """What the image alone says: `appearance` `[b, h, w, g]`, `decoder_1`, `decoder_2` (of the upsampled taps)."""
        return {
            "appearance": jax.nn.relu(layers.conv_same(dense, self.appearance_guidance())),
            "decoder_1": jax.nn.relu(layers.conv_same(upsampled[0], self.decoder_guidance_1())),
            "decoder_2": jax.nn.relu(layers.conv_same(upsampled[1], self.decoder_guidance_2())),
        }

    def guide_text(self, text: Float[Array, "b1 t e"], dtype: Any) -> Float[Array, "b1 t g"]:
        """What the words alone say to the class layers; `text` is unit-length."""
        return jax.nn.relu(layers.linear(text.astype(dtype), self.text_guidance()))

    def padding(self, classes: jax.Array) -> jax.Array:
        """How many padding tokens (float32, same shape) join this many classes in each class layer."""
        return jnp.maximum(self.config.pad_len - classes, 0).astype(jnp.float32)

    def aggregate(
        self,
        x: Float[Array, "b t h w c"],
        appearance: Float[Array, "b h w g"],
        text: Float[Array, "b1 t e"],
        *,
        pooling: int,
        class_mask: Bool[Array, "b1 t"] | None,
    ) -> Float[Array, "b t h w c"]:
        """The aggregation layers. `text` is unit-length; a False mask keeps a class from influencing the others."""
        guidance = self.guide_text(text, x.dtype)
        padding = self.padding(jnp.asarray([x.shape[1]]) if class_mask is None else class_mask.sum(-1))
        for layer in self.layers:
            x = layer(
                x,
                appearance,
                guidance,
                chunk=self.arrangement.class_chunk(x.shape[0], self.chunk),
                remat=self.remat,
                pooling=pooling,
                class_mask=class_mask,
                padding=padding,
            )
        return x

    def prepare_decoder(
        self, guidance: tuple[Float[Array, "b h2 w2 g1"], Float[Array, "b h4 w4 g2"]]
    ) -> Sequence[decoder.Prepared]:
        """What the decoder's stages need of the image, once for all classes."""
        prepare = self.arrangement.decoder.prepare
        return [prepare(g, p) for g, p in zip(guidance, (self.decoder_1(), self.decoder_2()), strict=True)]

    def decode(self, x: Float[Array, "b t h w c"], prepared: Sequence[decoder.Prepared]) -> Float[Array, "b t h4 w4"]:
        """Upsampled four times under the decoder guidance (`prepare_decoder`), to float32 logits."""
        stages, head = (self.decoder_1(), self.decoder_2()), self.head()
        chunk = self.arrangement.class_chunk(x.shape[0], self.chunk)
        all_stages = functools.partial(
            self.arrangement.decoder.decode,
            stages=stages,
            head_parameters=head,
            prepared=prepared,
            in_loop=0 < chunk < x.shape[1],
        )
        return chunks.over_classes(all_stages, x, chunk=chunk, remat=self.remat)
