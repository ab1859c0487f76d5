"""Labels as files: index PNGs of 8 or 16 bits, and masks as COCO's run-length codes.

A file of labels stores the index of a class in every pixel. The largest number that a pixel can hold means "no class":
255 with 8 bits, 65535 with 16. On demand the numbers of the classes begin at another `first_index`; then 0 means "no
class". Every writer and reader of the program follows the functions of this module.
"""

import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import IO, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Int32
from PIL import Image, ImageFile, PngImagePlugin
from pycocotools import mask as coco

from ahs_seg_jax.errors import NotAnIndexMask
from ahs_seg_jax.vocabulary import IGNORE

FORMATS = ["PNG"]  # of files of labels
MOST_PIXELS = 2**30  # of a run-length code, whose few letters may claim any number
CLASS_NAMES = "class_names"  # key of the names, a JSON list, in the metadata of a PNG or a TIFF
FIRST_INDEX = "first_index"  # key of the first class's number there, if it is not 0
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16-bit grey
_ONE_NUMBER_A_PIXEL = ("1", "L", "P", *SIXTEEN_BIT)
_FROM_COLOURS = (
    "not class indices; save one 8-bit or 16-bit number a pixel, the line of its class in classes.txt counted from 0 "
    "(from colours: look each colour up in your table, then PIL.Image.fromarray(indices.astype('uint8')).save(...))"
)
_FROM_THE_DOWNLOAD = (
    "not one number each: palette files that some program saved anew lose their indices so; unpack the original again"
)

File: TypeAlias = str | os.PathLike[str] | IO[bytes]


# ------------------------------------------------------------------------------------------------ numbers of a pixel


def bits(classes: int, first_index: int = 0) -> int:
    """Bits of a stored pixel: 8 for fewer than 255 classes from 0, 16 for more."""
    return 8 if classes + first_index < 255 else 16


def no_class(classes: int, first_index: int = 0) -> int:
    """The number that stands for "no class" in a file of labels of this number of classes."""
    return 0 if first_index else 2 ** bits(classes) - 1


def check_first_index(first_index: int, classes: int) -> None:
    """Raises ValueError if 16 bits cannot hold the numbers of the classes from there on, and one for "no class"."""
    if not 0 <= first_index < 2**16 - classes:
        raise ValueError(
            f"the first index is {first_index}; the numbers of {classes} classes must lie within 0..65534, so give 0 "
            f"to {2**16 - 1 - classes}"
        )


def to_numbers(labels: Int[np.ndarray, "h w"], classes: int, first_index: int = 0) -> np.ndarray:
    """The numbers `uint8` or `uint16 [h, w]` that a file stores for class indices, -1 where there is no class."""
    numbers = np.where(labels == IGNORE, 0, labels + first_index) if first_index else labels
    # In a type without a sign, -1 becomes the largest number: exactly the one that means "no class".
    return numbers.astype(np.uint8 if bits(classes, first_index) == 8 else np.uint16)


def to_labels(numbers: np.ndarray, first_index: int = 0) -> Int32[np.ndarray, "h w"]:
    """The class indices that `to_numbers` stored as `uint8` or `uint16`, -1 where there is no class."""
    none = 0 if first_index else np.iinfo(numbers.dtype).max
    return np.where(numbers == none, np.int32(IGNORE), numbers.astype(np.int32) - first_index)


# ------------------------------------------------------------------------------------------------ index PNGs


def write_png(
    file: File,
    labels: Int[np.ndarray, "h w"],
    classes: int,
    *,
    names: Sequence[str] = (),
    colors: np.ndarray | None = None,
    compress_level: int = 6,
    first_index: int = 0,
) -> None:
    """Writes class indices, -1 where there is no class, as an index PNG.

    `names` go into its metadata. `colors`, `uint8 [t, 3]`, become the palette of a file of 8 bits, so that a viewer
    shows them; a file of 16 bits has no palette and is grey. `compress_level` is zlib's. `first_index` is the number of
    the first class; with another than 0, 0 means "no class". Raises ValueError as `check_first_index`, OSError if the
    file cannot be written.
    """
    check_first_index(first_index, classes)
    image = Image.fromarray(to_numbers(labels, classes, first_index))
    if colors is not None and bits(classes, first_index) == 8:
        image.putpalette(np.pad(colors, ((first_index, 256 - len(colors) - first_index), (0, 0))).tobytes())
    about = PngImagePlugin.PngInfo()
    if names:
        about.add_itxt(CLASS_NAMES, json.dumps(list(names), ensure_ascii=False))
    if first_index:
        about.add_text(FIRST_INDEX, str(first_index))
    image.save(file, "PNG", pnginfo=about, compress_level=compress_level)


def read_mask(file: File, classes: int | None = None) -> Int32[np.ndarray, "h w"]:
    """Class indices of an index PNG, -1 where there is no class.

    A palette file gives its indices, never its colours. EXIF orientation of masks is not applied. Raises NotAnIndexMask
    for an image of colours, or where 255 of 8 bits could be one of so many `classes` as well as "no class"; OSError or
    ValueError if the file cannot be decoded.
    """
    with Image.open(file, formats=FORMATS) as opened:
        numbers, packed = _numbers(opened, _FROM_COLOURS)
    if classes is not None and classes > 255 and numbers.dtype == np.uint8 and (numbers == 255).any():
        raise NotAnIndexMask(
            f"its pixels have 8 bits, in which 255 is both unlabelled and one of {classes} classes; save masks of more "
            "than 255 classes with 16 bits, 65535 = unlabelled"
        )
    return numbers.astype(np.int32) if packed else to_labels(numbers)


