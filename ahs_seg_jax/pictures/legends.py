"""Pictures of one or several results for people: legends beside overlays, heat maps, comparisons. Pillow alone.

Text always stands on the program's own background, never on the image, so that it can be read whatever the image shows.
Images are uint8 RGB `[H, W, 3]`; labels int `[H, W]`, -1 = unknown.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.vocabulary import first_synonym

# Dark blue to yellow: lightness grows with the value, for normal and red-green blind eyes alike.
HEAT = np.array(
    [[0, 22, 66], [40, 60, 118], [95, 100, 125], [150, 140, 118], [205, 184, 90], [255, 233, 60]], np.float32
)
LEAST_TEXT, MOST_TEXT = 12, 28  # pixels
BLACK = (0, 0, 0)  # the square of pixels without a class
SHARE_OF_TEXT = 1 / 36  # height of the text, as a share of the picture's

Result = tuple[str, np.ndarray, Sequence[str], np.ndarray]  # title, labels, names, colours


def with_legend(picture: np.ndarray, labels: np.ndarray, names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """The picture with a legend to its right: colour, name and share of each class present, the largest first."""
    panel = legend(labels, names, colors, picture.shape[0])
    height = max(panel.shape[0], picture.shape[0])
    return np.concatenate([_filled(picture, height), _filled(panel, height)], axis=1)


def legend(labels: np.ndarray, names: Sequence[str], colors: np.ndarray, height: int) -> np.ndarray:
    """Colour, name and share of each class present, in text whose size follows from the picture's `height`."""
    size = int(np.clip(height * SHARE_OF_TEXT, LEAST_TEXT, MOST_TEXT))
    unknown = float((labels < 0).mean())
    last = [Row(BLACK, "unknown", (overlays.percent(100 * unknown),))] if unknown else []
    margin = size // 2
    table = draw_table(rows([shares(labels, len(names), of_all=True)], names, colors), height, last, size)
    return np.pad(table, ((0, 0), (margin, margin), (0, 0)), constant_values=255)


class Row(NamedTuple):
    """One line of a legend: the colour of its square, if it has one, a name, and a number for each column."""

    color: tuple[int, ...] | None
    name: str
    numbers: tuple[str, ...] = ()


