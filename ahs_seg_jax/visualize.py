"""Pictures of segmentations: colours laid over the image, and panels with labels, prediction and a legend.

Images are uint8 RGB `[H, W, 3]`; labels int `[H, W]`, class index or -1 = unlabelled.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ahs_seg_jax.vocabulary import Vocabulary

BACKGROUND = (255, 255, 255)
TEXT = (20, 20, 20)
FAINT = (110, 110, 110)
UNLABELLED = 0.35  # brightness left to unlabelled pixels
GAP = 8  # pixels between the parts of a panel
HEADER = 24  # height of the line that names the parts
ROW = 20  # height of a legend row
TEXT_SIZE = 14
SWATCH = 18  # side of a legend's colour sample
NAME_WIDTH = 230  # longest class name in a legend; the rest is cut off
COLUMN = 78  # width of a legend's column of percentages
SHORTEST_EDGE = 240  # smaller images are enlarged in panels, in whole steps, so that pixels stay visible
LONGEST_EDGE = 640  # larger ones are reduced


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """The image with its labels laid over it: uint8 `[H, W, 3]`. Unlabelled pixels are darkened.

    `colors` uint8 `[t, 3]`; `alpha` in 0..1 is the colours' share. Class borders are drawn in full colour.
    Raises ValueError if the labels cover other pixels than the image.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels have shape {list(labels.shape)} but the image {list(image.shape)}; both must agree")
    labelled = labels >= 0
    chosen = colors[np.where(labelled, labels, 0)].astype(np.float32)
    share = np.where(_borders(labels), 1.0, alpha)[..., None].astype(np.float32)
    blended = image * (1 - share) + chosen * share
    return np.where(labelled[..., None], blended, image * UNLABELLED).round().astype(np.uint8)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Bool `[H, W]`: the pixel to the right or below has another label."""
    different = np.zeros(labels.shape, bool)
    different[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    different[:-1] |= labels[:-1] != labels[1:]
    return different


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
            pictures.append((name, overlay(shown, labels, vocabulary.colors)))
    pictures.append(("", _legend(label, prediction, vocabulary, height=max(size[0], 8 * ROW))))
    height = HEADER + max(picture.shape[0] for _, picture in pictures)
    width = sum(picture.shape[1] for _, picture in pictures) + GAP * (len(pictures) + 1)
    canvas = Image.new("RGB", (width, height + GAP), BACKGROUND)
    draw, left = ImageDraw.Draw(canvas), GAP
    for name, picture in pictures:
        canvas.paste(Image.fromarray(picture), (left, HEADER))
        heading = f"{name} · {title}" if title and name == "image" else name
        draw.text((left, 4), fitted(heading, picture.shape[1], draw), TEXT, _font())
        left += picture.shape[1] + GAP
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
        rows.append(np.pad(picture, ((0, GAP), (0, width - picture.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(rows)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_SIZE)


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
    colors = [tuple(int(channel) for channel in vocabulary.colors[index]) for index in shown]
    names = [vocabulary.names[index].split(", ")[0] for index in shown]
    if unlabelled:
        colors, names = [*colors, (0, 0, 0)], [*names, "unlabelled"]

    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [fitted(name, NAME_WIDTH, measure) for name in names]
    indent = SWATCH + GAP
    right = indent + int(max([90.0, *(measure.textlength(name, _font()) for name in names)]))
    canvas = Image.new("RGB", (right + COLUMN * len(columns), height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, (color, name) in enumerate(zip(colors, names, strict=True), start=1):
        draw.rectangle((0, row * ROW + 1, SWATCH - 1, (row + 1) * ROW - 4), color, FAINT)
        draw.text((indent, row * ROW + 1), name, TEXT, _font())
    if len(shown) < len(present):
        draw.text((indent, (len(names) + 1) * ROW + 1), f"and {len(present) - len(shown)} more", FAINT, _font())
    for heading, shares in columns.items():
        right += COLUMN
        draw.text((right, 1), heading, FAINT, _font(), anchor="ra")
        for row, index in enumerate(shown, start=1):
            draw.text((right, row * ROW + 1), percent(shares[index]), TEXT, _font(), anchor="ra")
    return np.asarray(canvas)


def percent(share: float) -> str:
    """Percent as people read it: "-" for none, "< 0.1 %" for next to nothing."""
    if share == 0:
        return "-"
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %"


def fitted(text: str, width: int, draw: ImageDraw.ImageDraw) -> str:
    """The text, shortened with an ellipsis to `width` pixels."""
    if draw.textlength(text, _font()) <= width:
        return text
    while text and draw.textlength(f"{text}…", _font()) > width:
        text = text[:-1]
    return f"{text}…"
