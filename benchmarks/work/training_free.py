"""What users of a plain CLIP wait for: a new picture, other words on a known one, its refinement, a very large one."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.tiles import ArrayRaster
from ahs_seg_jax.models.training_free import TrainingFree
from ahs_seg_jax.segmenter import Segmenter
from benchmarks import inputs
from benchmarks.measure import Action, Record, spread
from benchmarks.settings import Settings
from benchmarks.work.serving import shapes

TEMPLATES = ("a photo of a {}",)  # words are encoded before anything is timed
LARGE_WINDOW, LARGE_GB = 224, 3.0  # of a large picture: side of a window in pixels, bound of the memory


def _segmenter(settings: Settings, refine: Any, memory_gb: float | None = None) -> Segmenter:
    """NACLIP on the settings' CLIP."""
    config = settings.model().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    method = TrainingFree("naclip", refine=refine)
    return Segmenter(config, inputs.parameters(config), TEMPLATES, method=method, memory_gb=memory_gb, text_cache=False)


def forward(segmenter: Segmenter, classes: int, size: tuple[int, int]) -> tuple[Any, tuple[Any, ...]]:
    """A function that runs the model on all views of a picture of `size` (h, w), and its arguments' shapes."""
    model = segmenter.engine.model
    views = jax.ShapeDtypeStruct(segmenter.protocol.views_shape(0, size), jnp.float32)
    text = jax.ShapeDtypeStruct((classes, 1, segmenter.config.embed_dim), jnp.float32)

    def run(params: Any, views: jax.Array, text: jax.Array) -> jax.Array:
        dense: Any = model.apply({"params": params}, views, method="encode_image")
        return model.apply({"params": params}, dense["dense"], text, method="compare")

    return run, (shapes(segmenter.engine.params), views, text)


def new_picture(settings: Settings) -> Action:
    """Segments pictures, each a new one, by windows and without a refinement; the words are encoded before."""
    segmenter = _segmenter(settings, "none").set_vocabulary(inputs.vocabulary(settings.classes).names)
    call = lambda index: segmenter(inputs.picture(settings, index)).labels
    return Action(call, 1, "images", forward(segmenter, settings.classes, settings.image))


def other_words(settings: Settings) -> Action:
    """Segments one picture, whose features are kept, with another list of words than the last time."""
    return _known_picture(settings, "none")


def refined(settings: Settings) -> Action:
    """The same, refined by PAMR."""
    return _known_picture(settings, "pamr")


def _known_picture(settings: Settings, refine: str) -> Action:
    segmenter, picture = _segmenter(settings, refine), inputs.picture(settings, 0)
    lists = [inputs.vocabulary(settings.classes, 100_000 * index).names for index in range(2)]
    return Action(lambda index: segmenter(picture, lists[index % 2]).labels, 1, "images")


def large_picture(settings: Settings) -> Record:
    """Segments one picture, tile by tile, by windows at its own resolution within LARGE_GB; it is not repeated."""
    segmenter, windows = _segmenter(settings, "none", LARGE_GB), NativeWindows(LARGE_WINDOW)
    segmenter.set_vocabulary(inputs.vocabulary(settings.classes).names)
    raster = ArrayRaster(inputs.picture(settings, 0))
    started = time.perf_counter()
    tiles = sum(1 for _ in segmenter.tiles(raster, windows=windows))
    found = spread([time.perf_counter() - started])
    plan = segmenter.plan(settings.image, settings.classes, windows=windows, streamed=True)
    return {
        "seconds": found,
        "items": 1,
        "unit": "images",
        "throughput": 1 / found["median"],
        "flops": None,
        "tiles": tiles,
        "planned_bytes": plan.gigabytes * 1e9,
    }
