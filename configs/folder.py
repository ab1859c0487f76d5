"""A small model trained from nothing on any folder of images and index masks.

    python -m ahs_seg_jax.main --config=configs/folder.py --config.data.root=<folder> --workdir=runs/folder
    python -m ahs_seg_jax.main --config=configs/folder.py:smoke --config.data.root=<folder> --workdir=runs/folder_smoke

The folder holds `images/train`, `images/val`, `annotations/train`, `annotations/val` and `classes.txt` (one name a
line); masks are PNG files of class indices, 255 = unlabelled.

Hardware: 2 CPU cores, shared with other work. On a reduced CamVid (120 images, 11 classes): 13 min 12 s, mIoU 30.5
(protocol whole; measured with losses.unlabelled=negative). It finds sky, road, building, tree, pavement and car, but
nothing that is a few pixels wide.

The folder may come from photographs alone: `ahs-seg segment photos --classes-file names.txt --model MODEL --unknown 0.3
--dataset <folder>` labels them with another model, or a training-free method, and leaves doubtful pixels unlabelled.
"""

import dataclasses

import ml_collections

from ahs_seg_jax.config import AugmentConfig, DataConfig, EvalConfig, Experiment, LossConfig, TrainConfig, command_line
from ahs_seg_jax.models import architecture


def experiment() -> Experiment:
    """The full run."""
    small = architecture.tiny()
    model = small.replace(
        image=dataclasses.replace(small.image, crop=128, pretrained_grid=16),
        aggregator=dataclasses.replace(small.aggregator, window=8),
    )
    return Experiment(
        name="folder",
        model=model,
        # Strong colour changes are more than so small a model learns to see through in minutes.
        data=DataConfig(
            name="folder", templates=("{}",), augment=AugmentConfig(color_jitter=False, label_resize="centre")
        ),
        train=TrainConfig(
            steps=1600,
            batch_size=4,
            class_pooling=1,
            finetune="scratch",
            learning_rate=6e-4,
            clip_multiplier=1.0,
            clip_norm=1.0,
            warmup_steps=50,
            checkpoint_every=400,
            eval_every=800,
            picture_every=0,
        ),
        # Who leaves pixels without a label does not say that no class is there.
        losses=LossConfig(contrastive=0.2, hierarchy=0.01, unlabelled="ignored"),
        eval=EvalConfig(protocol="whole", batch_size=8),
    )


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "" and "smoke"."""
    return command_line.select(variant, {"": experiment(), "smoke": command_line.smoke(experiment())})
