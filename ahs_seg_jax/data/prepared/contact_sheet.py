"""A picture of a few examples with their labels laid over them and named, for a person to look at."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.pictures.colors import assign_colors

COLUMNS = 4
WIDTH = 360  # of a picture, in pixels
NAMED = 5  # largest classes written below it
LINE = 18  # height of a line of text
GAP = 8
_Line = tuple[str, tuple[int, int, int] | None]  # text, and the colour of the square before it


def contact_sheet(source: Source, examples: int) -> np.ndarray:
    """uint8 RGB: overlays of examples spread over the source; below each its name and its largest classes.

    Unreadable examples say so in their place.
    """
    indices = np.linspace(0, len(source) - 1, min(examples, len(source))).round().astype(int)
    tiles = [_tile(source, int(index)) for index in indices]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    width = max(len(row) for row in rows) * (WIDTH + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP), overlays.BACKGROUND)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (WIDTH + GAP), top))
        top += height
    return np.asarray(sheet)


def _tile(source: Source, index: int) -> Image.Image:
    """The overlay, the name, and a line for each of its largest classes."""
    names = getattr(source, "scored_names", source.vocabulary.names)
    try:
        example = source[index]
    except CorruptExample as error:
        image = np.zeros((WIDTH // 2, WIDTH, 3), np.uint8)
        lines: list[_Line] = [(str(error), None)]
    else:
        image, label = example["image"], example["label"]
        colors = assign_colors(source.vocabulary.names)
        scale = WIDTH / image.shape[1]
        size = (WIDTH, max(1, round(image.shape[0] * scale)))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
        image = overlays.overlay(small, labels, colors)
        lines = _largest(label, names, colors)
    tile = Image.new("RGB", (WIDTH, image.shape[0] + LINE * (NAMED + 1)), overlays.BACKGROUND)
    tile.paste(Image.fromarray(image))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(13)
    draw.text((0, image.shape[0] + 2), source.name(index), overlays.FAINT, font)
    for row, (text, color) in enumerate(lines, start=1):
        top = image.shape[0] + row * LINE
        if color is not None:
            draw.rectangle((0, top + 2, LINE - 4, top + LINE - 2), color)
        draw.text((LINE, top + 2), text, overlays.TEXT, font)
    return tile


def _largest(label: np.ndarray, names: tuple[str, ...], colors: np.ndarray) -> list[_Line]:
    """(class and share, colour) of the largest classes, and the share without a class."""
    counts = np.bincount(label[label >= 0], minlength=len(names))
    order = [int(k) for k in np.argsort(-counts, kind="stable")[: NAMED - 1] if counts[k]]
    lines: list[_Line] = []
    for k in order:
        red, green, blue = (int(channel) for channel in colors[k])
        lines.append((f"{names[k].split(', ')[0]} {counts[k] / label.size:.0%}", (red, green, blue)))
    return [*lines, (f"unlabelled {(label < 0).mean():.0%}", None)]
