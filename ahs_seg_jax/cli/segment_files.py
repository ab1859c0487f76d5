"""`ahs-seg segment`: files in, index PNGs, overlays and a summary out; one failing image does not stop the others."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import options, result_formats, segment_video, training_folder
from ahs_seg_jax.cli.image_jobs import BUCKETS, WHOLE, Job, Shard, find_images, streamed
from ahs_seg_jax.cli.result_folder import ResultFolder
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.data.open_image import ImageLike, image_size, open_image
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import Segmentation, Segmenter, snapping, tiff_reading, video
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary

SHOWN_CLASSES = 4  # in a line of progress


def run(
    images: Sequence[str],
    output: str | os.PathLike[str],
    settings: Settings,
    *,
    only_plan: bool = False,
    overlays: bool = True,
    annotations: Sequence[str] = (),
    heat_maps: bool = False,
    again: bool = False,
    shard: Shard = WHOLE,
    dataset: pathlib.Path | None = None,
) -> int:
    """Segments; returns 0, or 1 if an image failed. Raises what a user can mend before the first image.

    `annotations` are names of `result_formats.ANNOTATIONS`.
    """
    _show_log()
    paths.check(output, "the output", BUCKETS)
    jobs = [job for job in find_images(images) if shard.holds(job.name.as_posix())]
    segmenter = Segmenter.from_pretrained(
        settings.model,
        method=settings.method,
        activation=settings.activation,
        keep=settings.keep,
        memory_gb=settings.memory_gb,
    )
    settings = dataclasses.replace(settings, method=segmenter.method)  # the results say what has made them
    vocabulary = segmenter.as_vocabulary(settings.classes)
    _check_words(segmenter, vocabulary, settings)
    result_formats.check(annotations, settings.classes, output)
    _check_films(jobs, output, settings, {"--annotations": annotations, "--heat-maps": heat_maps, "--dataset": dataset})
    _check_tiffs([job for job in jobs if streamed(job)], output, settings, heat_maps)
    if dataset is not None:
        training_folder.check(dataset, output, jobs, settings, shard)
    if only_plan:
        return _print_plans(jobs, segmenter, settings, heat_maps)
    folder = ResultFolder(
        output, settings, overlays=overlays, annotations=annotations, heat_maps=heat_maps, again=again, shard=shard
    )
    with contextlib.closing(folder):
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


def _check_words(segmenter: Segmenter, vocabulary: Vocabulary, settings: Settings) -> None:
    """Raises ValueError for what no image can mend: too long names, unknown words among the names, a wide stride."""
    text = segmenter.config.text
    segmenter.words(vocabulary, settings.unknown).vocabulary.tokens(text.context, text.tokenizer)
    label_files.check_first_index(settings.first_index, len(settings.classes))
    if settings.windows:
        settings.windows.grid((1, 1), segmenter.engine.head.side)
    if settings.model == packaged.TINY and (strange := packaged.strange_words(settings.classes)):
        print(
            f"the small model knows drawn scenes only; what it says about {', '.join(map(repr, strange[:3]))}"
            f"{' and others' if len(strange) > 3 else ''} means nothing: give --model for other images",
            file=sys.stderr,
        )


def _check_films(
    jobs: Sequence[Job], output: str | os.PathLike[str], settings: Settings, given: dict[str, Any]
) -> None:
    """Raises, before the first image, what films cannot have of the options that are `given`."""
    segment_video.check_settings(settings.every, settings.smooth)
    given = given | {
        "--snap": settings.snap,
        "--bands or --rescale": settings.bands or settings.rescale,
        "an --output in a bucket": paths.is_remote(output),
    }
    films = [job.path for job in jobs if video.is_video(job.path)]
    segment_video.check(films, settings, [name for name, value in given.items() if value])


def _check_tiffs(jobs: Sequence[Job], output: str | os.PathLike[str], settings: Settings, heat_maps: bool) -> None:
    """Raises, before the first image, what these TIFF images cannot have."""
    if not jobs:
        return
    if settings.windows or settings.bands or settings.rescale:
        tiff_reading.rasterio()  # a missing library is found now
        for job in jobs:
            paths.on_disk(job.path, "a TIFF image in native windows, or with --bands or --rescale,")
    if settings.windows:
        paths.on_disk(output, "the output of TIFF images in native windows")
        if heat_maps:
            raise ValueError("a TIFF in native windows has no --heat-maps: they would need it whole in memory")
        if settings.snap is not None:
            raise ValueError("a TIFF in native windows cannot be snapped: --snap needs its labels whole in memory")


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
        return folder.stream(job, segmenter, vocabulary)
    if video.is_video(job.path):
        return folder.film(job, segmenter, vocabulary)
    image, has_data = _read(job, settings)
    result = segmenter(
        image,
        vocabulary,
        protocol=settings.protocol,
        windows=settings.windows,
        unknown=settings.unknown,
        probabilities=heat_maps,
    )
    result = dataclasses.replace(result, source=str(job.path))
    if settings.snap is not None:
        result = _snapped(job, result, settings.snap)
    if has_data is not None:
        result = dataclasses.replace(result, labels=np.where(has_data, result.labels, np.int32(IGNORE)))
    return folder.write(job, result)


def _read(job: Job, settings: Settings) -> tuple[ImageLike, np.ndarray | None]:
    """The image, and where it holds data (None: everywhere)."""
    chosen = settings.bands is not None or settings.rescale is not None
    if streamed(job) and not paths.is_remote(job.path) and (chosen or tiff_reading.is_map(job.path)):
        return tiff_reading.read_tiff(job.path, settings.bands, settings.rescale)
    if not chosen:
        return job.image(), None
    bands: Any = settings.bands  # names are of TIFFs only, which open_image says
    return open_image(job.image(), bands=bands, rescale=settings.rescale), None


def _snapped(job: Job, result: Segmentation, folder: str) -> Segmentation:
    """The result with the boundaries of the masks that the folder holds for it. Raises ValueError if there are none."""
    candidates = (pathlib.Path(folder) / f"{job.name}{suffix}" for suffix in snapping.SUFFIXES)
    found = next(filter(pathlib.Path.is_file, candidates), None)
    if found is None:
        raise ValueError(
            f"there are no masks for {job.path}: --snap needs {folder}/{job.name} with one of the suffixes "
            f"{', '.join(snapping.SUFFIXES)}"
        )
    return result.snap(found, place=tiff_reading.place_of(str(job.path)))


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
                sizes.append(_size_of(job, settings)(job.path))
        except Exception as error:
            print(f"{job.path}: {options.cause(error)}", file=sys.stderr)
    if not sizes:
        return 1
    words = settings.unknown if isinstance(settings.unknown, tuple) else ()
    largest = max(sizes, key=lambda size: size[0] * size[1])
    print(f"{len(sizes)} image(s); the largest:")
    every = segmenter.words(settings.classes, words or "none").vocabulary
    count, by_windows = len(every.query_class), all(map(streamed, jobs))
    print(segmenter.plan(largest, count, settings.protocol, heat_maps, windows=settings.windows, streamed=by_windows))
    return 0 if len(sizes) == len(jobs) else 1


def _size_of(job: Job, settings: Settings) -> Callable[[Any], tuple[int, int]]:
    """What tells the size of such a file."""
    if video.is_video(job.path):
        return video.size
    return tiff_reading.tiff_size if settings.windows and streamed(job) else image_size


def _described(entry: dict[str, Any]) -> str:
    shares = [f"{name} {100 * found['share']:.0f} %" for name, found in entry["classes"].items()]
    more = f", and {len(shares) - SHOWN_CLASSES} more" if len(shares) > SHOWN_CLASSES else ""
    return f"{entry['width']} x {entry['height']}, {', '.join(shares[:SHOWN_CLASSES])}{more}"
