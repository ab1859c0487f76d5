"""How much memory a segmentation takes, and how it is divided so that it fits: known before anything runs.

The figures are estimates from the model's sizes; RUNTIME is what a measured run took beyond the rest (ViT-B/16, 1,000
classes, all kept, 4000 x 3000 pixels on a CPU: 3.05e9 bytes at its peak).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from ahs_seg_jax.inference import buckets, keeping, labelling, tiles
from ahs_seg_jax.inference.keeping import Keep
from ahs_seg_jax.inference.native_windows import TILE, Grid, NativeWindows
from ahs_seg_jax.inference.protocols import Protocol
from ahs_seg_jax.models.architecture import ModelConfig

RUNTIME = 1.1e9  # Python, JAX and compiled programs
# Bytes of one pass's temporaries. On a CPU, more would not stay in a core's caches, and the allocator would ask the
# system for the memory anew in every pass.
WORKING = {"cpu": 1e8}
WORKING_ELSEWHERE = 8e9
CHUNKS = {"cpu": (32, 24, 16, 12, 8, 6)}
CHUNKS_ELSEWHERE = (256, 128, 64, 32, 16, 8)
# How many times their own size the classes between the passes take: a CPU's allocator leaves freed temporaries between
# them. Measured: 5,000 classes of ViT-B/16 at 480 x 640 took 3.4e9 bytes beyond the model's, of which 1.5e9 are states.
SPREAD = {"cpu": 2.0}
SPARE = 0.2  # the share of an image's views that may be computed only to fill up a group
HELD = 1e9  # logits of native windows that are held together; a wider image is divided into strips


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is computed together, and the bytes that it takes."""

    classes: int
    kept: int  # classes a view keeps; equal to `classes` if none are cut
    views: int  # of one image
    size: tuple[int, int]  # (h, w) of the image
    chunk: int  # classes of one pass
    at_once: int  # views computed together
    parts: dict[str, float]  # bytes, by what needs them
    columns: int | None = None  # of tiles that make a strip, with native windows
    method: str = "aggregator"  # or a training-free one
    refinement: str = "none"  # of a training-free method's logits
    margin: keeping.Margin | None = None  # by which each view keeps classes, in place of a number

    @property
    def gigabytes(self) -> float:
        """The estimate for all of it."""
        return sum(self.parts.values()) / 1e9

    def __str__(self) -> str:
        height, width = self.size
        cut = "" if self.kept == self.classes else f", of which each view keeps the best {self.kept}"
        if self.margin is not None:
            cut = f", of which each view keeps {self.margin}, at most {self.kept}"
        passes = math.ceil(self.kept / self.chunk)
        strips = f", strips of {self.columns * TILE} pixels" if self.columns else ""
        by = [] if self.method == "aggregator" else [f"training-free method {self.method}, {self._refined()}"]
        lines = [
            *by,
            f"{width} x {height} pixels, {self.views} view(s), {self.at_once} at once{strips}",
            f"{self.classes} classes{cut}, in {passes} pass(es) of {self.chunk}",
            *(f"  {name:28} {value / 1e9:6.2f} GB" for name, value in self.parts.items()),
            f"  {'in all, about':28} {self.gigabytes:6.2f} GB",
        ]
        return "\n".join(lines)

    def _refined(self) -> str:
        return "not refined" if self.refinement == "none" else f"refined by {self.refinement}"


@dataclasses.dataclass(frozen=True)
class Request:
    """What a plan is made for: images of `size` (h, w) with so many classes, seen by a protocol or by native windows.

    `keep` says which classes each view keeps. `streamed`: neither the image nor its result is in
    memory as a whole. `images` is how many images of this size are segmented in one call.
    """

    size: tuple[int, int]
    classes: int
    seen_by: Protocol | NativeWindows
    keep: Keep = None
    images: int = 1
    probabilities: bool = False
    streamed: bool = False

    @property
    def kept(self) -> int:
        """Classes that a view keeps at most."""
        return keeping.most_kept(self.keep, self.classes)

    @property
    def cut(self) -> bool:
        """Whether each view may keep other classes."""
        return keeping.cuts(self.keep, self.classes)


