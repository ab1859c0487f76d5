"""MetaCLIP 2's text tower: CLIP's with the vocabulary of XLM-V, whose end token is not the largest id.

Its image tower is CLIP's. Axes: m prompt, l text token.

Source: MetaCLIP 2 (arXiv 2507.22062). Parity: transformers' MetaClip2Model, tests/models/towers/test_metaclip2.py.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from ahs_seg_jax.models.towers import clip, transformer
from ahs_seg_jax.models.towers.interface import Tower


class TextTower(clip.TextTower):
    """Causal transformer read at the last id that is not 0: the end token, after which ids are 0."""

    def ends(self, tokens: Int[Array, "m l"]) -> Int[Array, "m"]:
        """Where each prompt's end token stands."""
        return tokens.shape[-1] - 1 - jnp.argmax(tokens[:, ::-1] != 0, -1)


TEXT = Tower(TextTower, clip.TEXT.parameters, transformer.ROTATED)
