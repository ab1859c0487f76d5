"""The images of `ahs-seg segment` on their way: read, segmented, written, noted.

The three works overlap. While the model has one image, others are read and made ready for it, and the results before
are written; so neither decoding nor compressing files holds the model up. Each stage holds a few images, fewer where
they are large, and results are noted in the order of the images.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ahs_seg_jax import threads
from ahs_seg_jax.cli import options
from ahs_seg_jax.cli.image_jobs import Job, streamed
from ahs_seg_jax.cli.result_folder import ResultFolder
from ahs_seg_jax.cli.segment_settings import Settings
from ahs_seg_jax.data.open_image import ImageLike, open_image
from ahs_seg_jax.inference.prepared import Prepared
from ahs_seg_jax.segmenter import Segmentation, Segmenter, snapping, tiff_reading, video
from ahs_seg_jax.segmenter.segmentation import described
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import IGNORE, Vocabulary

HELD, SHARE_HELD = 256e6, 0.05  # bytes that may wait between two stages, and as a share of a bound of the memory
EXPANSION = 20.0  # times its file's bytes that an image usually takes in memory, or less
MOST_THREADS = 8  # of a stage


@dataclasses.dataclass(eq=False)
class Step:
    """One image, and what the stages have made of it so far."""

    number: int
    job: Job
    first: Any  # path of the first image whose results have this name
    before: bool = False  # an earlier run has segmented it
    failed: str = ""  # why there is no result
    file: list[Any] | None = None  # the fingerprint of what was read
    image: ImageLike | Prepared | None = None
    has_data: np.ndarray | None = None  # bool [H, W]; None: everywhere
    result: Segmentation | None = None
    summary: dict[str, Any] | None = None
    seconds: float = 0.0  # that the stages have worked on it


def segment_each(
    jobs: Sequence[Job],
    folder: ResultFolder,
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    settings: Settings,
    heat_maps: bool,
) -> list[tuple[Job, str]]:
    """Segments what is not done yet; returns the images that failed, and why.

    Whatever happens to one image, the others are segmented; Ctrl-C still stops.
    """
    stages = Stages(folder, segmenter, vocabulary, settings, heat_maps)
    taken: dict[pathlib.PurePath, Any] = {}
    steps = (Step(number, job, taken.setdefault(job.name, job.path)) for number, job in enumerate(jobs, 1))
    several = min(max(2, threads.cores() // 2), MOST_THREADS)
    held = HELD if settings.memory_gb is None else min(HELD, SHARE_HELD * 1e9 * settings.memory_gb)
    bounds: dict[str, Any] = {"threads": several, "ahead": several + 1, "most": held}
    read = threads.in_order(_guarded(stages.read), steps, size=stages.bytes_to_read, **bounds)
    segmented = map(_guarded(stages.segment), read)
    written = threads.in_order(_guarded(stages.write), segmented, size=stages.bytes_to_write, **bounds)
    failed: list[tuple[Job, str]] = []
    with contextlib.closing(read), contextlib.closing(written):
        for step in map(_guarded(stages.note), written):
            head = f"[{step.number}/{len(jobs)}] {step.job.path}"
            if step.failed:
                failed.append((step.job, step.failed))
            elif step.summary is not None:
                head += f": {described(step.summary)}  {step.seconds:.1f} s"
            print(head + ": FAILED" * bool(step.failed) + ": done before" * step.before, file=sys.stderr)
    return failed


def _guarded(work: Callable[[Step], None]) -> Callable[[Step], Step]:
    """A stage, which passes over images that need it no more, and whose errors are those of one image."""

    def run(step: Step) -> Step:
        if step.before or step.failed:
            return step
        started = time.monotonic()
        try:
            work(step)
        except Exception as error:
            step.failed, step.image, step.result = options.cause(error), None, None
        step.seconds += time.monotonic() - started
        return step

    return run


class Stages:
    """What is done to an image; each method does its part of the `Step` that it is given."""

    def __init__(
        self, folder: ResultFolder, segmenter: Segmenter, vocabulary: Vocabulary, settings: Settings, heat_maps: bool
    ) -> None:
        self._folder, self._segmenter, self._vocabulary = folder, segmenter, vocabulary
        self._settings, self._heat_maps = settings, heat_maps

    def read(self, step: Step) -> None:
        """Opens an image and makes it ready for the model, if there are no results of it."""
        job, settings = step.job, self._settings
        if step.first != job.path:
            raise ValueError(
                f"its results would have the same name as those of {step.first}; use another --output for it"
            )
        if self._folder.has(job):
            step.before = True
            return
        self._folder.forget_another_file(job)
        if self._in_parts(job):
            return
        image, step.has_data = _opened(job, settings)
        by_protocol = settings.windows is None
        step.image = self._segmenter.prepare(image, settings.protocol) if by_protocol else open_image(image)
        step.file = job.fingerprint()

    def segment(self, step: Step) -> None:
        """The model's part. A file that is read in parts is segmented and written in one."""
        job, settings = step.job, self._settings
        if self._in_parts(job):
            part = self._folder.film if video.is_video(job.path) else self._folder.stream
            step.summary = part(job, self._segmenter, self._vocabulary)
            return
        assert step.image is not None
        step.result = self._segmenter(
            step.image,
            self._vocabulary,
            protocol=settings.protocol,
            windows=settings.windows,
            unknown=settings.unknown,
            probabilities=self._heat_maps,
        )
        step.image = None

    def write(self, step: Step) -> None:
        """Writes the files of an image."""
        if step.result is None:
            return
        job, settings, result = step.job, self._settings, dataclasses.replace(step.result, source=str(step.job.path))
        if settings.snap is not None:
            result = _snapped(job, result, settings.snap)
        if step.has_data is not None:
            result = dataclasses.replace(result, labels=np.where(step.has_data, result.labels, np.int32(IGNORE)))
        step.summary = self._folder.write(job, result)
        step.result = None

    def note(self, step: Step) -> None:
        """Its line in the log, which says that all its files are there."""
        assert step.summary is not None
        self._folder.note(step.job, step.summary, step.file)

    def bytes_to_read(self, step: Step) -> float:
        """About what the image will take in memory."""
        try:
            return 0.0 if self._in_parts(step.job) else EXPANSION * step.job.fingerprint()[0]
        except OSError:  # there is no such file, which reading it says
            return 0.0

    def bytes_to_write(self, step: Step) -> float:
        """What the result takes until it is written."""
        found = step.result
        arrays = () if found is None else (found.image, found.labels, found.confidence, found.probabilities)
        return float(sum(array.nbytes for array in arrays if array is not None))

    def _in_parts(self, job: Job) -> bool:
        """Whether the file is never in memory as a whole."""
        return video.is_video(job.path) or (self._settings.windows is not None and streamed(job))


def _opened(job: Job, settings: Settings) -> tuple[ImageLike, np.ndarray | None]:
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
