"""MetaCLIP 2 L/14 at 336 pixels trained on COCO-Stuff with the same aggregation and components.

`<weights>`: clip-vitl14-metaclip2 (facebook/metaclip-2-worldwide-l14, downloaded), or its folder.
The tokenizer.json of the same repository comes with it; the run keeps a copy.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/metaclip2_vitl.py --config.init=<weights> --workdir=runs/metaclip2_vitl
    python -m ahs_seg_jax.main --config=configs/metaclip2_vitl.py:smoke --workdir=runs/metaclip2_vitl_smoke

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
    model = architecture.metaclip2_vitl14().replace(dtype="bfloat16", class_chunk=19, remat="all")
    return dataclasses.replace(base, name="metaclip2_vitl", model=model)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "", "orthogonal", "catseg" and "smoke"."""
    return command_line.select(variant, vitl.vitb.variants(experiment()))
