"""A small model trained from nothing on any folder of images and index masks.

    python -m ahs_seg_jax.main --config=configs/folder.py --config.data.root=<folder> --workdir=runs/folder
    python -m ahs_seg_jax.main --config=configs/folder.py:smoke --config.data.root=<folder> --workdir=runs/folder_smoke

The folder holds `images/train`, `images/val`, `annotations/train`, `annotations/val` and `classes.txt` (one name a
line); masks are PNG files of class indices, 255 = unlabelled.

Hardware: 2 CPU cores. Time: not run. Score: not run.
"""

import ml_collections

from ahs_seg_jax import config
from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, TrainConfig
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ImageTowerConfig


def experiment() -> Experiment:
    """The full run."""
    model = architecture.tiny().replace(
        image=ImageTowerConfig(layers=4, width=128, heads=4, patch_size=8, crop=192, pretrained_grid=24)
    )
    return Experiment(
        name="folder",
        model=model,
        data=DataConfig(name="folder"),
        train=TrainConfig(
            steps=1500,
            batch_size=8,
            finetune="scratch",
            learning_rate=1e-3,
            clip_multiplier=1.0,
            warmup_steps=50,
            checkpoint_every=250,
            eval_every=500,
            picture_every=500,
        ),
        eval=EvalConfig(protocol="whole", batch_size=8),
    )


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "" and "smoke"."""
    return config.select(variant, {"": experiment(), "smoke": config.smoke(experiment())})
