"""The table of data sets by name (`SOURCES`), and how one is opened (`open_source`).

Sources are imported when they are opened: prepared benchmarks bring TensorFlow Datasets along, which takes seconds.
"""

import dataclasses
from collections.abc import Callable

from ahs_seg_jax.config import DataConfig
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.source import Source


def _open_scenes(settings: DataConfig, split: str) -> Source:
    from ahs_seg_jax.data.scenes import ScenesSource

    return ScenesSource(settings.scenes, split)


def _open_folder(settings: DataConfig, split: str) -> Source:
    from ahs_seg_jax.data.folder import open_folder

    return open_folder(settings.root, split)


def _open_coco_stuff(settings: DataConfig, split: str) -> Source:
    from ahs_seg_jax.data.coco_downloads import open_coco_stuff

    return open_coco_stuff(settings.root, split)


def _open_prepared(settings: DataConfig, split: str) -> Source:
    from ahs_seg_jax.data.benchmarks.benchmark import resolve_root
    from ahs_seg_jax.data.prepared.prepared_source import PreparedSource

    return PreparedSource(resolve_root(settings.root), settings.name, split)


SOURCES: dict[str, Callable[[DataConfig, str], Source]] = {
    "scenes": _open_scenes,
    "folder": _open_folder,
    **dict.fromkeys(BENCHMARKS, _open_prepared),
    "coco_stuff": _open_coco_stuff,  # prepared, or straight from the downloads
}


def open_source(settings: DataConfig, split: str) -> Source:
    """The data set `settings.name`, split "train" or "val", checked as far as its kind allows.

    Its vocabulary makes prompts by `settings.templates`, if there are any.

    Raises ValueError for an unknown name (the message lists the known ones), for a benchmark that is not prepared (the
    message says what to download and which command to run), or for data that fail their checks
    (`folder.DataProblems`, which lists every problem).
    """
    if settings.name not in SOURCES:
        raise ValueError(f"data.name is {settings.name!r}; choose one of {', '.join(sorted(SOURCES))}")
    source = SOURCES[settings.name](settings, split)
    if settings.templates:
        source.vocabulary = dataclasses.replace(source.vocabulary, templates=settings.templates)
    return source
