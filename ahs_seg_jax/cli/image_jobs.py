"""The images that a command was given: files, folders and patterns, each with the name of its results."""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Sequence

from ahs_seg_jax.data.images import IMAGE_SUFFIXES
from ahs_seg_jax.segmenter import tiff_reading


@dataclasses.dataclass(frozen=True)
class Job:
    """An image and the name of its results, without suffix, relative to the folders of results."""

    path: pathlib.Path
    name: pathlib.PurePath

    @property
    def file_name(self) -> str:
        """What annotations call the image: its path below the folder that was given."""
        return pathlib.PurePath(f"{self.name}{self.path.suffix}").as_posix()

    def fingerprint(self) -> list[int]:
        """Size and time of change of the file: another file of the same name is segmented again."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]


def find_images(given: Sequence[str]) -> list[Job]:
    """Files, the images in folders (at any depth), and what patterns match, in this order, each once.

    What does not exist stays in the list, to be reported as failed. Raises ValueError if there is nothing at all.
    """
    jobs: dict[pathlib.Path, Job] = {}
    for text in given:
        path = pathlib.Path(text).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
            found = [Job(p, p.relative_to(path).with_suffix("")) for p in inside]
        elif path.exists() or not glob.has_magic(text):
            found = [Job(path, pathlib.PurePath(path.stem))]
        else:
            matches = sorted(pathlib.Path(p) for p in glob.glob(os.path.expanduser(text), recursive=True))
            if not matches:
                raise ValueError(f"nothing matches {text}")
            found = [Job(p, pathlib.PurePath(p.stem)) for p in matches if p.is_file()]
        for job in found:
            jobs.setdefault(job.path.resolve(), job)
    return list(jobs.values())


def streamed(job: Job) -> bool:
    """With native windows: read from the file window by window, and written as GeoTIFF."""
    return tiff_reading.is_tiff(job.path)
