"""Decoding of image files, whatever their mode, to RGB."""

import pathlib
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ahs_seg_jax.data import pixel_range
from ahs_seg_jax.pictures.label_files import SIXTEEN_BIT

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # whatever a file is called; Pillow knows more
MOST_PIXELS = 128 * 10**6  # of an image of a data set: decoding takes up to 15 bytes a pixel
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png"})
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
THIRTY_TWO_BIT = ("I", "F")  # modes of Pillow whose range of values is not defined
_ORIENTATION = 0x0112  # the tag


def read_image(path: pathlib.Path | IO[bytes]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB 0..255 as a viewer shows the file.

    EXIF orientation is applied; grey and palette images become RGB; CMYK is converted; transparent pixels lie on white;
    16 bits keep their high byte. Raises OSError or ValueError if the file cannot be decoded, or if an image of 16 bits
    uses less than an eighth of the range.
    """
    with Image.open(path, formats=FORMATS) as file:
        if file.width * file.height > MOST_PIXELS:
            raise ValueError(
                f"it has {file.width} x {file.height} pixels; images of a data set may have {MOST_PIXELS / 1e6:.0f} "
                "megapixels: reduce it, or cut it into parts"
            )
        return rgb_pixels(file)


def rgb_pixels(file: Image.Image, turn: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """As `read_image`, of an opened file; without `turn`, its pixels as they are stored, whatever EXIF says."""
    deep = has_sixteen_bits(file)
    file.load()
    if file.mode in THIRTY_TWO_BIT:
        raise ValueError("32-bit pixels have no defined range; save the image with 8 bits a channel")
    pixels = to_rgb(ImageOps.exif_transpose(file) if turn else file)
    if deep:
        pixel_range.check_high_bytes(pixels, "the image", "save it with 8 bits and the contrast that it should have")
    return pixels


def has_sixteen_bits(file: Image.Image) -> bool:
    """Whether an opened file that is not decoded yet has 16 bits a channel. Pillow keeps the high byte of colours."""
    tiles = getattr(file, "tile", None) or []
    return file.mode in SIXTEEN_BIT or any(";16" in str(tile[3]) for tile in tiles)


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """RGB 0..255 of an image of any mode but `THIRTY_TWO_BIT`; see `read_image`. EXIF is not looked at."""
    if image.mode in SIXTEEN_BIT:
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image.convert("RGB"))


def orientation(file: Image.Image) -> int:
    """EXIF orientation of an opened file: 1 upright, 2..8 turned or mirrored (5..8 swap width and height)."""
    found = file.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """(h, w) of an image after EXIF orientation, from its header alone."""
    with Image.open(path, formats=FORMATS) as file:
        w, h = file.size
        return (w, h) if orientation(file) in SIDEWAYS else (h, w)
