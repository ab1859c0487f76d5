"""Images and class names in, labels out."""

from ahs_seg_jax.pictures.label_files import read_png
from ahs_seg_jax.segmenter.segmentation import UNKNOWN, Segmentation, calibrate_unknown
from ahs_seg_jax.segmenter.segmenter import Segmenter

__all__ = [
    "UNKNOWN",
    "Segmentation",
    "Segmenter",
    "calibrate_unknown",
    "read_png",
]
