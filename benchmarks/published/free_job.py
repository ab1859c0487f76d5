"""What both sides of `free_parity` are told: cases of training-free segmentation, their pictures, text and weights.

This module imports neither JAX nor torch, so that neither side's process loads the other's library.
"""

import dataclasses
import json
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

PROGRAMS = {  # method -> the folder of the program that runs it
    "naclip": "NACLIP",
    "clip": "NACLIP",
    "sclip": "SCLIP",
    "clearclip": "ClearCLIP",
    "maskclip": "ClearCLIP",
    "maskclip_residual": "ClearCLIP",
    "sc_clip": "SC-CLIP",
    "pearl": "PEARL",
}
LONGEST = 2048  # pixels of a resized picture's long side
# sc_clip: the published blocks for 12, and the same places in a tower of 24.
SC_CLIP_BLOCKS = {12: (8, 3, 3, 10), 24: (17, 7, 7, 21)}


class Tower(NamedTuple):
    """The sizes of an image tower, pretrained on a square of `grid` x `grid` patches."""

    layers: int
    width: int
    heads: int
    patch: int
    grid: int
    embed_dim: int

    @property
    def square(self) -> int:
        """Side in pixels of what it was pretrained on."""
        return self.grid * self.patch


TOWERS = {  # thin: the published depths and grids at a width of 128
    "vitl14": Tower(24, 1024, 16, 14, 16, 768),
    "vitb16": Tower(12, 768, 12, 16, 14, 512),
    "thin12": Tower(12, 128, 2, 16, 14, 64),
    "thin24": Tower(24, 128, 2, 14, 16, 64),
}


@dataclasses.dataclass(frozen=True)
class FreeCase:
    """A picture and what is asked of it. A window of 0 is the whole picture as one view."""

    tower: str
    method: str
    size: tuple[int, int]
    seed: int
    classes: tuple[int, ...]  # of each query, ascending
    window: int
    stride: int
    short_side: int
    scale: float
    probability: float = 0.0  # labels below it become class 0
    area: float = 0.0
    gaussian_std: float = 5.0
    pearl_alpha: float = 0.08
    pearl_grid: int = 80

    def text(self) -> np.ndarray:
        """Embeddings float32 `[q, e]` of unit length."""
        shape = len(self.classes), TOWERS[self.tower].embed_dim
        noise = np.random.default_rng(self.seed).standard_normal(shape).astype(np.float32)
        return noise / np.linalg.norm(noise, axis=-1, keepdims=True)

    def picture(self) -> np.ndarray:
        """uint8 `[H, W, 3]`: patches of colour under waves and noise."""
        rng, (height, width) = np.random.default_rng(self.seed), self.size
        coarse = rng.integers(0, 256, (height // 9 + 1, width // 11 + 1, 3))
        patches = coarse.repeat(9, 0).repeat(11, 1)[:height, :width]
        y, x = np.mgrid[:height, :width]
        waves = 40 * np.sin(x / 7 + self.seed) + 30 * np.cos(y / 5) + 30
        noise = rng.normal(0, 9, (height, width, 3))
        return np.clip(0.6 * patches + waves[..., None] + noise, 0, 255).astype(np.uint8)

    def resized(self) -> tuple[int, int]:
        """(height, width) of the picture that views are cut from; at least one patch."""
        scale = min(self.short_side / min(self.size), LONGEST / max(self.size))
        height, width = (max(TOWERS[self.tower].patch, int(extent * scale + 0.5)) for extent in self.size)
        return height, width


def visual_weights(tower: Tower) -> dict[str, np.ndarray]:
    """Weights of an image tower, OpenAI's names: noise of plausible size, seeded by the names."""
    width, wide = tower.width, 4 * tower.width
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (tower.grid**2 + 1, width),
        "proj": (width, tower.embed_dim),
        "conv1.weight": (width, 3, tower.patch, tower.patch),
    }
    norms = ["ln_pre", "ln_post"]
    for layer in range(tower.layers):
        block = f"transformer.resblocks.{layer}."
        norms += [f"{block}ln_1", f"{block}ln_2"]
        linear = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width)}
        linear |= {"mlp.c_fc.": (wide, width), "mlp.c_proj.": (width, wide)}
        for name, shape in linear.items():
            shapes |= {f"{block}{name}weight": shape, f"{block}{name}bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return {f"visual.{name}": _tensor(name, shape) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if "embedding" in name:
        return np.float32(0.05) * noise
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * noise if name.endswith("weight") else np.float32(0.02) * noise
    inputs = shape[0] if name == "proj" else int(np.prod(shape[1:]))
    return noise / np.float32(np.sqrt(inputs))


def write_cases(cases: list[FreeCase], path: pathlib.Path) -> None:
    """Writes cases to a JSON file."""
    path.write_text(json.dumps([dataclasses.asdict(case) for case in cases]))


def read_cases(path: pathlib.Path) -> list[FreeCase]:
    """The cases in a JSON file."""
    values = json.loads(path.read_text())
    return [FreeCase(**(case | {"size": tuple(case["size"]), "classes": tuple(case["classes"])})) for case in values]
