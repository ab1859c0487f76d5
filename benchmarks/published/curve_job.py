"""What both programs of a comparison of loss curves have in common: the recipes, one small model, the same batches.

This module imports neither JAX nor torch, so that neither program's process loads the other's library.

The published programs fix a grid of 24 x 24 tokens, twelve layers, and four rotation blocks of the text tower and six
of the image tower; all other sizes are small here. Nothing is pretrained: CLIP's weights are random, the same for all.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

IGNORE = 255  # label of an unlabelled pixel
PATCHES = 6  # differently labelled squares along a side of a training image


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published recipe: where the published program describes it, and which configuration of ours is to equal it."""

    config: str  # file below the published program's folder
    needs: str  # file that the program has which can run it
    ours: str  # our configuration


RECIPES = {
    "catseg": Recipe("configs/vitb_384.yaml", "cat_seg/third_party/model_vpt.py", "configs/vitb.py:catseg"),
    "orthogonal": Recipe(
        "configs/vitb_384_oft.yaml",
        "cat_seg/third_party/model_oft_relation_both_free_half.py",
        "configs/vitb.py:orthogonal",
    ),
    # The published program runs this recipe without the three components, which it cannot run (see `ours`).
    "components": Recipe("configs/vitb_384_enhanced.yaml", "cat_seg/enhanced_cat_seg_model.py", "configs/vitb.py"),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The small model. The published program derives heads from widths: one for every 64 channels."""

    block: int = 16  # side of a rotation block
    layers: int = 12
    text_width: int = 64  # four blocks
    image_width: int = 96  # six blocks
    patch: int = 4
    grid: int = 24
    pretrained_grid: int = 14
    context: int = 77
    vocab: int = 49408
    embed: int = 64
    hidden: int = 32
    guidance: int = 16  # of appearance and text
    pad_len: int = 16
    decoder: tuple[int, int] = (32, 16)
    decoder_guidance: tuple[int, int] = (16, 16)

    @property
    def crop(self) -> int:
        """Side of the images, in pixels."""
        return self.grid * self.patch


SIZES = Sizes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveJob:
    """What one process of one program is asked to do: one training for each seed, with the same batches."""

    recipe: str
    folder: str  # where the published program is
    clip: str  # .npz file of CLIP's weights by OpenAI's names, from which every training starts
    seeds: tuple[int, ...]  # of the fresh values of all other parameters
    names: tuple[str, ...]  # the classes' names
    start: str = ""  # checkpoint of all starting weights: the published program writes it, ours begins with it
    moved: float = 0.0  # share by which the parameters that learn are moved at random at the start, in our program
    updates: int = 200
    batch: int = 2
    threads: int = 2

    def write(self, path: pathlib.Path) -> None:
        """Writes the job to a JSON file."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str) -> "CurveJob":
        """The job in a JSON file."""
        values: dict[str, Any] = json.loads(pathlib.Path(path).read_text())
        return cls(**(values | {"seeds": tuple(values["seeds"]), "names": tuple(values["names"])}))


def batch(job: CurveJob, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 `[b, s, s, 3]`, and labels, int64 `[b, s, s]`, of update `index` (0-based).

    Squares of one class each have the class's colour under noise, so that there is something to learn; some squares are
    unlabelled (`IGNORE`) and grey.
    """
    rng, classes = np.random.default_rng([1, index]), len(job.names)
    colours = np.random.default_rng(2).integers(0, 256, (classes + 1, 3))
    colours[classes] = 128
    squares = rng.integers(0, classes + 1, (job.batch, PATCHES, PATCHES))
    labels = squares.repeat(SIZES.crop // PATCHES, 1).repeat(SIZES.crop // PATCHES, 2)
    noisy = colours[labels] + rng.normal(0, 40, (*labels.shape, 3))
    return noisy.clip(0, 255).astype(np.uint8), np.where(labels == classes, IGNORE, labels).astype(np.int64)


def clip_weights(sizes: Sizes = SIZES, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of plausible size under OpenAI's names, float32 with the values of float16, as OpenAI's are."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in clip_shapes(sizes):
        noise = rng.standard_normal(shape)
        if "ln_" in name:
            value = 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
        elif name.endswith("bias"):
            value = 0.02 * noise
        elif "embedding" in name:
            value = 0.05 * noise
        else:
            value = noise / np.sqrt(shape[0] if "proj" in name and "weight" not in name else np.prod(shape[1:]))
        found[name] = value.astype(np.float16).astype(np.float32)
    return found | {"logit_scale": np.asarray(4.6055, np.float32)}


def clip_shapes(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "visual.class_embedding", (s.image_width,)
    yield "visual.positional_embedding", (s.pretrained_grid**2 + 1, s.image_width)
    yield "visual.conv1.weight", (s.image_width, 3, s.patch, s.patch)
    yield "visual.proj", (s.image_width, s.embed)
    yield "token_embedding.weight", (s.vocab, s.text_width)
    yield "positional_embedding", (s.context, s.text_width)
    yield "text_projection", (s.text_width, s.embed)
    for name, width in (
        ("visual.ln_pre", s.image_width),
        ("visual.ln_post", s.image_width),
        ("ln_final", s.text_width),
    ):
        yield from _pair(name, (width,))
    for tower, width in (("visual.", s.image_width), ("", s.text_width)):
        for layer in range(s.layers):
            block = f"{tower}transformer.resblocks.{layer}"
            yield f"{block}.attn.in_proj_weight", (3 * width, width)
            yield f"{block}.attn.in_proj_bias", (3 * width,)
            yield from _pair(f"{block}.attn.out_proj", (width, width))
            yield from _pair(f"{block}.ln_1", (width,))
            yield from _pair(f"{block}.ln_2", (width,))
            yield from _pair(f"{block}.mlp.c_fc", (4 * width, width))
            yield from _pair(f"{block}.mlp.c_proj", (width, 4 * width))


def _pair(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
