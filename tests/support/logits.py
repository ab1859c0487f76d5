"""Logits of views, from arrays to what the passes give, and back."""

import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.models import aggregator


def every_logit(logits: ViewLogits) -> np.ndarray:
    """Logits `[v, t, g, g]` of all classes, on the host."""
    return np.asarray(logits.of(np.arange(logits.places.shape[1])))


def stored(logits: np.ndarray) -> ViewLogits:
    """Logits `[v, t, g, g]` as the passes give them: a class whose logits are -100 is absent."""
    views, classes = logits.shape[:2]
    kept = (logits != aggregator.DROPPED_LOGIT).all(axis=(2, 3))
    places = np.where(kept, np.arange(classes), classes).astype(np.int32)
    return ViewLogits(jnp.asarray(logits), np.arange(views, dtype=np.int32), places)
