"""Pictures of segmentations: colours laid over the image, and panels with labels, prediction and a legend.

Images are uint8 RGB `[H, W, 3]`; labels int `[H, W]`, class index or -1 = unlabelled.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import Vocabulary

ROW = 20  # height of a legend row
SWATCH = 18  # side of a legend's colour sample
NAME_WIDTH = 230  # longest class name in a legend; the rest is cut off
COLUMN = 78  # width of a legend's column of percentages
SHORTEST_EDGE = 240  # smaller images are enlarged in panels, in whole steps, so that pixels stay visible
LONGEST_EDGE = 640  # larger ones are reduced


def panel(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    vocabulary: Vocabulary,
    title: str = "",
) -> np.ndarray:
    """One picture, uint8: image | labels | prediction | legend of the classes present, the largest first.

    Without labels (`label` None) that part is left out. The legend gives each class's share of the labels and of
    the prediction in percent; classes that do not fit are counted in a last row.
    """
    size = _display_size(*image.shape[:2])
    shown = _resized(image, size, Image.Resampling.BOX if size[0] < image.shape[0] else Image.Resampling.NEAREST)
    pictures = [("image", shown)]
    for name, labels in (("labels", label), ("prediction", prediction)):
        if labels is not None:
            labels = _resized(labels.astype(np.int32), size, Image.Resampling.NEAREST)
            pictures.append((name, overlays.overlay(shown, labels, assign_colors(vocabulary.names))))
    pictures.append(("", _legend(label, prediction, vocabulary, height=max(size[0], 8 * ROW))))
    height = overlays.HEADER + max(picture.shape[0] for _, picture in pictures)
    width = sum(picture.shape[1] for _, picture in pictures) + overlays.GAP * (len(pictures) + 1)
    canvas = Image.new("RGB", (width, height + overlays.GAP), overlays.BACKGROUND)
    draw, left = ImageDraw.Draw(canvas), overlays.GAP
    for name, picture in pictures:
        canvas.paste(Image.fromarray(picture), (left, overlays.HEADER))
        heading = f"{name} · {title}" if title and name == "image" else name
        draw.text((left, 4), overlays.fitted(heading, picture.shape[1], draw), overlays.TEXT, overlays.font())
        left += picture.shape[1] + overlays.GAP
    return np.asarray(canvas)


def grid(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Panels below one another, uint8 `[H, W, 3]`; narrower ones are filled up with white on the right.

    Raises ValueError for an empty sequence.
    """
    if not panels:
        raise ValueError("no panels to stack; pass at least one picture")
    width = max(picture.shape[1] for picture in panels)
    rows = []
    for picture in panels:
        rows.append(np.pad(picture, ((0, overlays.GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(rows)


def _display_size(height: int, width: int) -> tuple[int, int]:
    enlarged = max(1, -(-SHORTEST_EDGE // min(height, width)))
    while enlarged > 1 and enlarged * max(height, width) > LONGEST_EDGE:
        enlarged -= 1
    scale = min(enlarged, LONGEST_EDGE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(picture: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), method))


def _shares(labels: np.ndarray | None, classes: int) -> np.ndarray:
    """Percent of the labelled pixels of each class, float64 `[t]`; zeros where nothing is labelled."""
    counts = np.zeros(classes) if labels is None else np.bincount(labels[labels >= 0], minlength=classes)
    return 100.0 * counts / max(counts.sum(), 1)


def _legend(label: np.ndarray | None, prediction: np.ndarray, vocabulary: Vocabulary, height: int) -> np.ndarray:
    columns = {} if label is None else {"labels": _shares(label, len(vocabulary))}
    columns["predicted"] = _shares(prediction, len(vocabulary))
    largest = np.max(list(columns.values()), axis=0)
    present = [int(index) for index in np.argsort(-largest, kind="stable") if largest[index] > 0]
    unlabelled = label is not None and bool((label < 0).any())
    rows = height // ROW - 1 - unlabelled
    shown = present if len(present) <= rows else present[: rows - 1]
    assigned = assign_colors(vocabulary.names)
    colors = [tuple(int(channel) for channel in assigned[index]) for index in shown]
    names = [vocabulary.names[index].split(", ")[0] for index in shown]
    if unlabelled:
        colors, names = [*colors, (0, 0, 0)], [*names, "unlabelled"]

    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [overlays.fitted(name, NAME_WIDTH, measure) for name in names]
    indent = SWATCH + overlays.GAP
    right = indent + int(max([90.0, *(measure.textlength(name, overlays.font()) for name in names)]))
    canvas = Image.new("RGB", (right + COLUMN * len(columns), height), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, (color, name) in enumerate(zip(colors, names, strict=True), start=1):
        draw.rectangle((0, row * ROW + 1, SWATCH - 1, (row + 1) * ROW - 4), color, overlays.FAINT)
        draw.text((indent, row * ROW + 1), name, overlays.TEXT, overlays.font())
    if len(shown) < len(present):
        draw.text(
            (indent, (len(names) + 1) * ROW + 1),
            f"and {len(present) - len(shown)} more",
            overlays.FAINT,
            overlays.font(),
        )
    for heading, shares in columns.items():
        right += COLUMN
        draw.text((right, 1), heading, overlays.FAINT, overlays.font(), anchor="ra")
        for row, index in enumerate(shown, start=1):
            draw.text(
                (right, row * ROW + 1), overlays.percent(shares[index]), overlays.TEXT, overlays.font(), anchor="ra"
            )
    return np.asarray(canvas)
