"""The memory of a training-free segmentation, and how it is divided so that it fits: known before anything runs."""

import math
from typing import Any

import jax

from ahs_seg_jax.inference import buckets, cosine_labels, refining, tiles
from ahs_seg_jax.inference.native_windows import TILE, NativeWindows
from ahs_seg_jax.inference.plan import RUNTIME, Plan, Request, strip
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.models.training_free import pamr
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from ahs_seg_jax.models.training_free.settings import TrainingFree

QUERIES = 256  # of one product with the features
# Views of one call of the image tower: on a CPU what an image has, up to this many; elsewhere always this many, so that
# images of all proportions share one program.
VIEWS = {"cpu": 8}
VIEWS_ELSEWHERE = 8


def make_plan(model: TrainingFreeCLIP, params: Any, request: Request, memory_gb: float | None = None) -> Plan:
    """The plan with the most views at once that fits `memory_gb` (1e9 bytes; None: no limit).

    Raises:
      ValueError: not even one view at a time fits; the message says what takes the memory and what helps.
    """
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    fixed = {"runtime and programs": RUNTIME, "weights": float(weights)}
    chunk = buckets.chunk_size(request.classes, QUERIES)
    part = _of_tiles if isinstance(request.seen_by, NativeWindows) else _of_protocol
    views, grid, parts, columns, refinement = part(model, request, memory_gb)
    most = _at_once(views, isinstance(request.seen_by, NativeWindows))
    plan = None
    for at_once in sorted({most, most // 2, most // 4, 1} - {0}, reverse=True):
        work = {"views at work": at_once * _view_bytes(model.config, grid)}
        plan = Plan(
            request.classes,
            request.classes,
            views,
            request.size,
            chunk,
            at_once,
            fixed | parts | work,
            columns,
            model.method.method,
            refinement,
        )
        if memory_gb is None or plan.gigabytes <= memory_gb:
            return plan
    assert plan is not None
    raise ValueError(
        f"this needs about {plan.gigabytes:.1f} GB, more than memory_gb = {memory_gb:g}:\n{plan}\n"
        "Fewer classes, protocol 'whole', no refinement, no probabilities or a smaller image need less"
    )


def _at_once(views: int, tiled: bool) -> int:
    platform = jax.default_backend()
    most = VIEWS.get(platform, VIEWS_ELSEWHERE)
    if views == 1 or tiled or platform not in VIEWS:
        return 1 if views == 1 else most
    return math.ceil(views / math.ceil(views / most))


_Parts = tuple[int, tuple[int, int], dict[str, float], int | None, str]  # views, grid, bytes, columns, refinement


def _of_protocol(model: TrainingFreeCLIP, request: Request, memory_gb: float | None) -> _Parts:
    """What an image that is whole in memory takes."""
    size, patch = request.size, model.config.image.patch_size
    pixels = float(size[0] * size[1])
    assert not isinstance(request.seen_by, NativeWindows)
    views, height, width, _ = request.seen_by.views_shape(0, size)
    grid = height // patch, width // patch
    refinement = refining.refinement(model.method, size)
    region = min(pixels, float(max(cosine_labels.BAND_PIXELS, size[1])))
    if refinement == "pamr":
        margin = pamr.reach(model.method.pamr_steps, model.method.pamr_dilations)
        region = min(pixels, region + 2.0 * margin * size[1])
    chunk = min(request.classes, cosine_labels.QUERIES_AT_ONCE)
    parts = {
        "image and its views": 3 * pixels + 24.0 * views * height * width,
        "features": 4.0 * views * grid[0] * grid[1] * model.config.embed_dim,
        "logits": _logits_bytes(views, request.classes, grid),
        "labels and confidence": 8 * pixels + 12 * region,
        "names at the image's size": 4.0 * 3 * chunk * region,
    }
    if refinement != "none":
        parts["refinement"] = _refinement_bytes(model.method, refinement, request.classes, region)
    if request.probabilities:
        parts["probabilities"] = 4.0 * request.classes * pixels
    return views, grid, parts, None, refinement


def _of_tiles(model: TrainingFreeCLIP, request: Request, memory_gb: float | None) -> _Parts:
    """What native windows take."""
    assert isinstance(request.seen_by, NativeWindows)
    side = model.config.image.pretrained_grid
    windows = request.seen_by.grid(request.size, side * model.config.image.patch_size)
    window_bytes = _logits_bytes(1, request.classes, (side, side))
    columns = strip(windows, window_bytes, memory_gb)
    pixels = float(request.size[0] * request.size[1])
    parts = {
        "image, labels, confidence": 1e8 if request.streamed else 11 * pixels,
        "logits": (windows.held(columns) + 1) * window_bytes,
        # A tile's classes exist twice where they are added up and chosen.
        "tiles": 2 * 4.0 * tiles.CLASSES_AT_ONCE * (TILE + windows.window) ** 2,
    }
    if request.probabilities:
        parts["tiles"] += 4.0 * request.classes * TILE**2
        parts["probabilities"] = 0.0 if request.streamed else 4.0 * request.classes * pixels
    return windows.count, (side, side), parts, columns, "none"


def _logits_bytes(views: int, queries: int, grid: tuple[int, int]) -> float:
    """The logits of views, twice while the last chunk joins the others."""
    return 2 * 4.0 * views * queries * grid[0] * grid[1]


def _view_bytes(config: ModelConfig, grid: tuple[int, int]) -> float:
    """Temporaries of the image tower for one view: attention of every two tokens, and the MLP."""
    tokens, tower = 1 + grid[0] * grid[1], config.image
    return 4.0 * tokens * (3 * tower.heads * tokens + 12 * tower.width)


def _refinement_bytes(settings: TrainingFree, kind: str, queries: int, region: float) -> float:
    if kind == "pamr":
        return 4.0 * region * 3 * 8 * len(settings.pamr_dilations)
    return 4.0 * 8 * queries * settings.pearl_grid**2 * 4
