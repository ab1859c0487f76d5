"""SigLIP 2 SO400M/14 at 378 pixels trained on COCO-Stuff with the same aggregation and components.

`<weights>`: siglip2-so400m14 (google/siglip2-so400m-patch14-384, downloaded), or its folder.
The tokenizer.json of the same repository comes with it; the run keeps a copy.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/siglip2_so400m.py --config.init=<weights> --workdir=runs/siglip2_so400m
    python -m ahs_seg_jax.main --config=configs/siglip2_so400m.py:smoke --workdir=runs/siglip2_so400m_smoke

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
    model = architecture.siglip2_so400m14().replace(dtype="bfloat16", class_chunk=19, remat="all")
    train = dataclasses.replace(base.train, class_pooling=3)  # two does not divide the grid of 27 tokens
    return dataclasses.replace(base, name="siglip2_so400m", model=model, train=train)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    base = experiment()
    small = vitl.vitb.smoke(dataclasses.replace(base, train=vitl.experiment().train))  # a grid of 8 tokens
    return command_line.select(variant, vitl.vitb.variants(base) | {"smoke": small})
