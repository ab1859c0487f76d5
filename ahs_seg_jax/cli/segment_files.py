"""`ahs-seg segment`: files in, index PNGs, overlays and a summary out; one failing image does not stop the others."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.cli import options, result_formats, segment_video, training_folder
from ahs_seg_jax.cli.image_jobs import BUCKETS, WHOLE, Job, Shard, find_images, streamed
from ahs_seg_jax.cli.result_folder import ResultFolder
from ahs_seg_jax.cli.segment_settings import Settings, hash_of_weights
from ahs_seg_jax.cli.segment_stages import segment_each
from ahs_seg_jax.data.open_image import image_size, open_image
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import Segmenter, tiff_reading, video
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import Vocabulary


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
    segmenter = _segmenter(settings)
    settings = dataclasses.replace(  # the results say what has made them
        settings,
        method=segmenter.method,
        activation=segmenter.config.image.activation,
        weights=hash_of_weights(segmenter.manifest),
    )
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
        failed = segment_each(jobs, folder, segmenter, vocabulary, settings, heat_maps)
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


def _segmenter(settings: Settings) -> Segmenter:
    """The model. Raises ValueError if it cannot be seen through the protocol that was asked for."""
    return Segmenter.from_pretrained(
        settings.model,
        method=settings.method,
        activation=settings.activation,
        keep=settings.keep,
        memory_gb=settings.memory_gb,
        **({"protocol": settings.protocol} if settings.protocol else {}),
    )


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


class _Stderr(logging.StreamHandler):
    """Writes to what is stderr when it writes, not to what was stderr when the first command of this process began."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _show_log() -> None:
    """What the library logs (what compiles, and why) goes to stderr, without the decoration of other programs."""
    logger = logging.getLogger("ahs_seg_jax")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
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
