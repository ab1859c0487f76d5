"""A plain CLIP with another last block, as a model: the stages that inference needs, and nothing else.

Axes: b view, t query, p prompt, l text token, h w feature grid, e joint embedding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ahs_seg_jax.models.ahs_seg import CLIP, standardised
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.layers import ACTIVATIONS, l2_normalise
from ahs_seg_jax.models.parameters import Params
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.models.towers.clip import ImageTower
from ahs_seg_jax.models.training_free.last_blocks import LAST_BLOCKS, Inputs
from ahs_seg_jax.models.training_free.settings import OF_OTHER_TOWERS, TrainingFree


class TrainingFreeCLIP(nn.Module):
    """CLIP's two towers; the image tower's last block is `method`'s. Its parameters are the part `clip` of AHSSeg's."""

    config: ModelConfig
    method: TrainingFree = TrainingFree()

    def setup(self) -> None:
        self.clip = CLIP(self.config)

    def _precision(self) -> str:
        return "highest" if self.config.dtype == "float32" else "default"

    def encode_text(self, tokens: Int[Array, "t p l"] | Prompts) -> Float[Array, "t p e"]:
        """Token ids, zero-padded -> unit-length float32 embeddings."""
        with jax.default_matmul_precision(self._precision()):
            return self.clip.encode_text(tokens, {})

    def encode_image(self, images: Float[Array, "b H W 3"]) -> dict[str, Float[Array, "b h w e"]]:
        """Views, RGB 0..255 of any size of at least a patch -> `dense` features; h = H // patch, w = W // patch."""
        image, settings = self.config.image, self.method

        def last_block(x: jax.Array, outputs: dict[int, jax.Array], p: Params, grid: tuple[int, int]) -> jax.Array:
            inputs = Inputs(p, image.heads, ACTIVATIONS[image.activation], grid, image.layers, outputs, settings)
            return LAST_BLOCKS[settings.method](x, inputs)

        with jax.default_matmul_precision(self._precision()):
            tower, pixels = self.clip.image, standardised(images, image)
            if not isinstance(tower, ImageTower):  # each token's own value is what the tower itself computes
                assert settings.method in OF_OTHER_TOWERS
                side = image.patch_size
                whole = tuple(extent // side * side for extent in images.shape[1:3])
                return {"dense": tower(pixels[:, : whole[0], : whole[1]], ())[0]}
            taps = settings.taps(image.layers)
            return {"dense": tower.training_free(pixels, last_block, taps)}

    def compare(self, dense: Float[Array, "b h w e"], text: Float[Array, "t p e"]) -> Float[Array, "b t h w"]:
        """Cosine of every position with every query, whose prompts are averaged already (p = 1).

        In float32 whatever the activations are, as in `AHSSeg.correlate`.
        """
        unit, highest = l2_normalise(dense.astype(jnp.float32)), jax.lax.Precision.HIGHEST
        return jnp.einsum("bhwe,te->bthw", unit, text[:, 0].astype(jnp.float32), precision=highest)
