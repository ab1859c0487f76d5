"""What the page shows for an uploaded file and typed words: pictures, a table and a sentence. Nothing of Gradio.

A user's mistake is an answer too: `Answer.failed` with a sentence that says what to change, and no pictures, so that
the page never shows the pictures of other words.
"""

import dataclasses
import io
import logging
import os
import pathlib
import time

import numpy as np
from PIL import Image

from ahs_seg_jax.admission import UPLOADED_AGAIN
from ahs_seg_jax.data.open_image import open_image
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.pictures import legends, overlays, png
from ahs_seg_jax.segmenter import UNKNOWN, Segmentation, Segmenter
from ahs_seg_jax.vocabulary import names_beyond, split_words

logger = logging.getLogger("ahs_seg_jax")
SMALLEST_EDGE, LARGEST_EDGE = 640, 1280  # pixels: pictures are enlarged and reduced until the longer side lies between


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the page accepts."""

    upload_mb: int = 20  # of a file, 2**20 bytes, as browsers count
    megapixels: float = 16
    classes: int = 100


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: a name that occurs in the image."""

    name: str
    color: tuple[int, int, int]
    pixels: int
    share: float  # of the image, 0..1
    confidence: float  # mean over the name's pixels, 0..1


@dataclasses.dataclass(frozen=True)
class Answer:
    """A sentence, and the result if there is one. `absent` are the names that no pixel has."""

    message: str
    result: Segmentation | None = None
    rows: tuple[Row, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the user has something to change."""
        return self.result is None


def answer(
    segmenter: Segmenter,
    path: str | os.PathLike[str] | None,
    words: str,
    least_confidence: float = 0.0,
    limits: Limits = Limits(),
    known_words: frozenset[str] = frozenset(),
    shown_name: str = "",
) -> Answer:
    """Segments the file at `path`, which people know as `shown_name`.

    Pixels whose probability is below `least_confidence` (0..1) stay unnamed. Names with a word outside `known_words`,
    unless that is empty, are pointed out: a small model's answer to them means nothing.
    """
    if path is None:
        return Answer("Upload an image, or pick an example.")
    path = pathlib.Path(path)
    try:
        names = _checked_names(words, limits)
        image = _checked_image(path, limits)
        known_image = segmenter.remembers(image)
        started = time.monotonic()
        result = segmenter(image, names, unknown=least_confidence or "none")
        seconds = time.monotonic() - started
    except FileNotFoundError:  # removed since the request was admitted
        return Answer(UPLOADED_AGAIN)
    except (ValueError, TypeError, CheckpointError) as error:
        return Answer(str(error).replace(str(path), shown_name or "the file"))
    except Exception as error:  # out of memory, a full disk: its text may name anything on this machine
        logger.error("an image could not be segmented: %r", error)
        return Answer(f"This image could not be segmented ({type(error).__name__}); the page's log says more.")
    rows = _rows(result)
    absent = tuple(name for name in result.names if name not in result.areas)
    return Answer(_told(result, seconds, known_image, known_words), result, rows, absent)


def _checked_names(words: str, limits: Limits) -> list[str]:
    names = split_words(words)
    if not names:
        raise ValueError("Type at least one name: what should be found in the image?")
    if len(names) > limits.classes:
        raise ValueError(
            f"These are {len(names)} names; this page takes {limits.classes}. Remove some, or use `ahs-seg segment`, "
            "which takes any number."
        )
    return names


def _checked_image(path: pathlib.Path, limits: Limits) -> np.ndarray:
    size = path.stat().st_size
    if size > limits.upload_mb * 2**20:
        raise ValueError(
            f"{path} has {size / 2**20:.1f} MB; this page takes {limits.upload_mb}. "
            "Reduce it, or use `ahs-seg segment`."
        )
    return open_image(path, int(limits.megapixels * 10**6))


def _told(result: Segmentation, seconds: float, known_image: bool, known_words: frozenset[str]) -> str:
    height, width = result.labels.shape
    names = f"{len(result.names)} name{'s' if len(result.names) > 1 else ''}"
    encoded = "the image's features were kept" if known_image else "the image was encoded"
    told = f"{width} x {height} pixels, {names}, {seconds:.2f} s: {encoded} and compared with the words."
    strange = names_beyond(result.names, known_words) if known_words else []
    if strange:
        verb = "was" if len(strange) == 1 else "were"
        told += (
            f" Not in this small model's words, so their areas mean nothing: {', '.join(strange)} {verb} never trained."
        )
    return told


def _rows(result: Segmentation) -> tuple[Row, ...]:
    rows = []
    for name, pixels in result.areas.items():
        unknown = name == UNKNOWN and name not in result.names
        mask = result.labels < 0 if unknown else result.mask(name)
        color = (0, 0, 0) if unknown else tuple(result.colors[result.index(name)].tolist())
        rows.append(Row(name, color, pixels, pixels / mask.size, float(result.confidence[mask].mean())))
    return tuple(rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What a visitor's overlay is drawn from again: a result at a size for a screen, as files of PNG.

    At most 1.6 megapixels, so some megabytes; the result itself has 11 bytes for each pixel of the image.
    """

    image: bytes
    labels: bytes  # 16 bits, index + 1; 0 is unnamed
    colors: np.ndarray  # uint8 [t, 3]

    @classmethod
    def of(cls, result: Segmentation) -> "Kept":
        """Of a result with fewer than 65,535 names."""
        size = _screen_size(*result.labels.shape)
        image = _resized(result.image, size, Image.Resampling.LANCZOS)
        labels = _resized(result.labels, size, Image.Resampling.NEAREST)
        return cls(png.encode(image), png.encode((labels + 1).astype(np.uint16)), result.colors)

    def overlay(self, alpha: float) -> np.ndarray:
        """The labels over the image, `alpha` in 0..1 the colours' share."""
        image, labels = (
            np.asarray(Image.open(io.BytesIO(data), formats=["PNG"])) for data in (self.image, self.labels)
        )
        return overlays.overlay(image, labels.astype(np.int32) - 1, self.colors, alpha)


def confidence(result: Segmentation) -> np.ndarray:
    """The probability of each pixel's name, with its scale, at a size for a screen."""
    size = _screen_size(*result.labels.shape)
    image = _resized(result.image, size, Image.Resampling.LANCZOS)
    return legends.heat_map(image, _resized(result.confidence, size, Image.Resampling.BILINEAR), "confidence", 0.85)


def _screen_size(height: int, width: int) -> tuple[int, int]:
    longest = max(height, width)
    scale = min(max(longest, SMALLEST_EDGE), LARGEST_EDGE) / longest
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(array: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size[::-1], method))
