"""Decoding of image and mask files, whatever their mode, to the program's two kinds of array."""

import pathlib
from typing import IO

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageFile, ImageOps

from ahs_seg_jax.errors import NotAnIndexMask
from ahs_seg_jax.vocabulary import IGNORE

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png"})
IGNORED_VALUE = {8: 255, 16: 65535}  # unlabelled, by the bits of the mask
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112  # the tag
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
_MASK_MODES = ("1", "L", "P", *_SIXTEEN_BIT)


def read_image(path: pathlib.Path | IO[bytes]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB 0..255 as a viewer shows the file.

    EXIF orientation is applied; grey and palette images become RGB; CMYK is converted; transparent pixels lie on white;
    16-bit grey keeps its high byte. Raises OSError or ValueError if the file cannot be decoded.
    """
    with Image.open(path) as file:
        return rgb_pixels(file)


def rgb_pixels(file: Image.Image, turn: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """As `read_image`, of an opened file; without `turn`, its pixels as they are stored, whatever EXIF says."""
    file.load()
    image = ImageOps.exif_transpose(file) if turn else file
    if image.mode in _SIXTEEN_BIT:
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined range; save the image with 8 bits a channel")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def orientation(file: Image.Image) -> int:
    """EXIF orientation of an opened file: 1 upright, 2..8 turned or mirrored (5..8 swap width and height)."""
    found = file.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def read_mask(path: pathlib.Path | IO[bytes]) -> Int32[np.ndarray, "h w"]:
    """Class indices of a PNG index mask; unlabelled pixels (255 of 8 bits, 65535 of 16) become -1.

    Palette files give their indices, never their colours. EXIF orientation of masks is not applied. Raises
    NotAnIndexMask for colours, OSError or ValueError if the file cannot be decoded.
    """
    with Image.open(path) as file:
        _require_indices(file)
        bits = _grey_bits(file)
        label = np.asarray(file).astype(np.int32)
    if bits in IGNORED_VALUE:
        label[label == IGNORED_VALUE[bits]] = IGNORE
    else:
        label //= 255 // (2**bits - 1)  # Pillow stretches 2 and 4 bits of grey to 0..255
    return label


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """(h, w) of an image after EXIF orientation, from its header alone."""
    with Image.open(path) as file:
        w, h = file.size
        return (w, h) if orientation(file) in SIDEWAYS else (h, w)


def mask_size(path: pathlib.Path) -> tuple[int, int]:
    """(h, w) of a mask, from its header alone. Raises NotAnIndexMask for colours."""
    with Image.open(path) as file:
        _require_indices(file)
        return file.size[1], file.size[0]


def _require_indices(file: Image.Image) -> None:
    if file.mode not in _MASK_MODES:
        raise NotAnIndexMask(
            f"its pixels are {file.mode}, not class indices; save one 8-bit or 16-bit number a pixel, the line of its "
            "class in classes.txt counted from 0 (from colours: look each colour up in your table, then "
            "PIL.Image.fromarray(indices.astype('uint8')).save(...))"
        )


def _grey_bits(file: ImageFile.ImageFile) -> int:
    """Bits of a stored pixel whose value means something: 16, 8, or 2 and 4 of packed grey."""
    if file.mode in _SIXTEEN_BIT:
        return 16
    packed = str(file.tile[0].args) if file.tile else ""
    return int(packed[2:]) if packed in ("L;2", "L;4") else 8
