"""ViT-L/14@336 trained on COCO-Stuff from CLIP's weights: the published recipes, which `vitb.py` explains.

`<weights>`: openai/clip-vit-large-patch14-336 (downloaded), or a file or directory of any layout that can be converted.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/vitl.py --config.init=<weights> --workdir=runs/vitl
    python -m ahs_seg_jax.main --config=configs/vitl.py:catseg --config.init=<weights> --workdir=runs/vitl_catseg
    python -m ahs_seg_jax.main --config=configs/vitl.py:smoke --workdir=runs/vitl_smoke

`catseg` trains on crops of 384 pixels with labels of that size, which the model resizes to 336. Hardware, time and
score: not run.
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
    model = architecture.vitl14_336().replace(dtype="bfloat16", class_chunk=19, remat="all")
    train = dataclasses.replace(base.train, learning_rate=1e-4, clip_multiplier=0.005)
    return dataclasses.replace(base, name="vitl", model=model, train=train)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    variants = vitb.variants(experiment())
    data = variants["catseg"].data
    data = dataclasses.replace(data, augment=dataclasses.replace(data.augment, crop=384))
    variants["catseg"] = dataclasses.replace(variants["catseg"], data=data)
    return command_line.select(variant, variants)
