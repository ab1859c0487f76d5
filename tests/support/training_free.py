"""The goldens of the training-free methods among the tests, and the small CLIP that is in their file."""

import functools
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from benchmarks.published.free_goldens import Goldens
from tests.support.goldens import parameters

SMALL = ModelConfig(
    image=ImageTowerConfig(layers=2, width=48, heads=3, patch_size=8, crop=192, pretrained_grid=6),
    text=TextTowerConfig(layers=2, width=48, heads=3),
    embed_dim=32,
    adaptation="none",
    mh_fpn=False,
    dc_hsp=False,
    guidance_taps=(0, 1),
)


@functools.cache
def small_goldens() -> Goldens:
    """The file among the tests."""
    return Goldens.load(pathlib.Path(__file__).parents[1] / "golden" / "training_free_small.npz")


def state_dict(goldens: Goldens) -> dict[str, np.ndarray]:
    """The small CLIP, OpenAI's names, float32."""
    found = {
        key.removeprefix("weights/"): value.astype(np.float32)
        for key, value in goldens.stored.items()
        if key.startswith("weights/")
    }
    rows, ids = (found.pop(f"token_embedding.weight.{name}") for name in ("rows", "ids"))
    table = np.zeros((SMALL.text.vocab_size, SMALL.text.width), np.float32)
    table[ids.astype(int)] = rows
    return found | {"token_embedding.weight": table}


@functools.cache
def small_clip() -> dict[str, Any]:
    """The parameters of its CLIP."""
    return parameters(state_dict(small_goldens()), layouts.entries("openai_clip", SMALL), "", "")
