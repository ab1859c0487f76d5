"""Images and class names in, labels out."""

from ahs_seg_jax.data.open_image import open_image
from ahs_seg_jax.pictures.label_files import read_png
from ahs_seg_jax.segmenter.segmentation import UNKNOWN, Segmentation, calibrate_unknown
from ahs_seg_jax.segmenter.segmenter import Segmenter
from ahs_seg_jax.segmenter.tiff_reading import read_tiff
from ahs_seg_jax.segmenter.words import Background

__all__ = [
    "UNKNOWN",
    "Background",
    "Segmentation",
    "Segmenter",
    "calibrate_unknown",
    "open_image",
    "read_png",
    "read_tiff",
]
