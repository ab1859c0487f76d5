"""Every setting once, with its unit and what is valid."""

from ahs_seg_jax.config.command_line import (
    from_config_dict,
    select,
    smoke,
    to_config_dict,
    unknown_overrides,
)
from ahs_seg_jax.config.data import AugmentConfig, DataConfig, ScenesConfig
from ahs_seg_jax.config.evaluation import EvalConfig
from ahs_seg_jax.config.experiment import MODES, Experiment
from ahs_seg_jax.config.identity import differences, fingerprint, stored
from ahs_seg_jax.config.loading import load
from ahs_seg_jax.config.training import RANDOM_INIT, LossConfig, MeshConfig, TrainConfig

__all__ = [
    "MODES",
    "RANDOM_INIT",
    "AugmentConfig",
    "DataConfig",
    "EvalConfig",
    "Experiment",
    "LossConfig",
    "MeshConfig",
    "ScenesConfig",
    "TrainConfig",
    "differences",
    "fingerprint",
    "from_config_dict",
    "load",
    "select",
    "smoke",
    "stored",
    "to_config_dict",
    "unknown_overrides",
]
