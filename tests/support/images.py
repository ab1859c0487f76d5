"""Images that are made up, and maps of logits brought to the size of an image."""

import numpy as np
from PIL import Image

from ahs_seg_jax.inference import views
from ahs_seg_jax.models.ops import resize


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image `[height, width, 3]` of random colours, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def resized(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities `[t, H, W]` in float64 of logits `[t, h, w]` that are interpolated first."""
    taps = [views.bilinear_taps(side, extent) for side, extent in zip(logits.shape[1:], size, strict=True)]
    return 1 / (1 + np.exp(-np.asarray(resize.interpolated(logits, *taps), np.float64)))
