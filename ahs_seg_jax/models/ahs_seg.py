"""AHS-Seg: stages from images and prompts to one map of logits for each class, and their composition.

Axes: b image (b1: b or 1), t class, p prompt, l text token, h w feature grid, e joint embedding, d image tower width.

Source: AHS-Seg and CAT-Seg; parity: golden/vitb_forward.npz and the other full-size cases.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from ahs_seg_jax.models import aggregator, layers, orthogonal, prompts, sharding
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.arrangement import DEFAULT, Arrangement, for_platform
from ahs_seg_jax.models.dc_hsp import DCHSP
from ahs_seg_jax.models.initial import INITIAL
from ahs_seg_jax.models.mh_fpn import MHFPN
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.models.towers import registry
from ahs_seg_jax.models.towers.config import ImageTowerConfig


class CLIP(nn.Module):
    """Both towers and the rotations of their attention."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        options = c.embed_dim, jnp.dtype(c.dtype), c.remat
        self.image = registry.IMAGE_TOWERS[c.image.tower].make(c.image, *options)
        self.text = registry.TEXT_TOWERS[c.text.tower].make(c.text, *options)
        if self.config.adaptation != "none":
            self.adaptation = orthogonal.OrthogonalAdaptation(self.config)
        # CLIP's temperature: no part of segmentation, kept so that a checkpoint survives a round trip.
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(4.6052), ())

    def rotations(self) -> dict[str, Any]:
        """What the adaptation hands out; empty without one."""
        return self.adaptation() if self.config.adaptation != "none" else {}

    def encode_image(
        self, images: Float[Array, "b H W 3"], taps: tuple[int, ...], rotations: dict[str, Any]
    ) -> tuple[Float[Array, "b h w e"], dict[int, Float[Array, "b h w d"]]]:
        """Dense features and block outputs of normalised images."""
        kernels = orthogonal.rotate(self.image.attention_kernels(), rotations["image"]) if rotations else None
        return self.image(images, taps, kernels)

    def encode_text(self, tokens: Int[Array, "t p l"] | Prompts, rotations: dict[str, Any]) -> Float[Array, "t p e"]:
        """Unit-length float32 embeddings."""
        kernels = orthogonal.rotate(self.text.attention_kernels(), rotations["text"]) if rotations else None
        prefix, rest = prompts.separate(tokens)
        embeddings = self.text(rest.reshape(-1, rest.shape[-1]), kernels, prefix)
        return layers.l2_normalise(embeddings).reshape(*rest.shape[:2], -1)


