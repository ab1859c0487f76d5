"""EVA-02-CLIP B/16 at 384 pixels trained on COCO-Stuff with the same aggregation and components.

`<weights>`: eva02-clip-vitb16 (timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k, downloaded),
or a file of it.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/eva02_vitb.py --config.init=<weights> --workdir=runs/eva02_vitb
    python -m ahs_seg_jax.main --config=configs/eva02_vitb.py:smoke --workdir=runs/eva02_vitb_smoke

The recipe is that of `vitb.py`; nobody has published one for these towers. Variants as there (`:catseg`,
`:orthogonal`). Hardware, time and score: not run.
"""

import dataclasses
import pathlib

import ml_collections

from ahs_seg_jax.config import Experiment, command_line, loading
from ahs_seg_jax.models import architecture

vitb = loading.module(pathlib.Path(__file__).with_name("vitb.py"))


def experiment() -> Experiment:
    """The full run with all components."""
    base: Experiment = vitb.experiment()
    model = architecture.eva02_vitb16().replace(dtype="bfloat16", class_chunk=19, remat="all")
    return dataclasses.replace(base, name="eva02_vitb", model=model)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    return command_line.select(variant, vitb.variants(experiment()))
