"""A small model with every component, trained from nothing on drawn scenes: no files, no downloads.

    python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny
    python -m ahs_seg_jax.main --config=configs/tiny.py:smoke --workdir=runs/tiny_smoke

Hardware: 2 CPU cores. Time: not run. Score: not run. `smoke` only shows that everything works, in seconds.
"""

import ml_collections

from ahs_seg_jax import config
from ahs_seg_jax.config import DataConfig, EvalConfig, Experiment, TrainConfig
from ahs_seg_jax.data.transforms import AugmentConfig
from ahs_seg_jax.models import architecture


def experiment() -> Experiment:
    """The full run."""
    return Experiment(
        name="tiny",
        model=architecture.tiny(),
        data=DataConfig(name="scenes", augment=AugmentConfig(color_jitter=False)),
        train=TrainConfig(
            steps=1500,
            batch_size=16,
            finetune="scratch",
            learning_rate=1e-3,
            clip_multiplier=1.0,
            warmup_steps=50,
            checkpoint_every=250,
            eval_every=500,
            picture_every=500,
        ),
        eval=EvalConfig(protocol="whole", batch_size=16),
    )


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Variants: "" and "smoke"."""
    return config.select(variant, {"": experiment(), "smoke": config.smoke(experiment())})
