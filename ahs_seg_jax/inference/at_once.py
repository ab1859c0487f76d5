"""From an image and class names to labels: views, the model's stages, blending, argmax over chunks of classes.

Axes: b image, v view, t class, p prompt, e joint embedding, g side of the logit grid (4 h), n side of the blended map.

Two protocols (CAT-Seg; the published numbers use `cat_seg`):
  whole    one view, the image squashed to the crop; sigmoid of the logits, then bilinear to the output size
  cat_seg  windows over the squashed image and one global view; logits to the window's size, then sigmoid, windows
           averaged where they overlap, mean with the global view, bilinear to the output size

Nothing compiled depends on an image's own size or on the exact number of classes: views are made on the host, classes
are padded to a bucket and masked, output sizes are padded to a bucket and cropped by the caller. `traces` counts how
often each compiled function was traced.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import labelling
from ahs_seg_jax.inference.compiled import traces
from ahs_seg_jax.inference.encoding import EncodedVocabulary
from ahs_seg_jax.inference.views import make_views
from ahs_seg_jax.models import sharding


@functools.partial(jax.jit, static_argnames=("model", "class_pooling", "one_by_one", "mesh"))
def view_logits(
    model: Any,
    params: Any,
    views: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    class_pooling: int = 1,
    one_by_one: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Logits of every view: `[b, v, s, s, 3]` RGB 0..255 and text `[T, p, e]`, mask `[T]` -> float32 `[b, v, T, g, g]`.

    `one_by_one` segments one view of every image at a time (less memory) instead of all b v at once; same results.
    `mesh`: the devices that the images are spread over, and the result.
    """
    traces["view_logits"] += 1
    variables = {"params": params}

    def segment(images: jax.Array) -> jax.Array:
        features = model.apply(variables, images, method="encode_image")
        logits, _ = model.apply(
            variables, features, text, class_pooling=class_pooling, class_mask=mask, method="segment"
        )
        return logits

    with sharding.on(mesh):
        if one_by_one and views.shape[1] > 1:
            return sharding.by_image(jnp.moveaxis(jax.lax.map(segment, jnp.moveaxis(views, 1, 0)), 0, 1))
        flat = segment(views.reshape(-1, *views.shape[2:]))
        return sharding.by_image(flat.reshape(*views.shape[:2], *flat.shape[1:]))


def whole_image_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, class_pooling: int = 1
) -> jax.Array:
    """Protocol `whole`: probabilities float32 `[t, H, W]` of an image uint8 `[H, W, 3]`."""
    return _image_probabilities(model, params, image, vocabulary, "whole", class_pooling)


def cat_seg_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, class_pooling: int = 1
) -> jax.Array:
    """Protocol `cat_seg`: probabilities float32 `[t, H, W]` of an image uint8 `[H, W, 3]`.

    Parity: golden/vitb_sliding_window.npz (made with class_pooling=2).
    """
    return _image_probabilities(model, params, image, vocabulary, "cat_seg", class_pooling)


def _image_probabilities(
    model: Any, params: Any, image: np.ndarray, vocabulary: EncodedVocabulary, protocol: str, class_pooling: int
) -> jax.Array:
    views = make_views(image, protocol, model.config.image.crop)[None]
    logits = view_logits(model, params, views, vocabulary.text, vocabulary.mask, class_pooling)
    height, width = image.shape[:2]
    return labelling.probabilities(logits[0, :, : vocabulary.count], (height, width), protocol)
