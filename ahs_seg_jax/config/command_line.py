"""Between the dataclasses of an experiment and the flags of the command line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from ahs_seg_jax.config.experiment import Experiment
from ahs_seg_jax.errors import ConfigError, InputError
from ahs_seg_jax.models.fields import build, flatten, unknown


def to_config_dict(experiment: Experiment) -> ml_collections.ConfigDict:
    """The experiment as a ConfigDict whose every field can be set on the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(experiment))


def from_config_dict(config: ml_collections.ConfigDict | Mapping[str, Any], partial: bool = False) -> Experiment:
    """The inverse of `to_config_dict`; also reads plain dictionaries. `partial`: absent fields have their defaults.

    Raises ConfigError with every unknown and wrong-typed field, with those missing unless `partial`, or else with every
    contradiction.
    """
    plain = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    problems: list[str] = []
    if not isinstance(plain, Mapping):
        raise ConfigError([f"it is a {type(plain).__name__}; a group of fields is expected"])
    experiment = build(Experiment, plain, "", problems, partial).with_activation()
    problems = problems or experiment.problems()
    if problems:
        raise ConfigError(problems)
    return experiment


def unknown_overrides(argv: Sequence[str]) -> list[str]:
    """One sentence for each `--config.some.field=value` in the command line that names no field of Experiment."""
    valid = [path for path, _ in flatten(Experiment())]
    paths = [argument.split("=")[0].removeprefix("--config.") for argument in argv if argument.startswith("--config.")]
    return [unknown(f"--config.{path}", path, valid) for path in paths if path not in valid]


def smoke(experiment: Experiment) -> Experiment:
    """The experiment cut down to a few small steps that use every part: saving, scoring, pictures.

    Most of its time is compiling.
    """
    train = dataclasses.replace(
        experiment.train, steps=4, batch_size=4, warmup_steps=1, log_every=1, checkpoint_every=2, picture_every=2
    )
    evaluation = dataclasses.replace(experiment.eval, protocol="whole", batch_size=4, limit=4, pictures=2)
    return dataclasses.replace(experiment, train=train, eval=evaluation)


def select(variant: str, variants: Mapping[str, Experiment]) -> ml_collections.ConfigDict:
    """The variant that a config file was asked for (`--config=configs/tiny.py:smoke`); "" is the full run.

    Raises InputError for an unknown one.
    """
    if variant not in variants:
        known = ", ".join(repr(name) for name in variants if name)
        raise InputError(f"variant {variant!r} is not one of this configuration's; choose one of {known}, or none")
    return to_config_dict(variants[variant])
