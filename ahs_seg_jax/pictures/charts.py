"""Plain charts, uint8 RGB `[H, W, 3]`, made with Pillow alone: sorted bars, columns by layer, lines over time."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.vocabulary import first_synonym

FULL, LIGHT, GRID = (31, 78, 140), (168, 196, 230), (225, 225, 225)
MARGIN, ROW, BAR_WIDTH, NAME_WIDTH, VALUE_WIDTH = 16, 20, 200, 200, 56
ROWS = 60  # of bars in a column
PLOT_HEIGHT, COLUMN, AXIS_WIDTH = 220, 34, 40
TIME_WIDTH, LINES = 640, 11  # of lines over time


def sorted_bars(names: Sequence[str], values: np.ndarray, title: str) -> np.ndarray:
    """A bar for each value in 0..1, the largest first. A column holds `ROWS` bars; the others follow to its right."""
    order = np.argsort(-values, kind="stable").tolist()
    block = NAME_WIDTH + BAR_WIDTH + VALUE_WIDTH + 2 * MARGIN
    columns, rows = -(-len(order) // ROWS), min(len(order), ROWS)
    canvas, draw = _canvas(MARGIN + columns * block, 3 * MARGIN + ROW + rows * ROW, title)
    for place, index in enumerate(order):
        left, top = MARGIN + place // ROWS * block, 2 * MARGIN + ROW + place % ROWS * ROW
        start, middle = left + NAME_WIDTH + MARGIN // 2, top + ROW // 2
        name = overlays.fitted(first_synonym(names[index]), NAME_WIDTH, draw)
        draw.text((left + NAME_WIDTH, middle), name, overlays.TEXT, overlays.font(), anchor="rm")
        draw.rectangle((start, top + 3, start + BAR_WIDTH, top + ROW - 4), GRID)
        draw.rectangle((start, top + 3, start + round(BAR_WIDTH * float(values[index])), top + ROW - 4), FULL)
        draw.text((start + BAR_WIDTH + 8, middle), f"{values[index]:.3f}", overlays.TEXT, overlays.font(), anchor="lm")
    return np.asarray(canvas)


def layer_strengths(towers: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> np.ndarray:
    """HA-HEM by layer: a chart for each tower, given as (title, alpha `[l]`, applied `[l]`), side by side.

    Each layer has a column: alpha in a light colour, and the part of it that is applied in a full one; both in 0..1.
    """
    widths = [AXIS_WIDTH + max(len(alpha) * COLUMN, 9 * COLUMN) + 2 * MARGIN for _, alpha, _ in towers]
    title = "HA-HEM: how far each layer's rotation leaves the identity"
    canvas, draw = _canvas(sum(widths) + MARGIN, PLOT_HEIGHT + 4 * ROW + 3 * MARGIN, title)
    left, bottom = MARGIN, MARGIN + 2 * ROW + MARGIN + PLOT_HEIGHT
    for tower, width in zip(towers, widths, strict=True):
        _plot(draw, tower, left, bottom, width - 2 * MARGIN)
        left += width
    top = bottom + ROW + MARGIN
    for x, color, text in ((MARGIN, LIGHT, "alpha"), (MARGIN + 100, FULL, "alpha x beta, what acts")):
        draw.rectangle((x, top + 3, x + ROW - 6, top + ROW - 4), color)
        draw.text((x + ROW, top + ROW // 2), text, overlays.TEXT, overlays.font(), anchor="lm")
    return np.asarray(canvas)


def _plot(
    draw: ImageDraw.ImageDraw, tower: tuple[str, np.ndarray, np.ndarray], left: int, bottom: int, width: int
) -> None:
    heading, strengths, strengths_applied = tower
    draw.text((left + AXIS_WIDTH, bottom - PLOT_HEIGHT - ROW), heading, overlays.TEXT, overlays.font(), anchor="lm")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - round(share * PLOT_HEIGHT)
        draw.line((left + AXIS_WIDTH, y, left + width, y), overlays.FAINT if not share else GRID)
        draw.text((left + AXIS_WIDTH - 6, y), f"{share:g}", overlays.TEXT, overlays.font(), anchor="rm")
    for layer, (alpha, applied) in enumerate(zip(strengths.tolist(), strengths_applied.tolist(), strict=True)):
        x = left + AXIS_WIDTH + layer * COLUMN + 5
        for value, color in ((alpha, LIGHT), (applied, FULL)):
            draw.rectangle((x, bottom - round(value * PLOT_HEIGHT), x + COLUMN - 10, bottom), color)
        draw.text((x + COLUMN // 2 - 5, bottom + ROW // 2), str(layer), overlays.TEXT, overlays.font(), anchor="mm")


def _canvas(width: int, height: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (width, height), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), overlays.fitted(title, width - 2 * MARGIN, draw), overlays.TEXT, overlays.font())
    return canvas, draw


def over_time(
    names: Sequence[str], seconds: np.ndarray, shares: np.ndarray, colors: np.ndarray, title: str
) -> np.ndarray:
    """Shares `[frames, t]` in 0..1 over `seconds` `[frames]`: a line for each of the largest names, in its colour."""
    shown = np.argsort(-shares.mean(axis=0), kind="stable")[:LINES].tolist()
    shown = [index for index in shown if shares[:, index].any()]
    canvas, draw = _canvas(AXIS_WIDTH + TIME_WIDTH + NAME_WIDTH + 4 * MARGIN, PLOT_HEIGHT + 3 * ROW + 3 * MARGIN, title)
    left, bottom = MARGIN + AXIS_WIDTH, 2 * MARGIN + ROW + PLOT_HEIGHT
    top_share, last = max(float(shares.max()), 1e-6), max(float(seconds.max()), 1e-6)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = bottom - round(part * PLOT_HEIGHT), left + round(part * TIME_WIDTH)
        draw.line((left, y, left + TIME_WIDTH, y), overlays.FAINT if not part else GRID)
        draw.text((left - 6, y), f"{100 * part * top_share:.0f} %", overlays.TEXT, overlays.font(), anchor="rm")
        draw.text((x, bottom + ROW // 2), f"{part * last:.4g} s", overlays.TEXT, overlays.font(), anchor="mm")
    for place, index in enumerate(shown):
        color = tuple(colors[index].tolist())
        points = np.stack([left + seconds / last * TIME_WIDTH, bottom - shares[:, index] / top_share * PLOT_HEIGHT], 1)
        corners = list(map(tuple, points.tolist()))
        draw.line(corners * 2 if len(corners) == 1 else corners, color, width=2)
        y = bottom - PLOT_HEIGHT + place * ROW
        draw.rectangle((left + TIME_WIDTH + MARGIN, y, left + TIME_WIDTH + MARGIN + 12, y + 12), color)
        name = overlays.fitted(first_synonym(names[index]), NAME_WIDTH - 24, draw)
        draw.text((left + TIME_WIDTH + MARGIN + 20, y + 6), name, overlays.TEXT, overlays.font(), anchor="lm")
    return np.asarray(canvas)
