"""One prepared example: the photograph's bytes, its labels as plain PNG bytes, and what was seen on the way."""

import collections
import dataclasses
import io

import numpy as np
from PIL import Image

from ahs_seg_jax.data import images
from ahs_seg_jax.data.benchmarks.benchmark import Benchmark, Pair
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.pictures import label_files

PNG_LEVEL = 3  # of zlib: half the time of the default, files a little larger


@dataclasses.dataclass(frozen=True)
class Example:
    """`image` JPEG or PNG bytes of RGB; `label` PNG bytes of class indices, 8 or 16 bits, the largest value unlabelled.

    `values` counts the pixels of each value of the label as downloaded, `classes` those of each class (int64 `[t]`);
    `strange` lists the values that the data set never uses.
    """

    name: str
    image: bytes
    label: bytes
    values: collections.Counter[int]
    classes: np.ndarray
    pixels: int
    strange: tuple[int, ...]


def make_example(benchmark: Benchmark, pair: Pair) -> Example:
    """Reads, maps and encodes a pair. Raises CorruptExample that names the file and the cause."""
    try:
        values = benchmark.read_values(pair.label)
    # Decoders raise what they like for broken bytes (struct.error, SyntaxError, zlib.error, ...).
    except Exception as error:
        where = f"the label of {pair.image}" if isinstance(pair.label, tuple) else pair.label
        raise CorruptExample(f"{where} cannot be read: {type(error).__name__}: {error}") from error
    try:
        photograph = _photograph(pair, values.shape, benchmark)
    except CorruptExample:
        raise
    except Exception as error:
        raise CorruptExample(f"{pair.image} cannot be read: {type(error).__name__}: {error}") from error
    counts = np.bincount(values.ravel())
    present = np.flatnonzero(counts)
    label = reduce_label(benchmark.classes_of(values), resized(values.shape, benchmark.short_edge))
    if label.shape == values.shape:  # the pixels of a class are those of its value, counted already
        occurring = benchmark.classes_of(present)
        of_class = np.zeros(benchmark.classes, np.int64)
        of_class[occurring[occurring >= 0]] = counts[present[occurring >= 0]]
    else:
        of_class = np.bincount(label[label >= 0], minlength=benchmark.classes)
    return Example(
        name=pair.name,
        image=photograph,
        label=encode_label(label, benchmark.classes),
        values=collections.Counter({int(value): int(counts[value]) for value in present}),
        classes=of_class,
        pixels=label.size,
        strange=tuple(int(value) for value in benchmark.strange(present)),
    )


def encode_label(label: np.ndarray, classes: int) -> bytes:
    """Class indices int `[h, w]`, -1 unlabelled, as the bytes of an index PNG (`label_files.write_png`)."""
    buffer = io.BytesIO()
    label_files.write_png(buffer, label, classes, compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _photograph(pair: Pair, label_size: tuple[int, ...], benchmark: Benchmark) -> bytes:
    """The file itself if it is a plain RGB JPEG or PNG, as most are, otherwise its RGB pixels as PNG: both exact.

    A benchmark with a `jpeg_quality` has all of them written again.
    """
    content = pair.image.read_bytes()
    with Image.open(io.BytesIO(content), formats=images.FORMATS) as file:
        file.load()  # a truncated file is found here, not in the middle of a run
        turn = _turned(pair, file, label_size)
        plain = file.format in ("JPEG", "PNG") and file.mode == "RGB" and "transparency" not in file.info
        plain = plain and images.orientation(file) == 1
        target = resized(label_size, benchmark.short_edge)
        if plain and target == label_size and benchmark.jpeg_quality is None:
            return content
        rgb = images.rgb_pixels(file, turn=turn)
    if benchmark.jpeg_quality is not None:
        return written_again(rgb, target, benchmark.jpeg_quality)
    pixels = Image.fromarray(rgb)
    if target != label_size:
        pixels = reduce_image(pixels, target)
    return _png(pixels)


def written_again(pixels: np.ndarray, size: tuple[int, ...], quality: int) -> bytes:
    """JPEG bytes of RGB pixels uint8 `[H, W, 3]`, as the published preparation of ADE20K's 847 classes makes them.

    Resized to (h, w) as OpenCV resizes 8-bit images, then saved by Pillow with its defaults. Parity: MaskFormer's
    `prepare_ade20k_full_sem_seg.py`; the bytes depend on Pillow's JPEG library in their last digits.
    """
    from ahs_seg_jax.inference.views import resized_8_bit  # here, because it imports JAX

    if pixels.shape[:2] != size:
        pixels = resized_8_bit(pixels, (size[0], size[1]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _turned(pair: Pair, file: Image.Image, label_size: tuple[int, ...]) -> bool:
    """Whether the photograph's EXIF orientation applies: not where the labels cover the pixels as they are stored."""
    stored = (file.size[1], file.size[0])
    viewed = stored[::-1] if images.orientation(file) in images.SIDEWAYS else stored
    if label_size == viewed:
        return True
    if label_size == stored:
        return False
    (h, w), (label_h, label_w) = viewed, label_size
    raise CorruptExample(f"sizes differ: {pair.image} is {w}x{h}, its label {label_w}x{label_h}")


def resized(size: tuple[int, ...], short_edge: int | None) -> tuple[int, ...]:
    """(h, w) with the shortest edge reduced to `short_edge` if it is longer, and the other one rounded to match."""
    h, w = size
    if short_edge is None or min(h, w) <= short_edge:
        return size
    return (short_edge, round(w / h * short_edge)) if h <= w else (round(h / w * short_edge), short_edge)


def reduce_image(image: Image.Image, size: tuple[int, ...]) -> Image.Image:
    """Bilinear between the four nearest pixels, without anti-aliasing, to (h, w); parity: the published protocol."""
    h, w = size
    steps = (image.width / w, 0.0, 0.0, 0.0, image.height / h, 0.0)
    return image.transform((w, h), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)


def reduce_label(label: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The pixel at floor(position x scale), to (h, w); parity: the published protocol, and PyTorch's "nearest"."""
    if size == label.shape:
        return label
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
    return label[rows[:, None], columns]


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
