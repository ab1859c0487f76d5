"""Open-vocabulary semantic segmentation in JAX: AHS-Seg on TPU, GPU and CPU."""

import importlib
import typing

from ahs_seg_jax.versions import __version__

if typing.TYPE_CHECKING:
    from ahs_seg_jax.inference.native_windows import NativeWindows
    from ahs_seg_jax.models.training_free import TrainingFree
    from ahs_seg_jax.segmenter import Background, Segmenter
    from ahs_seg_jax.segmenter.clip import CLIP
    from ahs_seg_jax.vocabulary import Vocabulary

__all__ = ["CLIP", "Background", "NativeWindows", "Segmenter", "TrainingFree", "Vocabulary", "__version__"]

_HOMES = {
    "CLIP": "ahs_seg_jax.segmenter.clip",
    "Background": "ahs_seg_jax.segmenter",
    "NativeWindows": "ahs_seg_jax.inference.native_windows",
    "Segmenter": "ahs_seg_jax.segmenter",
    "TrainingFree": "ahs_seg_jax.models.training_free",
    "Vocabulary": "ahs_seg_jax.vocabulary",
}


def __getattr__(name: str) -> typing.Any:
    """The public names, imported when they are first asked for: JAX and Flax take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
