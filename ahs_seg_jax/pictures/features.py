"""Pictures of what a model computes: features as colours, and pictures with titles in a table. Pillow alone.

Axes: h w feature grid, e channel.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.pictures import overlays

MIDDLE = (2, 98)  # percentiles of the values along a direction that span the range of a colour
SIDE = 216  # pixels, of a picture in a table


def as_colors(features: np.ndarray) -> np.ndarray:
    """Features float `[h, w, e]` as a picture uint8 `[h, w, 3]`: alike colours are alike features, within one picture.

    Red, green and blue are the three directions along which the features vary most.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
    # A direction is as good as its opposite. The largest part counts as positive, so that all machines agree.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    found = np.zeros((len(flat), 3))
    found[:, : len(directions)] = flat @ (directions * np.sign(largest)).T
    low, high = np.percentile(found, MIDDLE, axis=0)
    shares = ((found - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    return (255 * shares).round().astype(np.uint8).reshape(*features.shape[:2], 3)


def table(rows: Sequence[Sequence[tuple[str, np.ndarray]]], side: int = SIDE) -> np.ndarray:
    """Pictures uint8 RGB with their titles, row by row, each enlarged or reduced to a longer edge of `side` pixels."""
    cells = [[(title, _resized(picture, side)) for title, picture in row] for row in rows]
    heights = [overlays.HEADER + max(picture.height for _, picture in row) + overlays.GAP for row in cells]
    width = max(len(row) for row in cells) * (side + overlays.GAP) + overlays.GAP
    canvas = Image.new("RGB", (width, sum(heights)), overlays.BACKGROUND)
    draw, top = ImageDraw.Draw(canvas), 0
    for row, height in zip(cells, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            left = overlays.GAP + column * (side + overlays.GAP)
            draw.text((left, top + 4), overlays.fitted(title, side, draw), overlays.TEXT, overlays.font())
            canvas.paste(picture, (left, top + overlays.HEADER))
        top += height
    return np.asarray(canvas)


def _resized(picture: np.ndarray, side: int) -> Image.Image:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return Image.fromarray(picture).resize((max(1, round(width * scale)), max(1, round(height * scale))), method)
