"""A person's image, in whatever form it comes, as the uint8 RGB array that the program works on."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ahs_seg_jax.data import images

MAX_PIXELS = 256 * 10**6
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

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
        return _from_pillow(image)
    if isinstance(image, bytes | bytearray):
        return _decode(io.BytesIO(image), f"these {len(image)} bytes", len(image), max_pixels)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(
            f"an image cannot be a {type(image).__name__}; pass a path, the bytes of a file, a Pillow image or an array"
        )
    path = pathlib.Path(image).expanduser()
    if str(image).startswith(("http://", "https://")):
        raise ValueError(f"{image} is an address; download the image first and pass the file or its bytes")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass one image, or a list of the images in it")
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    with path.open("rb") as file:
        return _decode(file, str(path), path.stat().st_size, max_pixels)


def _decode(file: IO[bytes], name: str, size: int, max_pixels: int) -> np.ndarray:
    if not size:
        raise ValueError(f"{name}: the file is empty; copy or download it again")
    try:
        with _any_size(), Image.open(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format not in _STILL_IN_SEVERAL_FRAMES:
                raise ValueError(
                    f"{name} is an animation of {frames} frames; save the frame you mean as an image of its own"
                )
            _check_size(*opened.size, name, max_pixels)
            opened.load()
            return _from_pillow(opened, name)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read (JPEG, PNG, WebP, TIFF, BMP, GIF, ...)") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name} is damaged or cut off ({error}); copy or download it again") from error


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Pillow's own limit is off: ours is checked before anything is decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if not width * height:
        raise ValueError(f"{name} has no pixels: its size is {width} x {height}")
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width} x {height} = {width * height / 1e6:.0f} megapixels; the limit is "
            f"{max_pixels / 1e6:.0f}: reduce it, or save it as a tiled TIFF and segment that with --windows native, "
            "which reads it piece by piece"
        )


def _from_pillow(image: Image.Image, name: str = "the image") -> np.ndarray:
    if image.mode in images.THIRTY_TWO_BIT:
        raise ValueError(f"{name} has 32-bit pixels, whose range is not known; save it with 8 bits a channel")
    return images.to_rgb(ImageOps.exif_transpose(image))


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
        return _from_pillow(Image.fromarray(image))
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(h, w) as `open_image` gives it, from the file's header. Raises ValueError or FileNotFoundError."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with _any_size():
            return images.image_size(path)
    except OSError as error:
        raise ValueError(f"{path} is not an image that can be read ({error})") from error
