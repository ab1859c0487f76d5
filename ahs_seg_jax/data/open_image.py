"""A person's image, in whatever form it comes, as the uint8 RGB array that the program works on.

Files may be anybody's. Only the formats of `images.FORMATS` are decoded, by Pillow; their size is looked at before
anything is decoded, and pixels are converted a strip at a time.
"""

import io
import os
import pathlib
import re
import struct
from typing import IO, TypeAlias

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ahs_seg_jax.data import images
from ahs_seg_jax.storage import paths

MAX_PIXELS = 256 * 10**6
# Who enters `images.FORMATS` into Image.OPEN, in their order; JPEG with previews (MPO) is JPEG.
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin, GifImagePlugin)
NO_IMAGE = f"is not an image that can be read ({', '.join(images.FORMATS)}); save it in one of these formats"
STRIP = 2**20  # pixels that are converted at once
MOST_SCANS = 100  # of a progressive JPEG, each of which costs a pass over all pixels; programs write about 10
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a JPEG: neither a stuffed byte nor a restart
_STILL_IN_SEVERAL_FRAMES = ("MPO", "TIFF")  # a photograph with previews or pages: the first is the image


def open_image(image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB 0..255, uint8 `[H, W, 3]`, as a viewer shows it.

    `image` is a path, the bytes of a file, a Pillow image, or an array: `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or
    `[H, W, 4]` of uint8 or uint16 (its high byte is taken). EXIF orientation is applied, transparent pixels lie on
    white, 16-bit grey keeps its high byte.

    Raises:
      FileNotFoundError, ValueError, TypeError: with the file's name, what is wrong, and what to do about it.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, Image.Image):
        _check_size(*image.size, "the image", max_pixels)
        return _from_upright(ImageOps.exif_transpose(image), "the image")
    if isinstance(image, bytes | bytearray):
        return _decode(io.BytesIO(image), f"these {len(image)} bytes", len(image), max_pixels)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(
            f"an image cannot be a {type(image).__name__}; pass a path, the bytes of a file, a Pillow image or an array"
        )
    path = paths.at_home(image)
    if str(image).startswith(("http://", "https://")):
        raise ValueError(f"{image} is an address; download the image first and pass the file or its bytes")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass one image, or a list of the images in it")
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    with path.open("rb") as file:
        return _decode(file, str(path), path.stat().st_size, max_pixels)


class _Refused(ValueError):
    """What is wrong with an image is said already."""


class TooManyPixels(_Refused):
    """An image that is larger than what is decoded; `width` and `height` in pixels."""

    def __init__(self, text: str, width: int, height: int):
        super().__init__(text)
        self.width, self.height = width, height


def _decode(file: IO[bytes], name: str, size: int, max_pixels: int) -> np.ndarray:
    if not size:
        raise ValueError(f"{name}: the file is empty; copy or download it again")
    try:
        with _identified(file, name, max_pixels) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format not in _STILL_IN_SEVERAL_FRAMES:
                raise _Refused(
                    f"{name} is an animation of {frames} frames; save the frame you mean as an image of its own"
                )
            _check_size(*opened.size, name, max_pixels)
            _check_scans(file, opened, name)
            opened.load()
            _check_size(*opened.size, name, max_pixels)  # a GIF's first frame may be larger than its header says
            ImageOps.exif_transpose(opened, in_place=True)
            return _from_upright(opened, name)
    except (_Refused, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} {NO_IMAGE}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has more pixels than Pillow decodes of its format ({error}); save it as a PNG, or as a tiled TIFF "
            "and segment that with --windows native"
        ) from error
    except Exception as error:  # decoders raise what they like for broken bytes
        cause = str(error) or type(error).__name__
        raise ValueError(f"{name} is damaged or cut off ({cause}); copy or download it again") from error


def _identified(file: IO[bytes], name: str, max_pixels: int) -> ImageFile.ImageFile:
    """The image in an open file, by its content, not decoded yet. Raises UnidentifiedImageError.

    `Image.open` would do the same with a lower limit of pixels, which could only be changed for the whole process.
    """
    head = file.read(32)
    for kind in images.FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(head) is not True:
            continue
        if kind == "WEBP":  # its decoder allocates all pixels when it opens a file
            _check_size(*_webp_size(head), name, max_pixels)
            factory = _WebP
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # as Pillow: this is of another format
            continue
    raise UnidentifiedImageError(name)


class _WebP(WebPImagePlugin.WebPImageFile):
    """Pillow's, whose decoder holds two copies of the image, and the image itself, while a third copy is filled."""

    def load_prepare(self) -> None:
        """As Pillow's, which calls it between decoding and filling: the decoder is not needed any more."""
        self._decoder = None
        super().load_prepare()


def _check_scans(file: IO[bytes], opened: ImageFile.ImageFile, name: str) -> None:
    """Refuses a progressive JPEG of very many scans, whose decoding would take minutes for every megabyte."""
    if opened.format not in ("JPEG", "MPO") or "progression" not in opened.info:
        return
    place = file.tell()
    file.seek(0)
    scans = _scans(file.read())
    file.seek(place)
    if scans > MOST_SCANS:
        raise _Refused(
            f"{name} is a JPEG of {scans} scans, which takes very long to decode; the limit is {MOST_SCANS}: save it "
            "again with another program"
        )


def _scans(data: bytes) -> int:
    """The scans of the first image in a JPEG file, see ITU-T T.81, annex B."""
    place, scans = 2, 0
    while match := _MARKER.search(data, place):
        kind = data[match.end() - 1]
        if kind == 0xD9:  # its end
            break
        scans += kind == 0xDA
        place = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return scans


def _webp_size(head: bytes) -> tuple[int, int]:
    """(w, h) in the first 32 bytes of a WebP file, see RFC 9649."""
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if not width * height:
        raise _Refused(f"{name} has no pixels: its size is {width} x {height}")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"{name} has {width} x {height} = {width * height / 1e6:.0f} megapixels; the limit is "
            f"{max_pixels / 1e6:.0f}: reduce it, or save it as a tiled TIFF and segment that with --windows native, "
            "which reads it piece by piece",
            width,
            height,
        )


def _from_upright(image: Image.Image, name: str) -> np.ndarray:
    """The pixels of an image whose orientation is applied already, converted strip by strip."""
    if image.mode in images.THIRTY_TWO_BIT:
        raise _Refused(f"{name} has 32-bit pixels, whose range is not known; save it with 8 bits a channel")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = images.to_rgb(image.crop((0, top, image.width, bottom)))
    return pixels


def _from_array(image: np.ndarray, max_pixels: int) -> np.ndarray:
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(
            f"the image's numbers are {image.dtype}; pass uint8 (0..255) or uint16 (0..65535), for example "
            "(255 * image).round().astype('uint8') for numbers in 0..1"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise ValueError(
            f"the image has shape {list(image.shape)}; it must be [H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA) with at "
            "least one pixel, the channels last"
        )
    _check_size(image.shape[1], image.shape[0], "the image", max_pixels)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.shape[2] == 4:
        return _from_upright(Image.fromarray(image), "the image")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w) as `open_image` gives it, from the file's header. Raises ValueError or FileNotFoundError."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with path.open("rb") as file, _identified(file, str(path), MAX_PIXELS) as opened:
            small = opened.width * opened.height <= MAX_PIXELS  # Pillow decodes a PNG to look for its orientation
            turned = small and images.orientation(opened) in images.SIDEWAYS
            return opened.size if turned else opened.size[::-1]
    except (_Refused, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} {NO_IMAGE}") from error
    except Exception as error:
        raise ValueError(f"{path} is not an image that can be read ({str(error) or type(error).__name__})") from error
