"""Textured backgrounds of the drawn scenes. Each is computed once per process as a large tile; scenes cut from it."""

import functools

import numpy as np

TEXTURES = ("grass", "sand", "water", "brick wall")
TILE = 4  # side of a tile, in scenes


def crop(texture: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of one texture, with its brightness and tint jittered: `float32 [size, size, 3]` in 0..1."""
    tile = _tiles(size)[texture]
    y, x = rng.integers(0, (TILE - 1) * size + 1, size=2)
    part = tile[y : y + size, x : x + size]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    tint = (rng.uniform(0.85, 1.12) + rng.uniform(-0.04, 0.04, size=3)).astype(np.float32)
    return part * (tint / np.float32(255.0))


@functools.lru_cache(maxsize=2)
def _tiles(size: int) -> tuple[np.ndarray, ...]:
    """One tile for each of `TEXTURES`: `uint8 [4 size, 4 size, 3]`. The same in every run, whatever the seed."""
    rng = np.random.default_rng(20)
    side, unit = TILE * size, size / 96
    drawn = (_grass(rng, side, unit), _sand(rng, side, unit), _water(rng, side, unit), _bricks(rng, side, unit))
    return tuple((np.clip(tile, 0.0, 1.0) * 255).astype(np.uint8) for tile in drawn)


def _grass(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    blades = _noise(rng, side, 2.6 * unit, 0.55 * unit)
    patches = _noise(rng, side, 9 * unit, 9 * unit)
    tone = 0.5 + 0.22 * blades + 0.07 * patches
    return _mix((0.10, 0.23, 0.06), (0.50, 0.60, 0.24), tone)


def _sand(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    y = np.arange(side)[:, None]
    bend = _noise(rng, side, 12 * unit, 12 * unit)
    ripples = np.sin(2 * np.pi * y / (side / round(side / (13 * unit))) + 1.6 * bend)
    tone = 0.5 + 0.15 * ripples + 0.16 * _noise(rng, side, 0.5 * unit, 0.5 * unit)
    return _mix((0.68, 0.54, 0.37), (0.97, 0.88, 0.70), tone)


def _water(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    y = np.arange(side)[:, None]
    bend = _noise(rng, side, 3.5 * unit, 8 * unit)
    waves = np.sin(2 * np.pi * y / (side / round(side / (10 * unit))) + 2.2 * bend)
    glints = np.clip(_noise(rng, side, 0.8 * unit, 3.5 * unit) + 0.8 * waves - 1.3, 0.0, 1.2)
    tone = 0.42 + 0.20 * waves + 0.07 * _noise(rng, side, 2 * unit, 5 * unit)
    return _mix((0.05, 0.33, 0.46), (0.35, 0.70, 0.76), tone) + 0.35 * glints[:, :, None]


def _bricks(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    rows, columns = round(side / (9.6 * unit)) // 2 * 2, round(side / (21.5 * unit))
    y, x = np.mgrid[:side, :side] + 0.5
    row = (y * rows / side).astype(int)
    across = x * columns / side + 0.5 * (row % 2)
    column = across.astype(int) % columns
    height, width = side / rows, side / columns
    in_y, in_x = (y * rows / side) % 1.0 * height, across % 1.0 * width
    edge = np.minimum(np.minimum(in_y, height - in_y), np.minimum(in_x, width - in_x))
    brick = np.clip(edge / unit - 0.35, 0.0, 1.0)[:, :, None]
    tone = rng.uniform(0.15, 0.85, (rows, columns))[row, column] + 0.10 * _noise(rng, side, 0.8 * unit, 0.8 * unit)
    mortar = _mix((0.66, 0.63, 0.58), (0.80, 0.77, 0.72), 0.5 + 0.2 * _noise(rng, side, 0.6 * unit, 0.6 * unit))
    return mortar + brick * (_mix((0.40, 0.22, 0.16), (0.66, 0.40, 0.28), tone) - mortar)


def _mix(dark: tuple[float, ...], light: tuple[float, ...], share: np.ndarray) -> np.ndarray:
    """Colours between two, `[h, w, 3]`; `share` `[h, w]` is 0 at the dark one and 1 at the light one."""
    low, high = np.asarray(dark, np.float32), np.asarray(light, np.float32)
    return low + (high - low) * share[:, :, None].astype(np.float32)


def _noise(rng: np.random.Generator, side: int, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Gaussian noise `[side, side]` of unit variance, blurred by the given widths in pixels; it tiles seamlessly."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    keep = np.exp(-2 * np.pi**2 * ((fy * sigma_y) ** 2 + (fx * sigma_x) ** 2))
    blurred = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * keep, s=(side, side))
    return blurred / blurred.std()
