"""Colours of classes: they follow from the name, and keep apart for people with and without colour blindness.

Each name draws a fixed list of candidate colours from its hash and takes the first that is far enough from the colours
already taken in the vocabulary, or the farthest of them. Names are served in the order of their hashes, so neither the
index of a class nor the order of the names matters, and most classes keep their colour from vocabulary to vocabulary.
"""

import functools
import hashlib

import numpy as np

CANDIDATES = 96
SMALL = 24  # names; vocabularies up to this size share one least distance, so that another word moves few colours
# Linear RGB as people see it who lack the long-wave cones, or the medium-wave ones. Source: Machado, Oliveira and
# Fernandes (2009).
_PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
_WEIGHTS = np.array([1.0, 2.0, 2.0])  # factors of the squared distances in normal vision, protanopia, deuteranopia
# Linear RGB -> cone responses -> OKLab (Ottosson, 2020).
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@functools.lru_cache(maxsize=32)
def assign_colors(names: tuple[str, ...]) -> np.ndarray:
    """RGB colours `uint8 [t, 3]` of class names (read-only, distinct, deterministic)."""
    palette, features = _palette()
    # About half the distance that evenly spread colours would keep. It changes in steps of a factor, so that one class
    # more or less moves few colours.
    enough = 0.5 / np.sqrt(2.0 ** np.ceil(np.log2(max(len(names), SMALL) + 8)))
    hashes = {name: hashlib.sha256(name.strip().casefold().encode("utf-8")).digest() for name in names}
    chosen: dict[str, int] = {}
    nearest = np.full(len(palette), np.inf)  # of every palette colour to the colours taken so far
    for name in sorted(names, key=lambda n: hashes[n]):
        rng = np.random.default_rng(np.frombuffer(hashes[name], np.uint32))
        candidates = rng.permutation(len(palette))[:CANDIDATES]
        good = nearest[candidates] >= enough
        pick = candidates[np.argmax(good)] if good.any() else candidates[np.argmax(nearest[candidates])]
        if nearest[pick] == 0:  # every candidate is taken: only in very large vocabularies
            pick = np.argmax(nearest)
        chosen[name] = int(pick)
        nearest = np.minimum(nearest, _distance(features, features[pick]))
    result = palette[[chosen[name] for name in names]]
    result.flags.writeable = False
    return result


def _distance(features: np.ndarray, one: np.ndarray) -> np.ndarray:
    """The smallest of three distances: in normal vision and in both kinds of red-green blindness, which weigh more."""
    squares = ((features - one[None]) ** 2).reshape(len(features), -1, 3).sum(axis=-1)
    return np.sqrt((squares * _WEIGHTS).min(axis=1))


@functools.lru_cache(maxsize=1)
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """All colours to choose from, `uint8 [n, 3]`, neither too dark nor too pale, and their coordinates `[n, 9]`:
    three for each kind of vision."""
    steps = np.linspace(0, 255, 18).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    linear = np.where(grid <= 10.31475, grid / 255 / 12.92, ((grid / 255 + 0.055) / 1.055) ** 2.4)
    normal = _oklab(linear)
    blind = [_oklab(np.clip(linear @ matrix.T, 0, 1)) for matrix in (_PROTANOPIA, _DEUTERANOPIA)]
    chroma = np.hypot(normal[:, 1], normal[:, 2])
    keep = (normal[:, 0] > 0.35) & (normal[:, 0] < 0.93) & (chroma > 0.07)
    return grid[keep].astype(np.uint8), np.concatenate([normal, *blind], axis=1)[keep]


def _oklab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