def mask_size(path: pathlib.Path) -> tuple[int, int]:
    """(h, w) of an index PNG, from its header alone. Raises NotAnIndexMask for an image of colours."""
    with Image.open(path, formats=FORMATS) as opened:
        _require_numbers(opened, _FROM_COLOURS)
        return opened.size[1], opened.size[0]


def read_values(path: pathlib.Path) -> Int[np.ndarray, "h w"]:
    """The numbers `uint8` or `uint16` of a downloaded label, before a data set's own table is applied to them.

    Raises NotAnIndexMask for an image of colours, OSError or ValueError if the file cannot be decoded.
    """
    with Image.open(path, formats=FORMATS) as opened:
        return _numbers(opened, _FROM_THE_DOWNLOAD)[0]


def read_png(path: str | os.PathLike[str]) -> tuple[Int32[np.ndarray, "h w"], tuple[str, ...]]:
    """Labels (-1 = unknown) and names of a file that `Segmentation.save_png` wrote.

    Raises ValueError for another PNG.
    """
    with Image.open(path, formats=FORMATS) as opened:
        about = getattr(opened, "text", {})
        if CLASS_NAMES not in about:
            raise ValueError(f"{path} does not name its classes; it was not written by Segmentation.save_png")
        numbers, _ = _numbers(opened, _FROM_COLOURS)
    try:
        names, first_index = json.loads(about[CLASS_NAMES]), int(about.get(FIRST_INDEX, 0))
    except (ValueError, RecursionError):
        names, first_index = None, 0
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: the names of its classes are no list")
    return to_labels(numbers, first_index), tuple(names)


def _numbers(file: ImageFile.ImageFile, remedy: str) -> tuple[np.ndarray, bool]:
    """The numbers of an opened index image, and whether they are of fewer than 8 bits (then none means "no class")."""
    _require_numbers(file, remedy)
    packed = str(file.tile[0].args) if file.tile else ""  # read before decoding, which empties it
    numbers = np.asarray(file)
    if file.mode == "1":
        return numbers.astype(np.uint8), True
    if packed in ("L;2", "L;4"):  # Pillow stretches 2 and 4 bits of grey to 0..255
        return numbers // np.uint8(255 // (2 ** int(packed[2:]) - 1)), True
    return numbers, False


def _require_numbers(file: Image.Image, remedy: str) -> None:
    if file.mode not in _ONE_NUMBER_A_PIXEL:
        raise NotAnIndexMask(f"its pixels are {file.mode}, {remedy}")


# ------------------------------------------------------------------------------------------------ COCO's masks


def coco_masks(labels: Int[np.ndarray, "h w"]) -> Iterator[tuple[int, Bool[np.ndarray, "h w"], dict[str, Any]]]:
    """For each class present: its index, its mask, and the mask as COCO's compressed run-length code (JSON values)."""
    for index in np.unique(labels[labels != IGNORE]).tolist():
        mask = labels == index
        code = coco.encode(np.asfortranarray(mask, np.uint8))
        yield index, mask, {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


def decode_mask(code: dict[str, Any]) -> Bool[np.ndarray, "h w"]:
    """The mask of a run-length code, whose counts are COCO's compressed text or a list of numbers.

    Raises ValueError if it has another form, or its runs do not cover exactly the pixels of its size.
    """
    height, width, counts = _parts_of_code(code)
    # pycocotools takes any size and reads on behind a text whose last letter announces another one.
    whole_text = isinstance(counts, list) or re.fullmatch("[0-o]*[0-O]", counts)
    code = {"size": [height, width], "counts": counts if whole_text else ""}
    if isinstance(counts, list):
        code = coco.frPyObjects(code, height, width)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # pycocotools with NumPy 2
        try:
            mask = coco.decode(code)
            complete = not _fits(code, height * width - 1)
        except ValueError:
            complete = False
    if not complete:
        raise ValueError(f"a run-length code does not cover its {height} x {width} pixels: it is cut off or damaged")
    return mask == 1


def _parts_of_code(code: Any) -> tuple[int, int, list[int] | str]:
    """Height, width and counts of a run-length code. Raises ValueError if they have not the types of one."""
    size, counts = (code.get(name) for name in ("size", "counts")) if isinstance(code, Mapping) else (None, None)
    counts = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    numbers = [*(size if isinstance(size, list | tuple) else ()), *(counts if isinstance(counts, list) else ())]
    whole = all(isinstance(number, Integral) and 0 <= int(number) <= MOST_PIXELS for number in numbers)
    if not whole or not isinstance(size, list | tuple) or len(size) != 2 or not isinstance(counts, list | str):
        raise ValueError("a run-length code has a size [h, w] and counts, COCO's text or a list of whole numbers")
    height, width = map(int, size)
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"a run-length code of {height} x {width} pixels; it may have 1 to {MOST_PIXELS}")
    return height, width, counts


def _fits(code: dict[str, Any], pixels: int) -> bool:
    """Whether the runs end within this number of pixels: pycocotools refuses runs that are too long only."""
    try:
        coco.decode(code | {"size": [pixels, 1]})
    except ValueError:
        return False
    return True
