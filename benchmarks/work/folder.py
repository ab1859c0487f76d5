"""A folder of photographs, as `ahs-seg segment` does it, beside the model alone with the same pictures in memory."""

import contextlib
import functools
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ahs_seg_jax.cli.image_jobs import find_images
from ahs_seg_jax.cli.result_folder import ResultFolder
from ahs_seg_jax.cli.segment_settings import Settings as Options
from ahs_seg_jax.cli.segment_stages import segment_each
from ahs_seg_jax.config import DataConfig, ScenesConfig
from ahs_seg_jax.data import catalogue
from ahs_seg_jax.inference.tiles import Found
from ahs_seg_jax.segmenter import Segmenter
from benchmarks import inputs
from benchmarks.measure import Record, spread
from benchmarks.settings import Settings

PHOTOGRAPHS = 200
PHOTOGRAPHS_OF_LARGE_MODELS = 16  # which take seconds each
ALONE = 40  # pictures that the model segments alone, at most
FAST = 0.020  # seconds that the model of a fast device takes
QUALITY = 90  # of the JPEG files


def folder(settings: Settings, overlays: bool = True) -> Record:
    """Segments a folder of photographs by one view; `model_share` is the share of the model's own images a second."""
    count = PHOTOGRAPHS if settings.size == "tiny" else PHOTOGRAPHS_OF_LARGE_MODELS
    return _measure(_segmenter(settings), settings, count, overlays)


def folder_of_labels(settings: Settings) -> Record:
    """As `folder`, without overlays."""
    return folder(settings, overlays=False)


def fast_device(settings: Settings, overlays: bool = True) -> Record:
    """As `folder`, where the model only sleeps: what a fast device is given to do while processors do the rest."""
    segmenter = _segmenter(settings)

    def label(images: Any, text: np.ndarray, *_: Any, **__: Any) -> Iterator[Found]:
        for image in images:
            time.sleep(FAST)
            height, width = image.image.shape[:2]
            yield _patches(height, width, len(text)), np.full((height, width), 0.5, np.float32), None

    segmenter.engine.label = label  # type: ignore[method-assign]
    return _measure(segmenter, settings, PHOTOGRAPHS, overlays)


def fast_device_of_labels(settings: Settings) -> Record:
    """As `fast_device`, without overlays."""
    return fast_device(settings, overlays=False)


def _segmenter(settings: Settings) -> Segmenter:
    return Segmenter(settings.model(), inputs.parameters(settings.model()), protocol="whole", text_cache=False)


@functools.cache  # a device that computes them would leave the processors alone
def _patches(height: int, width: int, classes: int) -> np.ndarray:
    """Labels int32 `[H, W]` of round patches of ten classes, whose files take about what those of photographs take."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / 41.0) * 3 + np.cos(y / 29.0) * 3 + np.sin((x + y) / 67.0) * 4
    return ((waves + 10).astype(np.int32) * 7) % min(classes, 10)


def _measure(segmenter: Segmenter, settings: Settings, count: int, overlays: bool) -> Record:
    words = inputs.vocabulary(settings.classes)
    options = Options(words.names, settings.size, "whole", "none", "model", None)
    with tempfile.TemporaryDirectory() as place:
        kind = _write_photographs(pathlib.Path(place) / "in", count, settings.image)
        jobs = find_images([f"{place}/in"])
        own = _alone(segmenter, [job.path for job in jobs], words)
        results = ResultFolder(pathlib.Path(place) / "out", options, overlays=overlays)
        lines = io.StringIO()
        with contextlib.closing(results), contextlib.redirect_stderr(lines):
            started, processor = time.perf_counter(), time.process_time()
            failed = segment_each(jobs, results, segmenter, words, options, heat_maps=False)
            seconds, processor = time.perf_counter() - started, time.process_time() - processor
    if failed:
        raise RuntimeError(f"{len(failed)} photographs were not segmented: {failed[0][1]}")
    rate, alone = count / seconds, 1 / spread(own)["median"]
    return {
        "seconds": spread([seconds]),
        "items": count,
        "unit": "images",
        "throughput": rate,
        "flops": None,
        "pictures": kind,
        "overlays": overlays,
        "processor_seconds": processor / count,  # for each photograph
        "model": {"seconds": spread(own), "throughput": alone},
        "model_share": rate / alone,
    }


def _alone(segmenter: Segmenter, files: list[Any], words: Any) -> list[float]:
    """Seconds of the model for each of some pictures: mirrored ones, since it remembers pictures; two are warm-up."""
    seconds = []
    for path in files[: ALONE + 2]:
        with Image.open(path) as file:
            picture = segmenter.prepare(np.asarray(file)[:, ::-1])
        started = time.perf_counter()
        segmenter(picture, words)
        seconds.append(time.perf_counter() - started)
    return seconds[2:]


def _write_photographs(place: pathlib.Path, count: int, size: tuple[int, int]) -> str:
    """JPEG files of `size` (h, w); returns what they show.

    They are the photographs below `data/` in the folder that AHS_SEG_SHARED names, resized and turned where there are
    too few, or drawn scenes.
    """
    place.mkdir()
    shared = pathlib.Path(os.environ.get("AHS_SEG_SHARED", "")) / "data"
    found = sorted(shared.glob("*/images/**/*.[jp][pn]g")) if "AHS_SEG_SHARED" in os.environ else []
    scenes = catalogue.open_source(
        DataConfig(name="scenes", scenes=ScenesConfig(size=max(size), val_images=count)), "val"
    )
    for number in range(count):
        if found:
            with Image.open(found[number % len(found)]) as file:
                picture = file.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
        else:
            picture = Image.fromarray(scenes[number]["image"][: size[0], : size[1]])
        if found and number >= len(found):
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        picture.save(place / f"{number:04d}.jpg", quality=QUALITY)
    return "photographs" if found else "drawn scenes"
