"""A person's image, in whatever form it comes, as the uint8 RGB array that the program works on.

Files may be anybody's. Only the formats of `images.FORMATS` are decoded, by Pillow; their size is looked at before
anything is decoded, and pixels are converted a strip at a time.
"""

import dataclasses
import io
import logging
import os
import pathlib
import re
import struct
from collections.abc import Sequence
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

from ahs_seg_jax.data import images, pixel_range
from ahs_seg_jax.storage import paths

logger = logging.getLogger("ahs_seg_jax")
MAX_PIXELS = 256 * 10**6
# Who enters `images.FORMATS` into Image.OPEN, in their order; JPEG with previews (MPO) is JPEG.
_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin, GifImagePlugin)
NO_IMAGE = f"is not an image that can be read ({', '.join(images.FORMATS)}); save it in one of these formats"
STRIP = 2**20  # pixels that are converted at once
SAMPLE = 4 * 10**6  # pixels that tell the range of the values
MOST_SCANS = 100  # of a progressive JPEG, each of which costs a pass over all pixels; programs write about 10
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a JPEG: neither a stuffed byte nor a restart
_STILL_IN_SEVERAL_FRAMES = ("MPO", "TIFF")  # a photograph with previews or pages: the first is the image


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Which channels are shown, counted from 1, and which values become 0 and 255; None where the image tells."""

    bands: tuple[int, ...] | None = None
    rescale: pixel_range.Rescale | None = None

    @property
    def made(self) -> bool:
        return self.bands is not None or self.rescale is not None


def open_image(
    image: ImageLike,
    max_pixels: int = MAX_PIXELS,
    *,
    bands: Sequence[int] | None = None,
    rescale: pixel_range.RangeLike = None,
) -> np.ndarray:
    """RGB 0..255, uint8 `[H, W, 3]`, as a viewer shows it.

    `image` is a path, the bytes of a file, a Pillow image, or an array: `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or
    `[H, W, 4]` of uint8, uint16 (its high byte is taken) or real numbers in 0..1. EXIF orientation is applied,
    transparent pixels lie on white, 16 bits keep their high byte.

    `bands`: the channels that are red, green and blue, counted from 1, such as (3, 2, 1); or one for grey. `rescale`:
    which values become 0 and 255, such as (0, 3000), or "2%,98%" for percentiles of each channel.

    Raises:
      FileNotFoundError, ValueError, TypeError: with the file's name, what is wrong, and what to do about it.
    """
    choice = _Choice(None if bands is None else tuple(bands), pixel_range.Rescale.of(rescale))
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels, choice)
    if isinstance(image, Image.Image):
        check_size(*image.size, "the image", max_pixels)
        deep = images.has_sixteen_bits(image)
        return _from_upright(ImageOps.exif_transpose(image), "the image", deep, choice)
    if isinstance(image, bytes | bytearray):
        return _decode(io.BytesIO(image), f"these {len(image)} bytes", len(image), max_pixels, choice)
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
        return _decode(file, str(path), path.stat().st_size, max_pixels, choice)


class _Refused(ValueError):
    """What is wrong with an image is said already."""


class TooManyPixels(_Refused):
    """An image that is larger than what is decoded; `width` and `height` in pixels."""

    def __init__(self, text: str, width: int, height: int):
        super().__init__(text)
        self.width, self.height = width, height


def _decode(file: IO[bytes], name: str, size: int, max_pixels: int, choice: _Choice) -> np.ndarray:
    if not size:
        raise ValueError(f"{name}: the file is empty; copy or download it again")
    try:
        with _identified(file, name, max_pixels) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format not in _STILL_IN_SEVERAL_FRAMES:
                raise _Refused(
                    f"{name} is an animation of {frames} frames; save the frame you mean as an image of its own"
                )
            check_size(*opened.size, name, max_pixels)
            _check_scans(file, opened, name)
            deep, kind = images.has_sixteen_bits(opened), opened.format
            unnamed = any("RGBX" in str(tile[3]) for tile in opened.tile)  # a fourth band, which Pillow leaves out
            opened.load()
            check_size(*opened.size, name, max_pixels)  # a GIF's first frame may be larger than its header says
            ImageOps.exif_transpose(opened, in_place=True)
            if kind == "TIFF" and not choice.made and (unnamed or not _fourth_is_transparency(opened)):
                raise _Refused(f"{name} {pixel_range.NO_MASK}")
            return _from_upright(opened, name, deep, choice)
    except (_Refused, pixel_range.UnknownRange, MemoryError):
        raise
    except UnidentifiedImageError as error:
        hint = "a TIFF of other bands or numbers is read by segmenter.read_tiff, with the extra geo"
        raise ValueError(f"{name} {NO_IMAGE} ({hint})") from error
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
            check_size(*_webp_size(head), name, max_pixels)
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


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises ValueError if an image of this size has no pixels, or too many."""
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


def _fourth_is_transparency(image: Image.Image) -> bool:
    """Whether what a decoded TIFF has beside red, green and blue, if anything, is a mask: it may be infrared."""
    return image.mode not in ("RGBA", "RGBa") or pixel_range.is_mask(np.asarray(image.getchannel(3)))


def _from_upright(image: Image.Image, name: str, deep: bool = False, choice: _Choice = _Choice()) -> np.ndarray:
    """The pixels of an image whose orientation is applied already, converted strip by strip; `deep`: it had 16 bits."""
    deep_colours = deep and image.mode not in images.SIXTEEN_BIT
    if choice.made and deep_colours:
        raise _Refused(
            f"{name} has colours of 16 bits, of which this format's decoder keeps 8; save it as a TIFF for --bands and "
            "--rescale"
        )
    if choice.made or image.mode in images.THIRTY_TWO_BIT:
        plain = image.convert("RGB") if image.mode in ("P", "1", "CMYK", "YCbCr", "LAB", "HSV") else image
        return _from_array(np.asarray(plain), image.width * image.height, choice, name)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = images.to_rgb(image.crop((0, top, image.width, bottom)))
    if deep or image.mode in images.SIXTEEN_BIT:
        remedy = (
            "save it with 8 bits, or as a TIFF and give --rescale"
            if deep_colours
            else "say which values become black and white, --rescale 0,3000 or --rescale 2%,98% (in Python: "
            "rescale=(0, 3000))"
        )
        pixel_range.check_high_bytes(pixels, name, remedy)
    return pixels


def _from_array(image: np.ndarray, max_pixels: int, choice: _Choice, name: str = "the image") -> np.ndarray:
    if image.dtype.kind not in "uif":
        raise TypeError(f"the image's numbers are {image.dtype}; pass integers, or real numbers in 0..1")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or not image.size or (choice.bands is None and image.shape[2] not in (1, 3, 4)):
        raise _Refused(
            f"{name} has shape {list(image.shape)}; it must be [H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA) with at "
            "least one pixel, the channels last; of other channels name three, as bands=(3, 2, 1)"
        )
    check_size(image.shape[1], image.shape[0], name, max_pixels)
    if choice.bands is not None:
        image = image[..., [_channel(band, image.shape[2], name) for band in choice.bands]]
    if image.shape[2] == 4 and choice.bands is None:
        return _on_white(image, choice, name)
    pixels = _to_bytes(image, choice, name)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _channel(band: int, channels: int, name: str) -> int:
    if not isinstance(band, int) or not 1 <= band <= channels:
        raise _Refused(f"{name} has {channels} channels, and bands names {band!r}; count them from 1")
    return band - 1


def _to_bytes(image: np.ndarray, choice: _Choice, name: str) -> np.ndarray:
    """uint8 `[H, W, c]` of an array of any numbers."""
    values = np.moveaxis(image, -1, 0)
    step = max(1, image.shape[0] * image.shape[1] // SAMPLE)
    ranges = pixel_range.limits(values.reshape(len(values), -1)[:, ::step], choice.rescale, name)
    if choice.rescale is not None:
        said = ", ".join(f"{low:g}..{high:g}" for low, high in ranges)
        logger.info("%s: the values %s of its channels become 0..255", name, said)
    return np.moveaxis(pixel_range.to_bytes(values, ranges), 0, -1)


def _on_white(image: np.ndarray, choice: _Choice, name: str) -> np.ndarray:
    """Red, green, blue and transparency."""
    alpha = image[..., 3]
    if not pixel_range.is_mask(alpha):
        raise _Refused(f"{name} {pixel_range.NO_MASK}")
    most = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
    opacity = pixel_range.to_bytes(alpha[None], ((0.0, float(most)),))[0]
    pixels = np.dstack([_to_bytes(image[..., :3], choice, name), opacity])
    return _from_upright(Image.fromarray(pixels), name)


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