def shares(labels: np.ndarray, classes: int, of_all: bool = False) -> np.ndarray:
    """The share of each class, float64 `[t]` in 0..1: of all pixels, or of those that have a class."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    return counts / max(labels.size if of_all else counts.sum(), 1)


def rows(columns: Sequence[np.ndarray], names: Sequence[str], colors: np.ndarray) -> list[Row]:
    """A row for each class that has a share in one of the columns `[t]`, the largest first."""
    largest = np.max(columns, axis=0)
    order = [index for index in np.argsort(-largest, kind="stable").tolist() if largest[index] > 0]
    numbers = lambda index: tuple(overlays.percent(100 * float(column[index])) for column in columns)
    return [Row(tuple(colors[i].tolist()), first_synonym(names[i]), numbers(i)) for i in order]


def draw_table(
    rows: Sequence[Row],
    height: int,
    last: Sequence[Row] = (),
    size: int = overlays.TEXT_SIZE,
    headings: Sequence[str] = (),
) -> np.ndarray:
    """A legend, uint8 RGB: a line for each row and for those of `last`, and above them the headings of the columns.

    `size` is the text's, in pixels. Rows that do not fit into `height` pixels are counted in a line of their own.
    """
    font, line = overlays.font(size), round(1.5 * size)
    room = max(1, height // line - len(last) - bool(headings))
    hidden = len(rows) - (room - 1) if len(rows) > room else 0
    more = [Row(None, f"and {hidden} more")] if hidden else []
    lines = [Row(None, "", tuple(headings))] * bool(headings) + [*rows[: len(rows) - hidden], *more, *last]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [overlays.fitted(row.name, 16 * size, measure, font) for row in lines]
    left = line  # the square of the colour comes first
    right = left + int(max((font.getlength(name) for name in names), default=0))
    numbers = [number for row in lines for number in row.numbers]
    column = size + int(max((font.getlength(number) for number in numbers), default=-size))
    columns = max((len(row.numbers) for row in lines), default=0)
    canvas = Image.new("RGB", (right + columns * column, max(height, line * len(lines))), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for place, (row, name) in enumerate(zip(lines, names, strict=True)):
        top, middle = place * line, place * line + line // 2
        ink = overlays.TEXT if row.color else overlays.FAINT
        if row.color:
            draw.rectangle((0, top + line // 6, size, top + line // 6 + size), row.color, overlays.FAINT)
        draw.text((left, middle), name, ink, font, anchor="lm")
        for number, text in enumerate(row.numbers, 1):
            draw.text((right + number * column, middle), text, ink, font, anchor="rm")
    return np.asarray(canvas)


def heat_map(image: np.ndarray, probability: np.ndarray, name: str, alpha: float = 0.7) -> np.ndarray:
    """A probability float `[H, W]` in 0..1 in colour over the grey image, above a scale with the name."""
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    blended = (1 - alpha) * grey + alpha * heat(probability)
    height, width = probability.shape
    size = int(np.clip(height * SHARE_OF_TEXT, LEAST_TEXT, MOST_TEXT))
    font, top = overlays.font(size), round(2.2 * size)
    canvas = Image.new("RGB", (max(width, 12 * size), top), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text(
        (size // 3, top // 2),
        overlays.fitted(first_synonym(name), 6 * size, draw, font),
        overlays.TEXT,
        font,
        anchor="lm",
    )
    scale = heat(np.linspace(0, 1, 4 * size)[None].repeat(size, axis=0)).round().astype(np.uint8)
    right = canvas.width - size - font.getlength("1")
    draw.text((right + size // 3, top // 2), "1", overlays.TEXT, font, anchor="lm")
    canvas.paste(Image.fromarray(scale), (int(right) - 4 * size, (top - size) // 2))
    draw.text((right - 4.3 * size, top // 2), "0", overlays.TEXT, font, anchor="rm")
    picture = _filled(blended.round().astype(np.uint8), height, canvas.width)
    return np.concatenate([np.asarray(canvas), picture])


def comparison(image: np.ndarray, results: Sequence[Result], alpha: float = 0.6) -> np.ndarray:
    """Results of one image side by side with their legends, and last where two of them differ in the name of a pixel.

    Raises ValueError if a result covers other pixels than the image.
    """
    parts = [
        _titled(title, with_legend(overlays.overlay(image, labels, colors, alpha), labels, names, colors))
        for title, labels, names, colors in results
    ]
    if len(results) == 2:
        differs = _differs(*results)
        shown = np.where(differs[..., None], np.array([255, 233, 60]), image * 0.35).round().astype(np.uint8)
        parts.append(_titled(f"differ: {overlays.percent(100 * differs.mean())}", shown))
    height = max(part.shape[0] for part in parts)
    gap = np.full((height, overlays.GAP, 3), 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (_filled(part, height), gap)][:-1], axis=1)


def _differs(first: Result, second: Result) -> np.ndarray:
    """Bool `[H, W]`: the two results name a pixel differently, whatever the order of their names."""
    known = {name: index for index, name in enumerate(first[2])}
    place = np.array([*(known.get(name, len(known) + i) for i, name in enumerate(second[2])), -1])
    return first[1] != place[second[1]]


def _titled(title: str, picture: np.ndarray) -> np.ndarray:
    canvas = Image.new("RGB", (picture.shape[1], overlays.HEADER), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 4), overlays.fitted(title, picture.shape[1] - 8, draw), overlays.TEXT, overlays.font())
    return np.concatenate([np.asarray(canvas), picture])


def heat(values: np.ndarray) -> np.ndarray:
    """Float32 colours `[H, W, 3]` of values in 0..1."""
    places = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, places, HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def _filled(picture: np.ndarray, height: int, width: int = 0) -> np.ndarray:
    missing = ((0, height - picture.shape[0]), (0, max(0, width - picture.shape[1])), (0, 0))
    return np.pad(picture, missing, constant_values=255)
