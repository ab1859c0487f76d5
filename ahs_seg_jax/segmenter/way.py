"""The way of an image through the model, as one picture."""

import numpy as np

from ahs_seg_jax.data.open_image import ImageLike, open_image
from ahs_seg_jax.pictures import features, legends, overlays
from ahs_seg_jax.segmenter.segmenter import Segmenter
from ahs_seg_jax.segmenter.words import Names

SHOWN = 3  # names whose maps are drawn: those with the largest areas


def way(segmenter: Segmenter, image: ImageLike, names: Names) -> np.ndarray:
    """uint8 RGB: image, dense features and labels; beside them, for three names, their correlation and the answer.

    The correlations are drawn from the smallest to the largest of all names, the answer as probabilities 0 to 1. The
    image is seen as one view. Raises ValueError for a training-free method, where nothing follows the correlation.
    """
    if segmenter.training_free:
        raise ValueError(
            f"the training-free method {segmenter.method} ends with the correlation; the way of an image is drawn for "
            "trained models, such as 'tiny' or 'catseg-vitb16'"
        )
    pixels, vocabulary = open_image(image), segmenter.as_vocabulary(names)
    result = segmenter(pixels, vocabulary, protocol="whole")
    dense = segmenter.embed_image(pixels)
    correlation = np.einsum("hwe,te->thw", dense, segmenter.embed_text(vocabulary))
    logits = segmenter.logits(pixels, vocabulary)
    least, most = float(correlation.min()), float(correlation.max())
    own = [
        ("image", pixels),
        ("dense features", features.as_colors(dense)),
        ("labels", overlays.overlay(pixels, result.labels, result.colors)),
    ]
    rows = []
    for first, name in zip(own, list(result.areas)[:SHOWN], strict=False):
        index = result.index(name)
        cosine = (correlation[index] - least) / max(most - least, 1e-12)
        probability = 1 / (1 + np.exp(-logits[index]))
        rows.append([first, (f"correlation: {name}", _drawn(cosine)), (f"answer: {name}", _drawn(probability))])
    return features.table(rows + [[first] for first in own[len(rows) :]])


def _drawn(values: np.ndarray) -> np.ndarray:
    return legends.heat(values).round().astype(np.uint8)
