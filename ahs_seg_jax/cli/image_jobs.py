"""The images that a command was given: files, folders and patterns, each with the name of its results."""

import dataclasses
import glob
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax.data.images import IMAGE_SUFFIXES
from ahs_seg_jax.segmenter import tiff_reading
from ahs_seg_jax.storage import paths

BUCKETS = ("gs", "s3")  # kinds that images are read from and results are written to


@dataclasses.dataclass(frozen=True)
class Job:
    """An image and the name of its results, without suffix, relative to the folders of results."""

    path: Any  # as `paths.location` has it: on a disk, or in a bucket
    name: pathlib.PurePath
    version: tuple[Any, ...] = ()  # of an object in a bucket

    @property
    def file_name(self) -> str:
        """What annotations call the image: its path below the folder that was given."""
        return pathlib.PurePath(f"{self.name}{self.path.suffix}").as_posix()

    def fingerprint(self) -> list[Any]:
        """Size and time of change of the file: another file of the same name is segmented again."""
        if self.version:
            return list(self.version)
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]

    def image(self) -> Any:
        """As `open_image` takes it: the path of a file, the bytes of an object."""
        return self.path.read_bytes() if paths.is_remote(self.path) else self.path


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` parts of the images, each of which another process segments; `number` counts from 1.

    Which part an image is in depends on the name of its results alone.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `k/n`. Raises ValueError for anything else."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--shard is {text!r}; give k/n, the part and the number of parts, such as 1/8 to 8/8")
        return cls(int(found[1]), int(found[2]))

    def holds(self, name: str) -> bool:
        """Whether the image whose results have this name is in this part."""
        return number_of(name, self.count) == self.number

    @property
    def mark(self) -> str:
        """What tells the files of this part from those of the others: `.00002-of-00008`; empty if it is the whole."""
        return f".{self.number:05d}-of-{self.count:05d}" if self.count > 1 else ""


WHOLE = Shard()


def number_of(name: str, count: int) -> int:
    """The part, 1 .. `count`, in which the image is whose results have this name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count + 1


def find_images(given: Sequence[str]) -> list[Job]:
    """Files, the images in folders (at any depth), and what patterns match, in this order, each once; also in buckets.

    What does not exist stays in the list, to be reported as failed. Raises ValueError if there is nothing at all, or
    if a bucket cannot be reached.
    """
    jobs: dict[str, Job] = {}
    for text in given:
        if paths.is_remote(text):
            for job in _in_a_bucket(text):
                jobs.setdefault(str(job.path), job)
            continue
        path = paths.at_home(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            found = [Job(p, p.relative_to(path).with_suffix("")) for p in inside]
        elif path.exists() or not glob.has_magic(text):
            found = [Job(path, pathlib.PurePath(path.stem))]
        else:
            matches = sorted(pathlib.Path(p) for p in glob.glob(str(path), recursive=True))
            if not matches:
                raise ValueError(f"nothing matches {text}")
            found = [Job(p, pathlib.PurePath(p.stem)) for p in matches if p.is_file()]
        for job in found:
            jobs.setdefault(os.path.realpath(job.path), job)  # unlike resolve(), it bears links in a circle
    return list(jobs.values())


def _in_a_bucket(text: str) -> list[Job]:
    """The images of one address: as `find_images` finds them on a disk."""
    paths.check(text, "the images' place", BUCKETS)
    found = [(paths.location(address), tuple(version)) for address, version in paths.objects(text)]
    folder = paths.location(text)
    if glob.has_magic(text) or [path for path, _ in found] == [folder]:
        if not found:
            raise ValueError(f"nothing matches {text}")
        return [Job(path, pathlib.PurePath(path.stem), version) for path, version in found]
    inside = [(path, version) for path, version in found if path.suffix.lower() in IMAGE_SUFFIXES]
    if not inside:
        raise ValueError(f"{text} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Job(path, pathlib.PurePath(path.relative_to(folder)).with_suffix(""), version) for path, version in inside]


def streamed(job: Job) -> bool:
    """With native windows: read from the file window by window, and written as GeoTIFF."""
    return tiff_reading.is_tiff(job.path)
