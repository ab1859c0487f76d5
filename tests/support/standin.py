"""A model with AHSSeg's interface that compiles in a moment, for tests of what is built around the model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ahs_seg_jax.models import prompts
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.arrangement import DEFAULT, Arrangement
from ahs_seg_jax.models.prompts import Prompts

NORMAL = nn.initializers.normal(0.5)


class _Text(nn.Module):
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("token_embedding", NORMAL, (49408, self.width))


class _Clip(nn.Module):
    width: int

    def setup(self) -> None:
        self.text = _Text(self.width)

    def __call__(self) -> jax.Array:
        return self.text()


class _Head(nn.Module):
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        return self.param("kernel", NORMAL, (3, self.width)), self.param("bias", nn.initializers.zeros, (1,))


class StandIn(nn.Module):
    """Colour of a grid cell, projected, times the mean embedding of a prompt's tokens.

    Dropout on the features in place of DC-HSP's, where the configuration has that.
    """

    config: ModelConfig
    arrangement: Arrangement = DEFAULT

    def setup(self) -> None:
        self.clip = _Clip(self.config.embed_dim)
        self.aggregator = _Head(self.config.embed_dim)
        self.dropout = nn.Dropout(0.1 if self.config.dc_hsp else 0.0)

    def encode_text(self, tokens: jax.Array | Prompts) -> jax.Array:
        """`[t, p, l]` to `[t, p, e]`."""
        prefix, rest = prompts.separate(tokens)
        if prefix is not None:
            rest = jnp.concatenate([jnp.broadcast_to(prefix, (*rest.shape[:2], len(prefix))), rest], -1)
        counted = (rest != 0)[..., None]
        return (self.clip()[rest] * counted).sum(2) / counted.sum(2)

    def encode_image(self, images: jax.Array) -> dict[str, jax.Array]:
        """`[b, H, W, 3]` of any size to `[b, h, w, e]`."""
        grid = self.config.grid
        cells = jax.image.resize(images / 255.0, (images.shape[0], grid, grid, 3), "linear")
        return {"dense": cells @ self.aggregator()[0]}

    def segment(
        self, features: dict[str, jax.Array], text: jax.Array, *, class_pooling: int = 1, class_mask: Any = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Logits `[b, t, 4 h, 4 w]`."""
        logits = jnp.einsum("bhwe,tpe->bthw", features["dense"], text) + self.aggregator()[1].reshape(1, 1, 1, 1)
        if class_mask is not None:
            logits = jnp.where(class_mask[None, :, None, None], logits, -100.0)
        return logits.repeat(4, 2).repeat(4, 3), {}

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        *,
        class_pooling: int = 1,
        class_mask: Any = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, Any]]:
        features = {"dense": self.dropout(self.encode_image(images)["dense"], deterministic=not train)}
        logits, out = self.segment(features, self.encode_text(tokens), class_mask=class_mask)
        return logits, {"rotations": {}, **out}
