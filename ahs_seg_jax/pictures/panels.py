"""Pictures of segmentations: colours laid over the image, and panels with labels, prediction and a legend.

Images are uint8 RGB `[H, W, 3]`; labels int `[H, W]`, class index or -1 = unlabelled.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ahs_seg_jax.pictures import legends, overlays
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.vocabulary import Vocabulary

LEAST_LEGEND = 160  # height of the legend's panel, at least
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
    pictures.append(("", _legend(label, prediction, vocabulary, max(size[0], LEAST_LEGEND))))
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


def _legend(label: np.ndarray | None, prediction: np.ndarray, vocabulary: Vocabulary, height: int) -> np.ndarray:
    columns = {"predicted": legends.shares(prediction, len(vocabulary))}
    last = []
    if label is not None:
        columns = {"labels": legends.shares(label, len(vocabulary)), **columns}
        last = [legends.Row(legends.BLACK, "unlabelled")] if (label < 0).any() else []
    rows = legends.rows(list(columns.values()), vocabulary.names, assign_colors(vocabulary.names))
    return legends.draw_table(rows, height, last, headings=list(columns))
