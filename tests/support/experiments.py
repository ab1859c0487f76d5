"""Experiments as the command line hands them over, with wrong fields too."""

import pytest

from ahs_seg_jax.config import Experiment, TrainConfig, command_line
from ahs_seg_jax.errors import ConfigError
from ahs_seg_jax.models import architecture


def scratch(**changes) -> Experiment:
    """A valid experiment that trains the tiny model from scratch."""
    return Experiment(model=architecture.tiny(), train=TrainConfig(finetune="scratch"), **changes)


def edited(**changes):
    """The ConfigDict of a valid experiment with some fields, named by path (`train__steps`), set to other values."""
    values = command_line.to_config_dict(scratch()).to_dict()
    for path, value in changes.items():
        *groups, name = path.split("__")
        target = values
        for group in groups:
            target = target[group]
        target[name] = value
    return values


def refused(values) -> list[str]:
    """The problems that are named when the values are refused."""
    with pytest.raises(ConfigError) as caught:
        command_line.from_config_dict(values)
    return caught.value.problems
