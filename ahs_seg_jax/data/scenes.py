"""The embedded data set: drawn scenes whose class names combine a pattern and a colour ("striped blue toy").

A scene is a function of (seed, split, index) alone: there are no files and no state. Training never draws three of the
fifteen objects, although each of their words occurs in many others: a model that segments them in "val" has understood
the words. One or more objects lie on one or two textured backgrounds, which are classes too; every pixel has a label.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data import textures
from ahs_seg_jax.vocabulary import Vocabulary

SPLITS = ("train", "val")
DRAWING_VERSION = 2  # part of the fingerprint; raise it when the same index gives another picture

COLORS = {
    "red": (0.88, 0.10, 0.13),
    "yellow": (1.00, 0.82, 0.08),
    "green": (0.08, 0.72, 0.25),
    "blue": (0.10, 0.32, 0.93),
    "purple": (0.62, 0.16, 0.78),
}
PATTERNS = ("plain", "striped", "dotted")
NOUN = "toy"
SHAPES = ("circle", "square", "hexagon")  # a toy may have any: the name does not tell
SECOND_COLOR = (0.98, 0.97, 0.94)  # of every pattern but plain
# Outline of a shape: the number of corners, their distance from the centre in radii, and that of the points between.
CORNERS = {"square": (4, 1.12, 1.12 * math.cos(math.pi / 4)), "hexagon": (6, 1.08, 1.08 * math.cos(math.pi / 6))}
LARGEST_EXTENT = 1.12  # of an outline, in radii


@dataclasses.dataclass(frozen=True)
class _Thing:
    """One object of a scene. Lengths in pixels, angles in radians, colour in 0..1."""

    label: int
    shape: str
    pattern: str
    color: np.ndarray
    x: float
    y: float
    radius: float
    angle: float
    pattern_angle: float
    pattern_period: float


class ScenesSource:
    """Drawn scenes as a `sources.Source`.

    Split "train" draws the seen names only and its vocabulary holds only these; "val" draws all alike. The names of
    "train" come first in "val", in the same order. Raises ValueError for an unknown split or contradictory settings.
    """

    def __init__(self, config: ScenesConfig, split: str):
        if split not in SPLITS:
            raise ValueError(f"the scenes have no split {split!r}; choose one of {', '.join(SPLITS)}")
        if problems := config.problems():
            raise ValueError("; ".join(problems))
        if config.max_objects > (toys := len(toy_names(unseen=False))):
            raise ValueError(f"data.scenes.max_objects is {config.max_objects}; there are {toys} toys, and none twice")
        self.config = config
        self.split = split
        self.vocabulary = scenes_vocabulary(split)
        self.drawn = self.vocabulary.names  # what is drawn, whatever words the vocabulary is given later

    def __len__(self) -> int:
        return self.config.train_images if self.split == "train" else self.config.val_images

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        rng = np.random.default_rng([self.config.seed, SPLITS.index(self.split), int(index)])
        size = self.config.size
        image, label = _background(rng, size)
        for thing in self._things(rng):
            _draw(image, label, thing)
        _light(image, rng)
        image += self.config.noise * rng.standard_normal(image.shape, np.float32)
        return {"image": (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), "label": label}

    def name(self, index: int) -> str:
        """What people call this example."""
        return f"scene {index}"

    def fingerprint(self) -> dict[str, Any]:
        """The settings, the split, the vocabulary's hash and the version of the drawing."""
        return {
            "source": "scenes",
            "split": self.split,
            "images": len(self),
            "vocabulary_sha256": self.vocabulary.sha256,
            "drawing_version": DRAWING_VERSION,
            **dataclasses.asdict(self.config),
        }

    def _things(self, rng: np.random.Generator) -> list[_Thing]:
        """Objects in the order of drawing: no class twice, and no two centres closer than 0.8 of their radii's sum."""
        config, backgrounds = self.config, len(textures.TEXTURES)
        count = int(rng.integers(config.min_objects, config.max_objects + 1))
        labels = backgrounds + rng.permutation(len(self.drawn) - backgrounds)[:count]
        things: list[_Thing] = []
        for label in labels:
            for _ in range(12):
                radius = config.size * rng.uniform(config.min_radius, config.max_radius)
                x, y = rng.uniform(0.7 * radius, config.size - 0.7 * radius, size=2)
                if all(math.hypot(x - o.x, y - o.y) > 0.8 * (radius + o.radius) for o in things):
                    things.append(_thing(int(label), self.drawn[label], x, y, radius, rng, config.size))
                    break
        return things


def scenes_vocabulary(split: str) -> Vocabulary:
    """The class names of a split: backgrounds, seen toys, and in "val" the unseen toys. Groups are the colours."""
    names = [*textures.TEXTURES, *toy_names(unseen=False)]
    if split == "val":
        names += toy_names(unseen=True)
    groups = [name.split()[-2] if name.endswith(NOUN) else "" for name in names]
    return Vocabulary(tuple(names), groups=tuple(groups))


def toy_names(unseen: bool) -> list[str]:
    """Names of the toys that training draws, or of those it leaves out: one colour of each pattern."""
    names = []
    for (p, pattern), (c, color) in itertools.product(enumerate(PATTERNS), enumerate(COLORS)):
        if (c == p) == unseen:
            names.append(f"{color} {NOUN}" if pattern == "plain" else f"{pattern} {color} {NOUN}")
    return names


