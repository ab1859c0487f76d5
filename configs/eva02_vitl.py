"""EVA-02-CLIP L/14 at 336 pixels trained on COCO-Stuff with the same aggregation and components.

`<weights>`: eva02-clip-vitl14-336 (timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k, downloaded),
or a file of it.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/eva02_vitl.py --config.init=<weights> --workdir=runs/eva02_vitl
    python -m ahs_seg_jax.main --config=configs/eva02_vitl.py:smoke --workdir=runs/eva02_vitl_smoke

The recipe is that of `vitl.py`; nobody has published one for these towers. Variants as there (`:catseg`,
`:orthogonal`). Hardware, time and score: not run.
"""

import dataclasses
import pathlib

import ml_collections

from ahs_seg_jax.config import Experiment, command_line, loading
from ahs_seg_jax.models import architecture

vitl = loading.module(pathlib.Path(__file__).with_name("vitl.py"))


def experiment() -> Experiment:
    """The full run with all components."""
    base: Experiment = vitl.experiment()
    model = architecture.eva02_vitl14_336().replace(dtype="bfloat16", class_chunk=19, remat="all")
    return dataclasses.replace(base, name="eva02_vitl", model=model)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    return command_line.select(variant, vitl.vitb.variants(experiment()))