class AHSSeg(nn.Module):
    """The whole model. `encode_text` once for a vocabulary, `encode_image` once for a view, `segment` for each pair.

    `build_model` takes the arrangement that suits the devices; results do not depend on it.
    """

    config: ModelConfig
    arrangement: Arrangement = DEFAULT

    def setup(self) -> None:
        c, initial = self.config, INITIAL[self.config.init]
        self.clip = CLIP(c)
        for index, channels in enumerate(c.aggregator.guidance_up, 1):
            setattr(self, f"guidance_up_{index}", initial.transposed(2**index, c.image.width, channels))
        self.aggregator = aggregator.Aggregator(
            c.aggregator, c.embed_dim, c.class_chunk, c.remat, self.arrangement, initial
        )
        if c.mh_fpn:
            self.mh_fpn = MHFPN(c.embed_dim, c.mh_fpn_fusion, initial)
        if c.dc_hsp:
            self.dc_hsp = DCHSP(c.embed_dim, c.dc_hsp_rank, initial)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """float32 means float32: on TPU and GPU products would otherwise be rounded to fewer bits."""
        with jax.default_matmul_precision("highest" if self.config.dtype == "float32" else "default"):
            yield

    # ------------------------------------------------------------------------------------------ stages

    def encode_text(self, tokens: Int[Array, "t p l"] | Prompts) -> Float[Array, "t p e"]:
        """Token ids, zero-padded -> unit-length float32 embeddings."""
        with self._precision():
            return self.clip.encode_text(tokens, self.clip.rotations())

    def encode_image(self, images: Float[Array, "b H W 3"]) -> dict[str, jax.Array]:
        """RGB 0..255 of any size -> everything that does not depend on the words, each with leading axis b:

        `dense` `[b, h, w, e]`, and the guidance `appearance` `[b, h, w, g]`, `decoder_1`, `decoder_2`.
        """
        with self._precision():
            return self._image(images, self.clip.rotations())[0]

    def segment(
        self,
        features: dict[str, jax.Array],
        text: Float[Array, "t p e"],
        *,
        class_pooling: int = 1,
        class_mask: Bool[Array, "t"] | None = None,
    ) -> tuple[Float[Array, "b t H W"], dict[str, Any]]:
        """Features of images and embeddings of classes -> logits `[b, t, 4h, 4w]`, and the named intermediates.

        A False `class_mask` marks a class that only fills up a bucket: its logits are -100, and it influences nothing.
        More classes than `aggregator.pad_len` are cut, for each image, to those with the largest correlation.
        """
        self.config.check_class_pooling(class_pooling)
        with self._precision():
            return self._segment(features, text, class_pooling, class_mask)

    def __call__(
        self,
        images: Float[Array, "b H W 3"],
        tokens: Int[Array, "t p l"] | Prompts,
        *,
        class_pooling: int = 1,
        class_mask: Bool[Array, "t"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t H W"], dict[str, Any]]:
        """RGB 0..255 and prompts -> `(logits [b, t, 4h, 4w], out)`; `out` holds every named intermediate.

        `text`, `dense`, `taps` (block -> `[b, h, w, d]`), `upsampled`, `appearance`, `decoder_1`, `decoder_2`,
        `correlation`, `aggregated`, `rotations`, `mh_fpn`, `dc_hsp`, `kept`. `train` switches DC-HSP's dropout on
        (rng `dropout`).
        """
        with self._precision():
            rotations = self.clip.rotations()
            text = sharding.whole(self.clip.encode_text(tokens, rotations))
            features, out = self._image(images, rotations)
            out |= {"rotations": rotations, "text": text}
            if self.config.dc_hsp:
                out["dc_hsp"] = self.dc_hsp(features["dense"], mean_text(text), train)
            logits, segmented = self._segment(features, text, class_pooling, class_mask)
            return logits, out | segmented

    # ------------------------------------------------------------------------------------------ their parts

    def _image(self, images: jax.Array, rotations: dict[str, Any]) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        c = self.config
        images = sharding.by_image(normalise_pixels(images, c.image))
        taps = (*c.guidance_taps, *(c.mh_fpn_taps if c.mh_fpn else ()))
        dense, found = self.clip.encode_image(images, taps, rotations)
        first, second = (
            layers.conv_transpose(found[tap], getattr(self, f"guidance_up_{index}")())
            for index, tap in enumerate(c.guidance_taps, 1)
        )
        upsampled = (first, second)
        out: dict[str, Any] = {"taps": found, "upsampled": upsampled}
        guide = dense
        if c.mh_fpn:
            fused, out["mh_fpn"] = self.mh_fpn([found[tap] for tap in c.mh_fpn_taps])
            guide = 0.5 * dense + 0.5 * fused
        features = {"dense": dense, **self.aggregator.guide_image(guide, upsampled)}
        features = {name: sharding.by_image(value) for name, value in features.items()}
        return features, out | features

    def correlate(self, dense: Float[Array, "b h w e"], text: Float[Array, "t p e"]) -> Float[Array, "b t h w p"]:
        """Cosine of every position with every prompt, in float32 on every platform and whatever the activations are.

        Classes differ by little: three digits of bfloat16 would make another class the best at one position in twenty.
        """
        unit, highest = layers.l2_normalise(dense.astype(jnp.float32)), jax.lax.Precision.HIGHEST
        return sharding.by_class(jnp.einsum("bhwe,tpe->bthwp", unit, text.astype(jnp.float32), precision=highest))

    def _segment(
        self, features: dict[str, jax.Array], text: jax.Array, pooling: int, class_mask: jax.Array | None
    ) -> tuple[jax.Array, dict[str, Any]]:
        c, classes = self.config.aggregator, text.shape[0]
        text, class_mask = _even(text, class_mask)
        correlation = self.correlate(features["dense"], text)
        out: dict[str, Any] = {"correlation": correlation}
        guide, mask, kept = mean_text(text)[None], None if class_mask is None else class_mask[None], None
        if 0 < c.pad_len < text.shape[0]:
            kept = aggregator.keep_best(correlation, c.pad_len, class_mask)
            correlation, guide = kept.take(correlation), kept.take(guide)
            mask = None if mask is None else kept.take(mask)
            out["kept"] = kept.indices
        x = self.aggregator.embed(sharding.by_class(correlation), features["dense"].dtype)
        x = self.aggregator.aggregate(x, features["appearance"], guide, pooling=pooling, class_mask=mask)
        out["aggregated"] = x = sharding.by_class(x)
        prepared = self.aggregator.prepare_decoder((features["decoder_1"], features["decoder_2"]))
        logits = sharding.by_class(self.aggregator.decode(x, prepared))
        if kept is not None:
            logits = kept.put_back(logits)
        if class_mask is not None:
            logits = jnp.where(class_mask[None, :, None, None], logits, aggregator.DROPPED_LOGIT)
        return logits[:, :classes], out


def _even(text: jax.Array, class_mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Padded with masked classes to a multiple of the devices that classes are split over."""
    classes = text.shape[0]
    extra = -classes % sharding.class_shards()
    if not extra:
        return text, class_mask
    mask = jnp.ones(classes, bool) if class_mask is None else class_mask
    return jnp.pad(text, ((0, extra), (0, 0), (0, 0)), mode="edge"), jnp.pad(mask, (0, extra))


def normalise_pixels(images: Float[Array, "b H W 3"], config: ImageTowerConfig) -> Float[Array, "b crop crop 3"]:
    """`standardised`, then bilinear to the tower's crop."""
    return resize.bilinear(standardised(images, config), (config.crop, config.crop))


def standardised(images: Float[Array, "b H W 3"], config: ImageTowerConfig) -> Float[Array, "b H W 3"]:
    """RGB 0..255 -> zero mean and unit variance by channel."""
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (config.pixel_mean, config.pixel_std))
    return (images.astype(jnp.float32) - mean) / std


def mean_text(text: Float[Array, "t p e"]) -> Float[Array, "t e"]:
    """The mean over prompts, of unit length again."""
    return layers.l2_normalise(text.mean(1))


def build_model(config: ModelConfig, mesh: Mesh | None = None) -> AHSSeg:
    """The model as it suits the devices of the mesh; without a mesh, those that JAX takes by default."""
    return AHSSeg(config, arrangement=for_platform(config, sharding.platform(mesh)))
