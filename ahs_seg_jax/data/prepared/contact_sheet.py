"""A picture of a few examples with their labels laid over them and named, for a person to look at."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.data.source import Source
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.pictures import legends, overlays
from ahs_seg_jax.pictures.colors import assign_colors

COLUMNS = 4
WIDTH = 360  # of a picture, in pixels
TEXT = 13  # size of what is written below a picture, pixels
LINES = 6  # of the legend below it
GAP = 8


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
    """The overlay, the example's name, and a legend of its largest classes."""
    try:
        example = source[index]
    except CorruptExample as error:
        image, legend = np.zeros((WIDTH // 2, WIDTH, 3), np.uint8), None
        problem = textwrap.fill(str(error), 3 * WIDTH // (2 * TEXT))
    else:
        colors, problem = assign_colors(source.vocabulary.names), ""
        size = (WIDTH, max(1, round(example["image"].shape[0] * WIDTH / example["image"].shape[1])))
        small = np.asarray(Image.fromarray(example["image"]).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(example["label"]).resize(size, Image.Resampling.NEAREST))
        image, legend = overlays.overlay(small, labels, colors), _legend(source, example["label"], colors)
    line, top = round(1.5 * TEXT), image.shape[0]
    tile = Image.new("RGB", (WIDTH, top + line * (LINES + 1)), overlays.BACKGROUND)
    tile.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(tile)
    draw.multiline_text((GAP, GAP), problem, overlays.BACKGROUND, overlays.font(TEXT))
    draw.text((0, top + line // 2), source.name(index), overlays.FAINT, overlays.font(TEXT), anchor="lm")
    if legend is not None:
        tile.paste(Image.fromarray(legend), (0, top + line))
    return tile


def _legend(source: Source, label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    names = getattr(source, "scored_names", source.vocabulary.names)
    last = [legends.Row(legends.BLACK, "unlabelled", (overlays.percent(100 * float((label < 0).mean())),))]
    rows = legends.rows([legends.shares(label, len(names), of_all=True)], names, colors)
    return legends.draw_table(rows, LINES * round(1.5 * TEXT), last, TEXT)