def _thing(label: int, name: str, x: float, y: float, radius: float, rng: np.random.Generator, size: int) -> _Thing:
    words = name.split()
    color = np.asarray(COLORS[words[-2]], np.float32) * rng.uniform(0.88, 1.08) + rng.uniform(-0.04, 0.04, 3)
    return _Thing(
        label=label,
        shape=SHAPES[rng.integers(len(SHAPES))],
        pattern=words[0] if words[0] in PATTERNS else "plain",
        color=color.astype(np.float32),
        x=x,
        y=y,
        radius=radius,
        angle=rng.uniform(0, 2 * math.pi),
        pattern_angle=rng.uniform(0, math.pi),
        pattern_period=size * rng.uniform(0.09, 0.12),
    )


def _background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One texture, or two that meet at a wavy line: image `float32 [h, w, 3]` in 0..1 and label `int32 [h, w]`."""
    first, second = rng.permutation(len(textures.TEXTURES))[:2]
    image = textures.crop(int(first), size, rng)
    label = np.full((size, size), first, np.int32)
    if rng.random() < 0.5:
        angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.2, 0.2) * size
        wave, phase = rng.uniform(0.02, 0.06) * size, rng.uniform(0, 2 * math.pi)
        v, u = np.meshgrid(*[np.arange(size, dtype=np.float32) - size / 2] * 2, indexing="ij")
        along = u * math.cos(angle) + v * math.sin(angle)
        across = v * math.cos(angle) - u * math.sin(angle)
        height = across - offset + wave * np.sin(along * (2 * math.pi * rng.uniform(1.0, 2.0) / size) + phase)
        blend = np.clip(height + 0.5, 0.0, 1.0)[:, :, None]
        image += blend * (textures.crop(int(second), size, rng) - image)
        label[height > 0] = second
    return image, label


def _draw(image: np.ndarray, label: np.ndarray, thing: _Thing) -> None:
    """Draws one object, with a soft shadow, into `image` and `label` (changed in place). Edges are one pixel wide."""
    size = len(image)
    reach = LARGEST_EXTENT * thing.radius + 0.06 * size
    left, right = max(0, int(thing.x - reach)), min(size, int(thing.x + reach) + 2)
    top, bottom = max(0, int(thing.y - reach)), min(size, int(thing.y + reach) + 2)
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    patch = image[top:bottom, left:right]

    drop, blur = 0.02 * size, 0.05 * size
    shadow = _distance(thing, x - drop, y - drop)
    patch *= 1.0 - 0.4 * np.clip(0.5 - shadow / blur, 0.0, 1.0)[:, :, None]

    distance = _distance(thing, x, y)
    paint = np.broadcast_to(thing.color, (*distance.shape, 3))
    if thing.pattern != "plain":
        share = _pattern(thing, x, y)[:, :, None]
        paint = paint + share * (np.asarray(SECOND_COLOR, np.float32) - paint)
    lit = 1.0 - (0.12 / thing.radius) * (x + y)  # light falls from the top left
    rim = 1.0 - 0.45 * np.clip(1.0 + (distance + 0.5) * (96 / size), 0.0, 1.0)
    cover = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None]
    patch += cover * (paint * (lit * rim)[:, :, None] - patch)
    label[top:bottom, left:right][distance < 0] = thing.label


def _pattern(thing: _Thing, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the second colour, 0..1, of points relative to the object's centre. Edges are about a pixel wide."""
    period = thing.pattern_period * (1.0 if thing.pattern == "striped" else 1.3)
    turn = 2 * math.pi / period
    cos, sin = math.cos(thing.pattern_angle), math.sin(thing.pattern_angle)
    along, across = np.cos(turn * (x * cos + y * sin)), np.cos(turn * (y * cos - x * sin))
    wave = along - 0.1 if thing.pattern == "striped" else (along + across) / 2 - 0.25
    return np.clip(0.5 + period / 4 * wave, 0.0, 1.0)


def _distance(thing: _Thing, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance in pixels to the outline (negative inside) of points relative to the object's centre."""
    radius = np.hypot(x, y)
    if thing.shape == "circle":
        return radius - thing.radius
    corners, outer, inner = CORNERS[thing.shape]
    sector = 2 * math.pi / corners
    angle = np.arctan2(y, x) - np.float32(thing.angle)
    folded = np.abs(angle - sector * np.round(angle / sector))  # every sector mirrored onto one half of one
    # The outline there is a line from a corner to the point between two corners.
    dx, dy = inner * math.cos(sector / 2) - outer, inner * math.sin(sector / 2)
    length = math.hypot(dx, dy)
    px, py = radius * np.cos(folded) - outer * thing.radius, radius * np.sin(folded)
    return (px * dy - py * dx) / np.float32(length)


def _light(image: np.ndarray, rng: np.random.Generator) -> None:
    """Brightens `image` unevenly, in place: one gain, and a slope across the picture."""
    size = len(image)
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    slope_y, slope_x = rng.uniform(-0.12, 0.12, size=2).astype(np.float32)
    gain = np.float32(rng.uniform(0.85, 1.1))
    image *= (gain + slope_y * ramp[:, None] + slope_x * ramp[None, :])[:, :, None]
