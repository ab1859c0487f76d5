"""All classes of a batch of images in one program, on one device or spread over the devices of a mesh.

This is how an evaluation runs, which has many images; `in_passes` bounds the memory for any number of classes.

Axes: b image, v view, s side of a view, T class with padding, p prompt, e joint embedding, g side of the logits.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.models import sharding


def _view_logits(
    model: Any,
    params: Any,
    views: jax.Array,
    text: jax.Array,
    mask: jax.Array,
    class_pooling: int = 1,
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Logits of every view: `[b, v, s, s, 3]` RGB 0..255 and text `[T, p, e]`, mask `[T]` -> float32 `[b, v, T, g, g]`.

    One view of every image is computed at a time, which bounds the memory. `mesh` holds the devices that the images,
    and the result, are spread over.
    """
    variables = {"params": params}

    def segment(images: jax.Array) -> jax.Array:
        features = model.apply(variables, images, method="encode_image")
        logits, _ = model.apply(
            variables, features, text, class_pooling=class_pooling, class_mask=mask, method="segment"
        )
        return logits

    with sharding.on(mesh):
        if views.shape[1] == 1:
            return sharding.by_image(segment(views[:, 0])[:, None])
        return sharding.by_image(jnp.moveaxis(jax.lax.map(segment, jnp.moveaxis(views, 1, 0)), 0, 1))


view_logits = Compiled(_view_logits, "view_logits", static=("model", "class_pooling", "mesh"))
