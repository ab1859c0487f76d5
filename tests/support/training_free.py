"""The goldens of the training-free methods: their cases and settings, and the small CLIP that is among them."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.inference.free_views import FreeViews
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.models.training_free import TrainingFree
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
CASES = (
    *("clip", "maskclip", "maskclip_residual", "sclip", "sclip_whole", "clearclip", "clearclip_padded"),
    *("naclip", "naclip_whole", "naclip_wide", "sc_clip", "pearl"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a file: what the published program was asked for, and its numbers."""

    settings: dict[str, Any]
    numbers: dict[str, np.ndarray]
    samples: dict[str, int]

    @property
    def method(self) -> TrainingFree:
        """The settings that are the method's."""
        s = self.settings
        more: dict[str, Any] = {"gaussian_std": s["gaussian_std"]} if s["gaussian_std"] else {}
        if s["pearl"]:
            more |= {"pearl_alpha": s["pearl"]["alpha"], "pearl_grid": s["pearl"]["grid"]}
        if s["pamr"]:
            more |= {"pamr_steps": s["pamr"]["steps"], "pamr_dilations": tuple(s["pamr"]["dilations"])}
        if s["sc_clip"]:
            more["sc_clip_blocks"] = tuple(s["sc_clip"][name] for name in ("j1", "j2", "first", "stop"))
        refine = "pamr" if s["pamr"] else "propagation" if s["pearl"] else "none"
        sizes = {name: s[name] for name in ("short_side", "window", "stride")} | {"stride": s["stride"] or None}
        return TrainingFree(s["method"], logit_scale=s["logit_scale"], refine=refine, **sizes, **more)

    def views(self, tower: ImageTowerConfig) -> FreeViews:
        """The protocol, whichever program ran: they pad, and resize whole views, in different ways."""
        s = self.settings
        name = "slide" if s["window"] else "whole"
        return FreeViews(
            name,
            short_side=s["short_side"],
            window=s["window"],
            stride=s["stride"] or 1,
            patch=tower.patch_size,
            fill=tower.pixel_mean,
            padded=s["padded"],
            through_resized=s["through_resized"],
        )


@dataclasses.dataclass(frozen=True)
class Goldens:
    """A file of goldens."""

    stored: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: pathlib.Path) -> "Goldens":
        """Reads a file."""
        with np.load(path) as file:
            return cls(dict(file))

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, synonyms after ", "."""
        return tuple(map(str, self.stored["class_names"]))

    def case(self, name: str) -> Case:
        """A case by its name."""
        numbers = {
            key.removeprefix(f"{name}/"): value for key, value in self.stored.items() if key.startswith(f"{name}/")
        }
        return Case(json.loads(str(numbers.pop("settings"))), numbers, json.loads(str(self.stored["samples"])))

    def state_dict(self) -> dict[str, np.ndarray]:
        """The small CLIP, OpenAI's names, float32."""
        found = {
            key.removeprefix("weights/"): value.astype(np.float32)
            for key, value in self.stored.items()
            if key.startswith("weights/")
        }
        rows, ids = (found.pop(f"token_embedding.weight.{name}") for name in ("rows", "ids"))
        table = np.zeros((SMALL.text.vocab_size, SMALL.text.width), np.float32)
        table[ids.astype(int)] = rows
        return found | {"token_embedding.weight": table}


@functools.cache
def small_goldens() -> Goldens:
    """The file among the tests."""
    return Goldens.load(pathlib.Path(__file__).parents[1] / "golden" / "training_free_small.npz")


@functools.cache
def small_clip() -> dict[str, Any]:
    """The parameters of its CLIP."""
    return parameters(small_goldens().state_dict(), layouts.entries("openai_clip", SMALL), "", "")
