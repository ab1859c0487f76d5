"""Augmentation of training examples: small pure functions of arrays and drawn numbers.

Images are uint8 RGB `[h, w, 3]`, labels int32 `[h, w]` with -1 where unlabelled. All chance comes from the NumPy
generator that is passed in. Source: CAT-Seg's training recipe (Detectron2's resize, crop, SSD colours, flip).
"""

import numpy as np
from jaxtyping import Int32, Shaped, UInt8
from PIL import Image

from ahs_seg_jax.config import AugmentConfig
from ahs_seg_jax.vocabulary import IGNORE

PAD_VALUE = 128  # of image pixels outside the picture


def augment(
    image: UInt8[np.ndarray, "h w 3"],
    label: Int32[np.ndarray, "h w"],
    crop: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "crop crop 3"], Int32[np.ndarray, "crop crop"]]:
    """The whole augmentation, in the order of the recipe: resize, crop, colours, flip, pad."""
    low, high = config.scale
    short = max(1, round(crop * rng.uniform(low, high))) if low < high else max(1, round(crop * low))
    size = resized_shape(image.shape[:2], short, config.max_edge)
    image, label = resize_image(image, size), resize_label(label, size, config.label_resize)
    image, label = random_crop(image, label, crop, rng)
    if config.color_jitter:
        image = jitter_colors(image, rng)
    if config.flip and rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return pad_to(image, crop, PAD_VALUE), pad_to(label, crop, IGNORE)


def resized_shape(shape: tuple[int, ...], short: int, max_edge: int) -> tuple[int, int]:
    """(h, w) after the shortest edge becomes `short`, or less where the longest would exceed `max_edge`.

    Sides are rounded as `int(x + 0.5)` (parity: Detectron2's ResizeShortestEdge).
    """
    h, w = shape
    scale = short / min(h, w)
    new_h, new_w = (float(short), scale * w) if h < w else (scale * h, float(short))
    longest = max(new_h, new_w)
    if longest > max_edge:
        new_h, new_w = new_h * (max_edge / longest), new_w * (max_edge / longest)
    return max(1, int(new_h + 0.5)), max(1, int(new_w + 0.5))


def resize_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """PIL's bilinear resize of a uint8 image to `size` = (h, w); it averages where it shrinks."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_label(
    label: Int32[np.ndarray, "h w"], size: tuple[int, int], rule: str = "floor"
) -> Int32[np.ndarray, "h2 w2"]:
    """Nearest resize from n to m = `size` (h, w): output i reads pixel floor(i n/m), as the published programs do.

    By the rule "centre" it reads the pixel that holds the point (i + 1/2) n/m, under which the resized image lies.
    """
    if label.shape == size:
        return label
    shift = int(rule == "centre")
    rows, columns = ((2 * np.arange(m) + shift) * n // (2 * m) for n, m in zip(label.shape, size, strict=True))
    return label[rows[:, None], columns[None, :]]


def random_crop(
    image: UInt8[np.ndarray, "h w 3"], label: Int32[np.ndarray, "h w"], crop: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Int32[np.ndarray, "h2 w2"]]:
    """The same random part of both, at most `crop` high and wide; a smaller side stays whole."""
    h, w = label.shape
    y = int(rng.integers(0, max(h - crop, 0) + 1))
    x = int(rng.integers(0, max(w - crop, 0) + 1))
    return image[y : y + crop, x : x + crop], label[y : y + crop, x : x + crop]


def pad_to(array: Shaped[np.ndarray, "h w *c"], crop: int, value: int) -> Shaped[np.ndarray, "crop crop *c"]:
    """`array` extended at the bottom and right to `[crop, crop, ...]` with `value`; contiguous."""
    h, w = array.shape[:2]
    if (h, w) == (crop, crop):
        return np.ascontiguousarray(array)
    padded = np.full((crop, crop, *array.shape[2:]), value, array.dtype)
    padded[:h, :w] = array
    return padded


def jitter_colors(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """SSD's colour jitter: brightness +-32, contrast and saturation x 0.5..1.5, hue +-36 degrees, each with
    probability 1/2; contrast comes before saturation and hue or after them (parity: +-18 in OpenCV's half degrees).
    """
    if rng.random() < 0.5:
        image = adjust_brightness(image, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue_degrees = rng.uniform(-36, 36) if rng.random() < 0.5 else 0.0
    if contrast_first:
        image = adjust_contrast(image, contrast)
    image = adjust_saturation_hue(image, saturation, hue_degrees)
    return image if contrast_first else adjust_contrast(image, contrast)


def adjust_brightness(image: UInt8[np.ndarray, "h w 3"], delta: float) -> UInt8[np.ndarray, "h w 3"]:
    """`image + delta`, clipped to 0..255."""
    return _clip(image.astype(np.float32) + np.float32(delta))


def adjust_contrast(image: UInt8[np.ndarray, "h w 3"], factor: float) -> UInt8[np.ndarray, "h w 3"]:
    """`image * factor`, clipped to 0..255."""
    return image if factor == 1.0 else _clip(image.astype(np.float32) * np.float32(factor))


def adjust_saturation_hue(
    image: UInt8[np.ndarray, "h w 3"], saturation: float, hue_degrees: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Saturation times a factor and hue turned by an angle, in 8-bit HSV."""
    if saturation == 1.0 and hue_degrees == 0.0:
        return image
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    # Pillow's hue has 255 steps: 255 is 0 again.
    hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int32) + round(hue_degrees * 255 / 360)) % 255
    hsv[:, :, 1] = _clip(hsv[:, :, 1].astype(np.float32) * np.float32(saturation))
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
