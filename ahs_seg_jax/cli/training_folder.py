"""Labels of `ahs-seg segment` as a data set that `configs/folder.py` trains on: `--dataset FOLDER`.

FOLDER/classes.txt, FOLDER/images/{train,val} and FOLDER/annotations/{train,val}. Pixels without a name (`--unknown`)
are unlabelled there, and the configuration's losses leave them out.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Sequence

from ahs_seg_jax.cli.image_jobs import Job, Shard, streamed
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.data.folder import SPLITS
from ahs_seg_jax.storage import paths

VAL_SHARE = 10  # one image of so many is for validation, where the images are not divided already
CLASSES = "classes.txt"


def check(
    target: pathlib.Path, output: str | os.PathLike[str], jobs: Sequence[Job], settings: Settings, shard: Shard
) -> None:
    """Raises ValueError, before anything is segmented, for what cannot become a data set."""
    for path, what in ((target, "--dataset"), (output, "the output of --dataset")):
        paths.on_disk(path, what)
    if any(paths.is_remote(job.path) for job in jobs):
        raise ValueError("--dataset needs images on a disk: copy those of the bucket first")
    if shard.mark:
        raise ValueError("--dataset needs all images: run it once more without --shard, when all parts are done")
    if settings.windows and any(map(streamed, jobs)):
        raise ValueError("--dataset takes labels as PNG: a TIFF in native windows has none")
    if settings.first_index:
        raise ValueError("--dataset takes labels whose numbers begin at 0; leave --first-index out")
    if len(jobs) < 2:
        raise ValueError(
            f"--dataset needs two images or more, one to train on and one to evaluate; there is {len(jobs)}"
        )
    divided = splits(jobs)
    for split in SPLITS:
        if split not in divided:
            raise ValueError(
                f"--dataset: all images lie in {divided[0]}/, so {split}/ would be empty; give the folder that holds "
                "train/ and val/, or images of one folder, which are divided"
            )
    before = target / CLASSES
    if before.is_file() and before.read_text("utf-8").splitlines() != list(settings.classes):
        raise ValueError(f"{before} holds other class names than these; choose another --dataset, or remove it")


def splits(jobs: Sequence[Job]) -> list[str]:
    """The split of each image: the folder train/ or val/ that it lies in, or else one in `VAL_SHARE` is for validation.

    Those are chosen by the hashes of the names, so that the same ones are whenever the command is run again.
    """
    if all(job.name.parts[0] in SPLITS and len(job.name.parts) > 1 for job in jobs):
        return [job.name.parts[0] for job in jobs]
    digests = [hashlib.sha256(job.name.as_posix().encode("utf-8", "surrogateescape")).digest() for job in jobs]
    count = max(1, len(jobs) // VAL_SHARE)
    chosen = set(sorted(range(len(jobs)), key=lambda index: digests[index])[:count])
    return ["val" if index in chosen else "train" for index in range(len(jobs))]


def write(target: pathlib.Path, results: str | os.PathLike[str], jobs: Sequence[Job], names: Sequence[str]) -> str:
    """Writes the data set from the labels below `results`; returns what to say about it.

    Images are linked where the file system can, and copied otherwise; those that lie in their place already stay.
    Images without labels, which failed, are left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    (target / CLASSES).write_text("".join(f"{name}\n" for name in names), "utf-8")
    written = 0
    for job, split in zip(jobs, splits(jobs), strict=True):
        labels = pathlib.Path(results) / "labels" / f"{job.name}.png"
        if not labels.is_file():
            continue
        below = pathlib.Path(*job.name.parts[1:]) if job.name.parts[0] == split else pathlib.Path(job.name)
        _place(job.path, target / "images" / split / f"{below}{job.path.suffix}")
        _place(labels, target / "annotations" / split / f"{below}.png")
        written += 1
    command = f"ahs-seg train --config=configs/folder.py --config.data.root={target} --workdir=runs/{target.name}"
    return f"{written} images with labels in {target}: {command}"


def _place(source: pathlib.Path, place: pathlib.Path) -> None:
    """Makes `place` the same file as `source`, or a copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        if place.samefile(source):
            return
        place.unlink()
    with contextlib.suppress(OSError):
        os.link(source.resolve(), place)
        return
    shutil.copyfile(source, place)
