"""Pictures of one or several results for people: legends beside overlays, heat maps, comparisons. Pillow alone.

Text always stands on the program's own background, never on the image, so that it can be read whatever the image shows.
Images are uint8 RGB `[H, W, 3]`; labels int `[H, W]`, -1 = unknown.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.vocabulary import first_synonym

# Dark blue to yellow: lightness grows with the value, for normal and red-green blind eyes alike.
HEAT = np.array(
    [[0, 22, 66], [40, 60, 118], [95, 100, 125], [150, 140, 118], [205, 184, 90], [255, 233, 60]], np.float32
)
LEAST_TEXT, MOST_TEXT = 12, 28  # pixels
SHARE_OF_TEXT = 1 / 36  # height of the text, as a share of the picture's

Result = tuple[str, np.ndarray, Sequence[str], np.ndarray]  # title, labels, names, colours


def with_legend(picture: np.ndarray, labels: np.ndarray, names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """The picture with a legend to its right: colour, name and share of each class present, the largest first."""
    panel = legend(labels, names, colors, picture.shape[0])
    height = max(panel.shape[0], picture.shape[0])
    return np.concatenate([_filled(picture, height), _filled(panel, height)], axis=1)


def legend(labels: np.ndarray, names: Sequence[str], colors: np.ndarray, height: int) -> np.ndarray:
    """Colour, name and share of each class present; those that do not fit into `height` are counted in a last row."""
    size = int(np.clip(height * SHARE_OF_TEXT, LEAST_TEXT, MOST_TEXT))
    font, row = ImageFont.load_default(size), round(1.6 * size)
    counts = np.bincount(labels[labels >= 0].ravel(), minlength=len(names))
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    entries = [(tuple(colors[i].tolist()), _short(first_synonym(names[i])), counts[i] / labels.size) for i in order]
    if (unknown := (labels < 0).mean()) > 0:
        entries.append(((0, 0, 0), "unknown", unknown))
    room = max(2, height // row)
    hidden = len(entries) - room + 1 if len(entries) > room else 0
    entries = entries[: len(entries) - hidden]
    texts = [f"{name}  {overlays.percent(100 * share)}" for _, name, share in entries]
    texts += [f"and {hidden} more"] if hidden else []
    width = 2 * row + int(max((font.getlength(text) for text in texts), default=0))
    canvas = Image.new("RGB", (width, max(height, row * len(texts))), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for place, text in enumerate(texts):
        top = place * row
        if place < len(entries):
            box = (row // 3, top + row // 5, row // 3 + size, top + row // 5 + size)
            draw.rectangle(box, entries[place][0], overlays.FAINT)
        draw.text((row // 2 + size + row // 4, top + row // 2), text, overlays.TEXT, font, anchor="lm")
    return np.asarray(canvas)


def heat_map(image: np.ndarray, probability: np.ndarray, name: str, alpha: float = 0.7) -> np.ndarray:
    """A probability float `[H, W]` in 0..1 in colour over the grey image, above a scale with the name."""
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    blended = (1 - alpha) * grey + alpha * _heat(probability)
    height, width = probability.shape
    size = int(np.clip(height * SHARE_OF_TEXT, LEAST_TEXT, MOST_TEXT))
    font, top = ImageFont.load_default(size), round(2.2 * size)
    canvas = Image.new("RGB", (max(width, 12 * size), top), overlays.BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((size // 3, top // 2), _short(first_synonym(name), 24), overlays.TEXT, font, anchor="lm")
    scale = _heat(np.linspace(0, 1, 4 * size)[None].repeat(size, axis=0)).round().astype(np.uint8)
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
    text = overlays.fitted(title, picture.shape[1] - 8, draw)
    draw.text((4, 4), text, overlays.TEXT, ImageFont.load_default(overlays.TEXT_SIZE))
    return np.concatenate([np.asarray(canvas), picture])


def _heat(values: np.ndarray) -> np.ndarray:
    """Float32 colours `[H, W, 3]` of values in 0..1."""
    places = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, places, HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def _filled(picture: np.ndarray, height: int, width: int = 0) -> np.ndarray:
    missing = ((0, height - picture.shape[0]), (0, max(0, width - picture.shape[1])), (0, 0))
    return np.pad(picture, missing, constant_values=255)


def _short(name: str, length: int = 32) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