def make_plan(config: ModelConfig, params: Any, request: Request, memory_gb: float | None = None) -> Plan:
    """The plan that fits `memory_gb` (1e9 bytes; None: no limit): the largest class chunk, then the most views at once.

    Raises:
      ValueError: not even the smallest chunk fits; the message says what takes the memory and what helps.
    """
    fixed, views, held, columns = _fixed(config, params, request, memory_gb)
    platform, classes, kept = jax.default_backend(), request.classes, request.kept
    plan = None
    for chunk, at_once in _candidates(config, request, views, platform):
        working = chunk * at_once * class_bytes(config)
        states = SPREAD.get(platform, 1.0) * -(-kept // chunk) * chunk * at_once * state_bytes(config)
        passes = working * min(buckets.passes_at_once(platform), -(-kept // chunk))
        logits = max(held, at_once) * classes * _logits(config)
        parts = fixed | {"logits": logits, "classes between the passes": states, "passes at work": passes}
        margin = request.keep if isinstance(request.keep, keeping.Margin) and request.cut else None
        plan = Plan(classes, kept, views, request.size, chunk, at_once, parts, columns, margin=margin)
        if memory_gb is None or plan.gigabytes <= memory_gb:
            return plan
    assert plan is not None
    raise ValueError(
        f"this needs about {plan.gigabytes:.1f} GB, more than memory_gb = {memory_gb:g}:\n{plan}\n"
        "Fewer classes, keep=256 (a cut to each view's best classes), protocol 'whole' or a smaller image need less"
    )


def _candidates(config: ModelConfig, request: Request, views: int, platform: str) -> Iterator[tuple[int, int]]:
    """(classes of a chunk, views at once), the fastest first; what one pass needs suits the platform's memory."""
    chunks = CHUNKS.get(platform, CHUNKS_ELSEWHERE)
    tiled = isinstance(request.seen_by, NativeWindows)
    together = 1 if request.cut else buckets.bucket(views * request.images, buckets.VIEW_BUCKETS)
    for most in chunks:
        chunk = buckets.chunk_size(request.kept, most, buckets.passes_at_once(platform))
        for at_once in sorted({v for v in buckets.VIEW_BUCKETS if v <= together}, reverse=True):
            too_much = chunk * at_once * class_bytes(config) > WORKING.get(platform, WORKING_ELSEWHERE)
            too_filled = not tiled and _filling(views, request.images, at_once) > SPARE * views
            last_resort = at_once == 1 and most == chunks[-1]
            if last_resort or not (too_much or (at_once > 1 and too_filled)):
                yield chunk, at_once


def _fixed(
    config: ModelConfig, params: Any, request: Request, memory_gb: float | None
) -> tuple[dict[str, float], int, int, int | None]:
    """What does not depend on the chunk: bytes by what needs them, views, views held, columns of a strip."""
    pixels, seen_by = float(request.size[0] * request.size[1]), request.seen_by
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    parts = {"runtime and programs": RUNTIME, "weights": float(weights)}
    columns: int | None = None
    if isinstance(seen_by, NativeWindows):
        grid = seen_by.grid(request.size, config.image.crop)
        columns, views = strip(grid, request.classes * _logits(config), memory_gb), grid.count
        held = grid.held(columns)
        # A tile's classes exist twice where they are added up and chosen.
        tile = 2 * 4.0 * tiles.CLASSES_AT_ONCE * (TILE + grid.window) ** 2
        parts["image, labels, confidence"] = 1e8 if request.streamed else 11 * pixels
        parts["tiles"] = tile + (4.0 * request.classes * TILE**2 if request.probabilities else 0.0)
    else:
        rows, wide = (buckets.bucket(extent, buckets.OUTPUT_BUCKETS) for extent in request.size)
        held = views = seen_by.views_shape(config.image.crop, request.size)[0]
        parts["image and its views"] = 3.0 * pixels + 12.0 * views * config.image.crop**2 + 50e6
        at_once, band = labelling.step_of(rows, wide, jax.default_backend())  # resized along the columns, then the rows
        parts["labels and confidence"] = 16.0 * rows * wide + 8.0 * pixels + 2 * 4.0 * at_once * band * wide
    if request.probabilities and not request.streamed:
        parts["probabilities"] = 4.0 * request.classes * pixels
    return parts, views, held, columns


def _filling(views: int, images: int, at_once: int) -> float:
    """Copies of views that are computed only to fill up a group, for each image."""
    together = min(images, max(1, at_once // views))
    return (-together * views % at_once) / together


def strip(grid: Grid, window_bytes: float, memory_gb: float | None) -> int:
    """Columns of the widest strip of tiles whose logits fit into HELD bytes, or into half of a smaller bound."""
    bound = HELD if memory_gb is None else min(HELD, 0.5e9 * memory_gb)
    fitting = (n for n in range(grid.tiles()[1], 1, -1) if grid.held(n) * window_bytes <= bound)
    return next(fitting, 1)


def _logits(config: ModelConfig) -> float:
    """Bytes of the logits of one class of one view."""
    return 4.0 * (4 * config.grid) ** 2


def state_bytes(config: ModelConfig) -> float:
    """What one class of one view occupies between two passes."""
    return float(config.grid**2 * config.aggregator.hidden * _item(config))


def class_bytes(config: ModelConfig) -> float:
    """Temporaries of one class of one view: the larger of a Swin block's and the decoder's."""
    c, tokens = config.aggregator, config.grid**2
    window = min(config.grid, c.window) ** 2
    swin = tokens * (2 * 4 * c.heads * window + _item(config) * c.hidden * (6 + 2 * c.mlp_ratio))
    first, second = c.decoder
    decoder = 4 * tokens * 4 * (c.hidden + 3 * first) + 16 * tokens * 4 * (2 * first + 3 * second)
    return 1.25 * max(swin, decoder)


def _item(config: ModelConfig) -> int:
    return 2 if config.dtype == "bfloat16" else 4
