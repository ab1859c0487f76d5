"""Any folder of images and index masks as a data set, checked before the first step.

classes.txt                      one class name a line; line k (from 0) is index k of the masks
images/{train,val}/**.jpg        or png, bmp, webp, tif
annotations/{train,val}/**.png   the same names; one number a pixel; 255 (8 bits) or 65535 (16 bits) = unlabelled
"""

import concurrent.futures
import functools
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax import threads
from ahs_seg_jax.data import images
from ahs_seg_jax.errors import CorruptExample, NotAnIndexMask
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.progress import Progress
from ahs_seg_jax.storage.paths import on_disk
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary

SPLITS = ("train", "val")
CHECKS = ("sample", "full")
SAMPLE = 2000  # files of a split that check="sample" decodes
ENDS, END_BYTES = 10_000, 64  # pairs of files whose ends tell one data set from another, and the bytes of each end
log = logging.getLogger(__name__)


class DataProblems(ValueError):
    """A data set that cannot be used. `problems` lists every reason, one sentence each."""

    def __init__(self, root: pathlib.Path, problems: Sequence[str]):
        self.problems = tuple(problems)
        lines = [f"the data in {root} have {len(problems)} problem(s):", *(f"  - {p}" for p in problems)]
        super().__init__("\n".join(lines))


