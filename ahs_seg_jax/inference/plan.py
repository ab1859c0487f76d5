"""How much memory a segmentation takes, and how it is divided so that it fits: known before anything runs.

The figures are estimates from the model's sizes; RUNTIME is what a measured run took beyond the rest (ViT-B/16, 1,000
classes, all kept, 4000 x 3000 pixels on a CPU: 3.05e9 bytes at its peak).
"""

import dataclasses
import math
from typing import Any

import jax

from ahs_seg_jax.inference import buckets, tiles
from ahs_seg_jax.inference.native_windows import TILE, Grid, NativeWindows
from ahs_seg_jax.inference.views import views_shape
from ahs_seg_jax.models.architecture import ModelConfig

RUNTIME = 1.1e9  # Python, JAX and compiled programs
# Temporaries of one pass. On a CPU more would leave a core's caches, and be asked of the system anew in every pass.
WORKING = {"cpu": 1e8}
WORKING_ELSEWHERE = 8e9
CHUNKS = {"cpu": (32, 24, 16, 12, 8, 6)}
CHUNKS_ELSEWHERE = (256, 128, 64, 32, 16, 8)
# What classes between the passes take beyond their size: a CPU's allocator leaves freed temporaries between them (measured:
# 5,000 classes of ViT-B/16 at 480 x 640 took 3.4e9 bytes beyond the model's, of which 1.5e9 are their states).
SPREAD = {"cpu": 2.0}
SPARE = 0.2  # of an image's views: what groups of views may be filled up with
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

    @property
    def gigabytes(self) -> float:
        """The estimate for all of it."""
        return sum(self.parts.values()) / 1e9

    def __str__(self) -> str:
        height, width = self.size
        cut = "" if self.kept == self.classes else f", of which each view keeps the best {self.kept}"
        passes = math.ceil(self.kept / self.chunk)
        strips = f", strips of {self.columns * TILE} pixels" if self.columns else ""
        lines = [
            f"{width} x {height} pixels, {self.views} view(s), {self.at_once} at once{strips}",
            f"{self.classes} classes{cut}, in {passes} pass(es) of {self.chunk}",
            *(f"  {name:28} {value / 1e9:6.2f} GB" for name, value in self.parts.items()),
            f"  {'in all, about':28} {self.gigabytes:6.2f} GB",
        ]
        return "\n".join(lines)


def make_plan(
    config: ModelConfig,
    params: Any,
    *,
    classes: int,
    size: tuple[int, int],
    protocol: str,
    keep: int | None,
    memory_gb: float | None = None,
    probabilities: bool = False,
    images: int = 1,
    platform: str | None = None,
    windows: NativeWindows | None = None,
    streamed: bool = False,
) -> Plan:
    """The plan that fits `memory_gb` (1e9 bytes; None: no limit): the largest chunk, then the most views at once.

    With `windows` the protocol does not matter; `streamed`: neither image nor result is in memory as a whole.

    Raises:
      ValueError: not even the smallest chunk fits; the message says what takes the memory and what helps.
    """
    platform = platform or jax.default_backend()
    kept = classes if keep is None else min(classes, keep)
    if windows is None:
        grid, columns, views = None, None, views_shape(protocol, config.image.crop)[0]
        fixed = _fixed(config, params, classes, size, views, probabilities)
    else:
        grid = windows.grid(size, config.image.crop)
        columns, views = _strip(grid, classes * _logits(config), memory_gb), grid.count
        fixed = _fixed_of_windows(params, grid, classes, streamed, probabilities)
    held = grid.held(columns) if grid and columns else views
    plan = None
    chunks = CHUNKS.get(platform, CHUNKS_ELSEWHERE)
    for most in chunks:
        chunk = buckets.chunk_size(kept, most, buckets.passes_at_once(platform))
        together = 1 if kept < classes else buckets.bucket(views * images, buckets.VIEW_BUCKETS)
        for at_once in sorted({v for v in buckets.VIEW_BUCKETS if v <= together}, reverse=True):
            working = chunk * at_once * class_bytes(config)
            too_much = working > WORKING.get(platform, WORKING_ELSEWHERE)
            if too_much and (at_once > 1 or most > chunks[-1]):
                continue
            if at_once > 1 and not grid and _filling(views, images, at_once) > SPARE * views:
                continue
            logits = max(held, at_once) * classes * _logits(config)
            states = SPREAD.get(platform, 1.0) * -(-kept // chunk) * chunk * at_once * state_bytes(config)
            passes = working * min(buckets.passes_at_once(platform), -(-kept // chunk))
            parts = fixed | {"logits": logits, "classes between the passes": states, "passes at work": passes}
            plan = Plan(classes, kept, views, size, chunk, at_once, parts, columns)
            if memory_gb is None or plan.gigabytes <= memory_gb:
                return plan
    assert plan is not None
    raise ValueError(
        f"this needs about {plan.gigabytes:.1f} GB, more than memory_gb = {memory_gb:g}:\n{plan}\n"
        "Fewer classes, keep=256 (a cut to each view's best classes), protocol 'whole' or a smaller image need less"
    )


def _fixed(
    config: ModelConfig, params: Any, classes: int, size: tuple[int, int], views: int, probabilities: bool
) -> dict[str, float]:
    """What does not depend on the chunk."""
    rows, columns = (buckets.bucket(extent, buckets.OUTPUT_BUCKETS) for extent in size)
    pixels = size[0] * size[1]
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    parts = {
        "runtime and programs": RUNTIME,
        "weights": float(weights),
        "image and its views": 3.0 * pixels + 12.0 * views * config.image.crop**2 + 50e6,
        "labels and confidence": 16.0 * rows * columns + 8.0 * pixels,
    }
    return parts | ({"probabilities": 4.0 * classes * pixels} if probabilities else {})


def _filling(views: int, images: int, at_once: int) -> float:
    """Copies of views that are computed only to fill up a group, for each image."""
    together = min(images, max(1, at_once // views))
    return (-together * views % at_once) / together


def _fixed_of_windows(params: Any, grid: Grid, classes: int, streamed: bool, probabilities: bool) -> dict[str, float]:
    """As `_fixed`, for native windows. A tile's classes exist twice where they are added up and chosen."""
    pixels = float(grid.size[0] * grid.size[1])
    tile = 2 * 4.0 * tiles.CLASSES_AT_ONCE * (TILE + grid.window) ** 2
    parts = {
        "runtime and programs": RUNTIME,
        "weights": float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))),
        "image, labels, confidence": 1e8 if streamed else 11 * pixels,
        "tiles": tile + (4.0 * classes * TILE**2 if probabilities else 0.0),
    }
    return parts | ({"probabilities": 4.0 * classes * pixels} if probabilities and not streamed else {})


def _strip(grid: Grid, window_bytes: float, memory_gb: float | None) -> int:
    """Columns of tiles in a strip: as many as hold their windows' logits in HELD, or half of a smaller bound."""
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
