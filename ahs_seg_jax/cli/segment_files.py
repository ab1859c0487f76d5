"""`ahs-seg segment`: files in, index PNGs, overlays and a summary out; one failing image does not stop the others."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import options, training_folder
from ahs_seg_jax.cli.image_jobs import BUCKETS, WHOLE, Job, Shard, find_images, streamed
from ahs_seg_jax.cli.result_folder import ResultFolder
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.data.open_image import image_size, open_image
from ahs_seg_jax.segmenter import Segmenter, geotiff
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import Vocabulary

SHOWN_CLASSES = 4  # in a line of progress


def run(
    images: Sequence[str],
    output: str | os.PathLike[str],
    settings: Settings,
    *,
    only_plan: bool = False,
    overlays: bool = True,
    coco: bool = False,
    heat_maps: bool = False,
    again: bool = False,
    shard: Shard = WHOLE,
    dataset: pathlib.Path | None = None,
) -> int:
    """Segments; returns 0, or 1 if an image failed. Raises what a user can mend before the first image."""
    _show_log()
    paths.check(output, "the output", BUCKETS)
    jobs = [job for job in find_images(images) if shard.holds(job.name.as_posix())]
    segmenter = Segmenter.from_pretrained(settings.model, keep=settings.keep, memory_gb=settings.memory_gb)
    vocabulary = Vocabulary(settings.classes, segmenter.templates)
    # What no image can mend is found now: names that are too long, unknown words among the names, a wide stride.
    text = segmenter.config.text
    segmenter.words(vocabulary, settings.unknown).vocabulary.tokens(text.context, text.tokenizer)
    if settings.windows:
        settings.windows.grid((1, 1), segmenter.config.image.crop)
    if settings.model == packaged.TINY and (strange := packaged.strange_words(settings.classes)):
        print(
            f"the small model knows drawn scenes only; what it says about {', '.join(map(repr, strange[:3]))}"
            f"{' and others' if len(strange) > 3 else ''} means nothing: give --model for other images",
            file=sys.stderr,
        )
    if settings.windows and any(map(streamed, jobs)):
        geotiff.rasterio()  # a missing library is found now
        paths.on_disk(output, "the output of TIFF images in native windows")
        for job in filter(streamed, jobs):
            paths.on_disk(job.path, "a TIFF image in native windows")
        if heat_maps:
            raise ValueError("a TIFF in native windows has no --heat-maps: they would need it whole in memory")
    if dataset is not None:
        training_folder.check(dataset, output, jobs, settings, shard)
    if only_plan:
        return _print_plans(jobs, segmenter, settings, heat_maps)
    with contextlib.closing(ResultFolder(output, settings, overlays, coco, heat_maps, again, shard)) as folder:
        failed = _segment_each(jobs, folder, segmenter, vocabulary, settings, heat_maps)
        missing = folder.finish(failed)
    print(f"{len(jobs) - len(failed)} of {len(jobs)} images in {output}", file=sys.stderr)
    if shard.mark:
        waits = f"waits for the parts {', '.join(map(str, missing[:8]))}{' ...' if missing[8:] else ''}"
        print(
            f"part {shard.number} of {shard.count}; the summary {waits if missing else 'is of all parts'}",
            file=sys.stderr,
        )
    if dataset is not None:
        print(training_folder.write(dataset, output, jobs, settings.classes), file=sys.stderr)
    for job, reason in failed:
        where = "" if str(job.path) in reason else f"{job.path}: "
        print(f"failed: {where}{reason}", file=sys.stderr)
    return 1 if failed else 0


def _segment_each(
    jobs: Sequence[Job],
    folder: ResultFolder,
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    settings: Settings,
    heat_maps: bool,
) -> list[tuple[Job, str]]:
    """Segments what is not done yet; returns the images that failed, and why."""
    failed: list[tuple[Job, str]] = []
    taken: dict[pathlib.PurePath, Any] = {}
    for number, job in enumerate(jobs, 1):
        head = f"[{number}/{len(jobs)}] {job.path}"
        try:
            if taken.setdefault(job.name, job.path) != job.path:
                raise ValueError(
                    f"its results would have the same name as those of {taken[job.name]}; use another --output for it"
                )
            if folder.has(job):
                print(f"{head}: done before", file=sys.stderr)
                continue
            folder.forget_another_file(job)
            started = time.monotonic()
            entry = _segmented(job, folder, segmenter, vocabulary, settings, heat_maps)
            print(f"{head}: {_described(entry)}  {time.monotonic() - started:.1f} s", file=sys.stderr)
        except Exception as error:  # whatever happens to one image, the others are segmented; Ctrl-C still stops
            failed.append((job, options.cause(error)))
            print(f"{head}: FAILED", file=sys.stderr)
    return failed


def _segmented(
    job: Job, folder: ResultFolder, segmenter: Segmenter, vocabulary: Vocabulary, settings: Settings, heat_maps: bool
) -> dict[str, Any]:
    """Segments one image and writes its results; returns its entry in the log."""
    if settings.windows and streamed(job):
        return folder.stream(job, segmenter, vocabulary, settings)
    result = segmenter(
        job.image(),
        vocabulary,
        protocol=settings.protocol,
        windows=settings.windows,
        unknown=settings.unknown,
        probabilities=heat_maps,
    )
    return folder.write(job, dataclasses.replace(result, source=str(job.path)))


def _show_log() -> None:
    """What the library logs (what compiles, and why) goes to stderr, without the decoration of other programs."""
    logger = logging.getLogger("ahs_seg_jax")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _print_plans(jobs: Sequence[Job], segmenter: Segmenter, settings: Settings, heat_maps: bool) -> int:
    """The plan of the largest readable image."""
    sizes = []
    for job in jobs:
        try:
            if paths.is_remote(job.path):
                sizes.append(open_image(job.image()).shape[:2])
            else:
                sizes.append((geotiff.tiff_size if settings.windows and streamed(job) else image_size)(job.path))
        except Exception as error:
            print(f"{job.path}: {options.cause(error)}", file=sys.stderr)
    if not sizes:
        return 1
    words = settings.unknown if isinstance(settings.unknown, tuple) else ()
    largest = max(sizes, key=lambda size: size[0] * size[1])
    print(f"{len(sizes)} image(s); the largest:")
    count, by_windows = len(settings.classes) + len(words), all(map(streamed, jobs))
    print(segmenter.plan(largest, count, settings.protocol, heat_maps, windows=settings.windows, streamed=by_windows))
    return 0 if len(sizes) == len(jobs) else 1


def _described(entry: dict[str, Any]) -> str:
    shares = [f"{name} {100 * found['share']:.0f} %" for name, found in entry["classes"].items()]
    more = f", and {len(shares) - SHOWN_CLASSES} more" if len(shares) > SHOWN_CLASSES else ""
    return f"{entry['width']} x {entry['height']}, {', '.join(shares[:SHOWN_CLASSES])}{more}"