class FolderSource:
    """One split of such a folder as a `source.Source`. Images of any size; EXIF orientation is applied to images.

    The class names are those of classes.txt, or of `vocabulary` where the folder has no such file. Raises DataProblems,
    listing all of them, if the folder lacks a part or a file its partner. Files are decoded only when they are read;
    `open_folder` looks inside them first.
    """

    def __init__(self, root: str | os.PathLike[str], split: str, vocabulary: Vocabulary | None = None):
        self.root = pathlib.Path(root)
        self.split = split
        self._pairs, problems = _pairs(self.root, split)
        if vocabulary is None:
            vocabulary, found = _vocabulary(self.root)
            problems = [*found, *problems]
        if problems or vocabulary is None:
            raise DataProblems(self.root, problems)
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image_path, mask_path = (self.root / path for path in self._pairs[index])
        image = read_or_corrupt(images.read_image, image_path)
        label = self._read_label(mask_path)
        if image.shape[:2] != label.shape:
            raise CorruptExample(_size_problem(image_path, image.shape[:2], mask_path, label.shape))
        if outside := _outside(label, len(self.vocabulary)):
            raise CorruptExample(f"{mask_path}: {outside}")
        return {"image": image, "label": label}

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        return read_or_corrupt(lambda file: label_files.read_mask(file, len(self.vocabulary)), path)

    def name(self, index: int) -> str:
        """The image's path below the root."""
        return self._pairs[index][0]

    def fingerprint(self) -> dict[str, Any]:
        """Split, number of files, hashes of their names and sizes, of a sample of contents, and of the vocabulary."""
        digest = hashlib.sha256()
        for pair in self._pairs:
            for path in pair:
                digest.update(f"{path}\t{(self.root / path).stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return {
            "source": "folder",
            "split": self.split,
            "images": len(self),
            "files_sha256": digest.hexdigest(),
            "contents_sha256": self._contents_sha256,
            "vocabulary_sha256": self.vocabulary.sha256,
        }

    @functools.cached_property
    def _contents_sha256(self) -> str:
        """Of the ends of at most ENDS pairs, evenly spaced: a PNG ends with the checksums of all its pixels.

        Labels that others of equal size have replaced are noticed so, at the cost of opening a file.
        """
        digest, n = hashlib.sha256(), len(self._pairs)
        for pair in self._pairs if n <= ENDS else (self._pairs[i * n // ENDS] for i in range(ENDS)):
            for path in pair:
                with (self.root / path).open("rb") as file:
                    file.seek(-min(END_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
                    digest.update(file.read())
        return digest.hexdigest()


def open_folder(root: str | os.PathLike[str], split: str) -> FolderSource:
    """A checked split of the folder. Opening "train" checks "val" as well: a run needs both.

    Raises DataProblems with every problem of what was checked.
    """
    if not str(root):
        raise ValueError("data.root is empty; name the folder that holds classes.txt, images/ and annotations/")
    on_disk(root, "data.root")
    check_folder(root, SPLITS if split == "train" else (split,))
    return FolderSource(root, split)


def check_folder(root: str | os.PathLike[str], splits: Sequence[str] = SPLITS, check: str = "sample") -> None:
    """Looks for everything that would stop a run, and raises one DataProblems with all of it.

    Missing directories, images without masks and the reverse, sizes that differ, unreadable files, masks of colours,
    values outside the vocabulary. Sizes are compared for every pair; check "sample" decodes at most 2,000 pairs of a
    split, evenly spaced, "full" all of them. A long check reports its progress to the log.
    """
    if check not in CHECKS:
        raise ValueError(f"check is {check!r}; choose one of {', '.join(CHECKS)}")
    base = pathlib.Path(root)
    if not base.is_dir():
        raise DataProblems(base, [f"there is no folder {base}"])
    vocabulary, problems = _vocabulary(base)
    problems += split_problems(base, splits, None if vocabulary is None else len(vocabulary), check)
    if problems:
        raise DataProblems(base, problems)


def split_problems(root: pathlib.Path, splits: Sequence[str], classes: int | None, check: str) -> list[str]:
    """What is wrong with the files of the splits, see `check_folder`. Without `classes`, any value will do."""
    problems = []
    for split in splits:
        pairs, found = _pairs(root, split)
        problems += [*found, *_file_problems(root, pairs, classes, check)]
    return problems


def _vocabulary(root: pathlib.Path) -> tuple[Vocabulary | None, list[str]]:
    try:
        return Vocabulary.from_file(root / "classes.txt"), []
    except (FileNotFoundError, ValueError) as error:
        return None, [str(error)]


def _pairs(root: pathlib.Path, split: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(image, mask) of a split, paths below the root in sorted order; and what is wrong with the set of files."""
    folders = [root / kind / split for kind in ("images", "annotations")]
    problems = [_missing_folder(root, folder) for folder in folders if not folder.is_dir()]
    if problems:
        return [], problems
    found, masks = _by_stem(folders[0], images.IMAGE_SUFFIXES), _by_stem(folders[1], images.MASK_SUFFIXES)
    if not found:
        suffixes = " ".join(sorted(images.IMAGE_SUFFIXES))
        problems.append(f"{folders[0]} holds no images (looked for {suffixes})")
    for folder, files in ((folders[0], found), (folders[1], masks)):
        twins = (paths for paths in files.values() if len(paths) > 1)
        problems += [f"{folder} holds several files of one name: {', '.join(map(str, paths))}" for paths in twins]
    for stem in sorted(found.keys() - masks.keys()):
        problems.append(f"{found[stem][0]} has no mask; it should be {folders[1] / stem}.png")
    for stem in sorted(masks.keys() - found.keys()):
        problems.append(f"{masks[stem][0]} has no image; it should be {folders[0] / stem}.jpg (or another image type)")
    both = sorted(found.keys() & masks.keys())
    return [(_below(root, found[stem][0]), _below(root, masks[stem][0])) for stem in both], problems


def _below(root: pathlib.Path, path: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()


def _missing_folder(root: pathlib.Path, folder: pathlib.Path) -> str:
    parent = folder.parent if folder.parent.is_dir() else root
    if not parent.is_dir():
        return f"there is no folder {folder}"
    present = ", ".join(sorted(p.name + "/" * p.is_dir() for p in parent.iterdir())[:8]) or "nothing"
    return f"there is no folder {folder}; {parent} holds {present}"


def _by_stem(folder: pathlib.Path, suffixes: frozenset[str]) -> dict[str, list[pathlib.Path]]:
    files: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _file_problems(root: pathlib.Path, pairs: Sequence[tuple[str, str]], classes: int | None, check: str) -> list[str]:
    """Problems inside the files, in the order of the pairs."""
    n = len(pairs)
    decoded = set(range(n)) if check == "full" or n <= SAMPLE else {i * n // SAMPLE for i in range(SAMPLE)}
    if len(decoded) < n:
        log.info("decoding %d of %d pairs in %s; the sizes of all are compared", len(decoded), n, root)

    def check_pair(index: int) -> list[str]:
        image, mask = (root / path for path in pairs[index])
        return _pair_problems(image, mask, classes, decode=index in decoded)

    problems: list[str] = []
    progress = Progress(n, log.info, "checked", "pairs")
    with concurrent.futures.ThreadPoolExecutor(threads.cores()) as pool:
        for done, found in enumerate(pool.map(check_pair, range(n)), 1):
            problems += found
            progress.show(done, f" in {root}, {len(problems)} problem(s) so far")
    return problems


def _pair_problems(image: pathlib.Path, mask: pathlib.Path, classes: int | None, decode: bool) -> list[str]:
    problems: list[str] = []

    def attempt(read: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
        try:
            return read_or_corrupt(read, path)
        except CorruptExample as error:
            problems.append(str(error))
            return None

    size, mask_size = attempt(images.image_size, image), attempt(label_files.mask_size, mask)
    if decode and size is not None:
        attempt(images.read_image, image)
    if decode and mask_size is not None:
        label = attempt(lambda file: label_files.read_mask(file, classes), mask)
        if label is not None and (outside := _outside(label, classes)):
            problems.append(f"{mask}: {outside}")
    if size and mask_size and size != mask_size:
        problems.append(_size_problem(image, size, mask, mask_size))
    return problems


def read_or_corrupt(read: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
    """`read(path)`; whatever keeps the file from being read is raised as CorruptExample, which names it."""
    try:
        return read(path)
    except NotAnIndexMask as error:
        raise CorruptExample(f"{path} is no index mask: {error}") from error
    # Decoders raise what they like for broken bytes (struct.error, SyntaxError, zlib.error, ...).
    except Exception as error:
        raise CorruptExample(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _size_problem(image: pathlib.Path, size: tuple[int, ...], mask: pathlib.Path, mask_size: tuple[int, ...]) -> str:
    (h, w), (mask_h, mask_w) = size, mask_size
    hint = " (the image is turned by its EXIF orientation; masks are not)" if (h, w) == (mask_w, mask_h) else ""
    return f"sizes differ: {image} is {w}x{h}, {mask} is {mask_w}x{mask_h}{hint}"


def _outside(label: np.ndarray, classes: int | None) -> str:
    """What to say about values that are no class index, or ""."""
    if classes is None or not label.size or (label.max() < classes and label.min() >= IGNORE):
        return ""
    values = np.unique(label)
    values = values[(values >= classes) | (values < IGNORE)]
    listed = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return (
        f"values {listed} are no class; classes.txt has {classes} names, indices 0..{classes - 1} "
        "(unlabelled: 255, or 65535 of 16 bits)"
    )
