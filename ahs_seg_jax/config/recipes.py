"""The three published recipes of training from CLIP, and in what an experiment differs from the nearest of them.

Sources: `catseg` is CAT-Seg's, `orthogonal` and `components` are AHS-Seg's classes CATSeg and EnhancedCATSeg. Sizes of
batches and the number of steps are left out: those scale with the devices at hand.
"""

from collections.abc import Mapping
from typing import Any

from ahs_seg_jax.config.experiment import Experiment
from ahs_seg_jax.models.fields import flatten

_COMMON: Mapping[str, tuple[Any, ...]] = {
    "model.init": ("torch",),
    "model.mh_fpn": (False,),
    "model.dc_hsp": (False,),
    "data.augment.label_resize": ("floor",),
    "train.class_pooling": (2,),
    "train.learning_rate": (2e-4,),
    "train.clip_multiplier": (0.01,),
    "train.weight_decay": (1e-4,),
    "train.clip_norm": (0.01,),
    "train.warmup_steps": (0,),
    "train.ema_decay": (0.0,),
}
# Recipe -> field -> its published values; the second of two is that of ViT-L.
RECIPES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "catseg": {"model.adaptation": ("none",), "train.finetune": ("attention",), **_COMMON},
    "orthogonal": {"model.adaptation": ("orthogonal",), "train.finetune": ("orthogonal",), **_COMMON},
    "components": {
        "model.adaptation": ("ha_hem",),
        "train.finetune": ("orthogonal_biases",),
        **_COMMON,
        "model.mh_fpn": (True,),
        "model.dc_hsp": (True,),
        "train.learning_rate": (2e-4, 1e-4),
        "train.clip_multiplier": (0.01, 0.005),
        "train.clip_norm": (1.0,),
    },
}


def differences(experiment: Experiment, recipe: str) -> list[str]:
    """The fields whose values the recipe does not have, such as `train.clip_norm 1.0 (published 0.01)`."""
    values = dict(flatten(experiment))
    return [
        f"{field} {values[field]} (published {' or '.join(map(str, published))})"
        for field, published in RECIPES[recipe].items()
        if values[field] not in published
    ]


def remark(experiment: Experiment) -> str:
    """One line on how the experiment differs from the nearest published recipe; empty if it does not.

    A model trained from nothing follows none of them, so nothing is said about it.
    """
    if experiment.train.finetune == "scratch":
        return ""
    found = {recipe: differences(experiment, recipe) for recipe in RECIPES}

    def distance(recipe: str) -> tuple[int, int]:
        """What the model is and what learns counts before the numbers of the optimiser."""
        return sum(line.startswith(("model.", "train.finetune")) for line in found[recipe]), len(found[recipe])

    nearest = min(found, key=distance)
    return f"differs from the published recipe {nearest} in: {', '.join(found[nearest])}" if found[nearest] else ""
