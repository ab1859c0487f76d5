"""`CLIP`: embeddings of whole images and of texts, and zero-shot scores; NumPy at both ends.

Parity: transformers' CLIPModel, SiglipModel and MetaClip2Model, and open_clip, on random weights, to 1e-5.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ahs_seg_jax.data.open_image import ImageLike, open_image
from ahs_seg_jax.models import orthogonal, parameters
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.towers import registry
from ahs_seg_jax.vocabulary import TOKEN_BUCKETS, Vocabulary, tokenizer

AT_ONCE = 32  # images or texts in one call of a tower
TEMPLATES = ("a photo of a {}.",)


class CLIP:
    """The two towers of a CLIP as its publisher computes them: the image's embedding is that of its class token or of
    its pooling head. Where there is a sigmoid's bias (SigLIP), names are scored one by one, each by a sigmoid.

    Weights of CAT-Seg and AHS-Seg work too: their towers, with the rotations folded in, are read at the class token
    again, which their training did not look at.
    """

    def __init__(self, config: ModelConfig, params: Mapping[str, Any]):
        """`params` hold "clip" as `AHSSeg(config)` has it. Raises ValueError if values are not finite."""
        if found := parameters.not_finite(parameters.flatten(params)):
            found_in = parameters.listed(found)
            raise ValueError(f"the parameters hold values that are not finite (NaN or infinity) in {found_in}")
        config, params = orthogonal.merge(config, {"clip": params["clip"]})
        side = config.image.pretrained_grid * config.image.patch_size
        self.config = config.replace(image=dataclasses.replace(config.image, crop=side))
        image, text = self.config.image, self.config.text
        self._params = jax.device_put(params["clip"])
        options = config.embed_dim, jnp.dtype(config.dtype), "none"
        images = registry.IMAGE_TOWERS[image.tower].make(image, *options)
        if not hasattr(images, "pooled"):
            raise ValueError(f"the image tower {image.tower!r} makes no embedding of a whole image")
        texts = registry.TEXT_TOWERS[text.tower].make(text, *options)
        self._image = jax.jit(lambda p, x: images.apply({"params": p}, x, method="pooled"))  # type: ignore[attr-defined]
        self._text = jax.jit(lambda p, x: texts.apply({"params": p}, x))  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, activation: str | None = None) -> "CLIP":
        """From a CLIP's file, directory or name, or whatever else `Segmenter.from_pretrained` takes.

        `activation`, "quick_gelu" or "gelu", is for files that do not state it. Raises CheckpointError if it cannot be
        read.
        """
        from ahs_seg_jax.checkpoints import pretrained  # only here: Orbax takes a second to import

        loaded = pretrained.load_pretrained(path, activation=activation)
        return cls(loaded.config, loaded.params)

    @property
    def scale(self) -> float:
        """What cosines are multiplied with, 100 for most CLIPs."""
        return float(np.exp(np.asarray(self._params["logit_scale"])))

    @property
    def bias(self) -> float | None:
        """What is added to the product before the sigmoid; None: scores are a softmax over the names."""
        bias = self._params["text"].get("logit_bias")
        return None if bias is None else float(np.asarray(bias))

    def preprocess(self, image: ImageLike) -> np.ndarray:
        """float32 `[s, s, 3]`, mean 0 and spread 1, as the tower's publisher makes it.

        The shorter side is resized to s (bicubic) and the centre cut out; or, for SigLIP and PE, the whole image is
        squashed to the square (bilinear). SO400M/14 gets its 378 pixels, where 384 would be cut by the last patch.
        """
        config, pixels = self.config.image, open_image(image)
        side, (rows, columns) = config.crop, pixels.shape[:2]
        size = (
            (side, max(side, side * rows // columns)) if columns <= rows else (max(side, side * columns // rows), side)
        )
        how = Image.Resampling.BICUBIC
        if registry.IMAGE_TOWERS[config.tower].squashes:
            size, how = (side, side), Image.Resampling.BILINEAR
        resized = np.asarray(Image.fromarray(pixels).resize(size, how))
        top, left = (round((extent - side) / 2) for extent in resized.shape[:2])
        cut = resized[top : top + side, left : left + side].astype(np.float32)
        return (cut - np.asarray(config.pixel_mean, np.float32)) / np.asarray(config.pixel_std, np.float32)

    def encode_image(self, images: ImageLike | Sequence[ImageLike], *, normalise: bool = True) -> np.ndarray:
        """Embeddings float32 `[n, e]` of images as `open_image` takes them; of unit length unless told otherwise."""
        given: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        found = [
            _in_buckets(self._image, self._params["image"], np.stack([self.preprocess(image) for image in part]))
            for part in _parts(given)
        ]
        return self._joined(found, normalise)

    def encode_text(self, texts: str | Sequence[str], *, normalise: bool = True) -> np.ndarray:
        """Embeddings float32 `[n, e]` of texts; of unit length unless told otherwise.

        Raises ValueError for a text that does not fit the context (nothing is cut) or spells a special token.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        tokens = tokenizer.tokenize(given, self.config.text.context, self.config.text.tokenizer)
        longest = int(tokenizer.lengths(tokens).max(initial=1))
        length = min(next((size for size in TOKEN_BUCKETS if size >= longest), longest), self.config.text.context)
        found = [_in_buckets(self._text, self._params["text"], part) for part in _parts(tokens[:, :length])]
        return self._joined(found, normalise)

    def logits(self, images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> np.ndarray:
        """`scale` times the cosine of each image with each text, and the `bias` if there is one, float32 `[n, t]`."""
        return self._logits(images, self.encode_text(texts))

    def _logits(self, images: ImageLike | Sequence[ImageLike], text: np.ndarray) -> np.ndarray:
        return np.float32(self.scale) * self.encode_image(images) @ text.T + np.float32(self.bias or 0.0)

    def zero_shot(
        self,
        images: ImageLike | Sequence[ImageLike],
        names: Sequence[str] | Vocabulary,
        templates: Sequence[str] = TEMPLATES,
    ) -> np.ndarray:
        """The probability of each name for each image, float32 `[n, t]`.

        Rows sum to 1, but with a `bias` each name has a probability of its own, the sigmoid of its logit. A name's
        embedding is the mean over the templates, such as `imagenet_templates()`. Raises ValueError as `Vocabulary`.
        """
        if isinstance(names, str):
            raise TypeError(f"names is the text {names!r}; pass a list of class names, such as [{names!r}]")
        words = names if isinstance(names, Vocabulary) else Vocabulary(tuple(names), tuple(templates))
        prompts = words.prompts()
        flat = self.encode_text([prompt for row in prompts for prompt in row])
        text = words.pool(flat.reshape(len(prompts), len(prompts[0]), -1))[:, 0]
        logits = self._logits(images, text)
        if self.bias is not None:
            return np.exp(-np.logaddexp(0, -logits))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def _joined(self, found: list[np.ndarray], normalise: bool) -> np.ndarray:
        vectors = np.concatenate([np.zeros((0, self.config.embed_dim), np.float32), *found])
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if normalise else vectors


def _parts(values: Any) -> list[Any]:
    return [values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE)]


def _in_buckets(function: Callable[..., jax.Array], params: Any, values: np.ndarray) -> np.ndarray:
    """The function of `[n, ...]`, n padded to a power of two, so that few sizes are compiled."""
    count = len(values)
    padded = np.concatenate([values, np.repeat(values[-1:], (1 << (count - 1).bit_length()) - count, 0)])
    with jax.default_matmul_precision("highest"):  # float32 means float32, also on TPU and GPU
        return np.asarray(function(params, padded), np.float32)[:count]
