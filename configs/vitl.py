"""ViT-L/14@336 with all three components, trained on COCO-Stuff from CLIP's weights: the published recipe.

`<weights>`: openai/clip-vit-large-patch14-336 (downloaded), or a file or directory of any layout that can be converted.

    export AHS_SEG_DATA=<folder that holds coco-stuff/>
    python -m ahs_seg_jax.main --config=configs/vitl.py --config.init=<weights> --workdir=runs/vitl
    python -m ahs_seg_jax.main --config=configs/vitl.py:smoke --workdir=runs/vitl_smoke

Hardware, time and score: not run. `smoke` follows the same recipe with a small model, random weights and drawn scenes,
without any file, in about a minute: most of it compiling.
"""

import dataclasses
import os

import ml_collections

from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, LossConfig, TrainConfig, command_line, training
from ahs_seg_jax.models import architecture


def experiment() -> Experiment:
    """The full run."""
    return Experiment(
        name="vitl",
        model=architecture.vitl14_336().replace(dtype="bfloat16", class_chunk=19, remat="all"),
        data=DataConfig(name="coco_stuff", root=os.environ.get("AHS_SEG_DATA", ""), num_threads=8, prefetch=8),
        train=TrainConfig(
            steps=80_000,
            batch_size=4,
            finetune="orthogonal",
            learning_rate=1e-4,
            clip_multiplier=0.005,
            weight_decay=1e-4,
            clip_norm=1.0,
        ),
        losses=LossConfig(class_chunk=19),  # 171 classes in nine passes: memory for one pass at a time
        eval=EvalConfig(protocol="cat_seg"),
    )


def smoke() -> Experiment:
    """The same recipe with a small model, random weights and drawn scenes, in a few steps."""
    stand_in = dataclasses.replace(
        experiment(), init=training.RANDOM_INIT, model=architecture.tiny(), data=DataConfig(name="scenes")
    )
    return command_line.smoke(stand_in)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "" and "smoke"."""
    return command_line.select(variant, {"": experiment(), "smoke": smoke()})
