"""Configuration files, such as `configs/tiny.py`."""

import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from ahs_seg_jax.config.command_line import from_config_dict, unknown_overrides
from ahs_seg_jax.config.experiment import Experiment
from ahs_seg_jax.errors import ConfigError, InputError


def module(path: str | os.PathLike[str]) -> Any:
    """The Python module of a configuration file, with its `experiment()` and `get_config(variant)`.

    Raises InputError where there is no such file.
    """
    file = pathlib.Path(path)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file with a get_config(); configs/tiny.py is one")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that the program runs with `--config=<path>` and the overrides `--config.some.field=value`.

    `path` may name a variant of the file: `configs/tiny.py:smoke`. Raises InputError for a file, variant, field or
    value that does not exist or fit, and ConfigError for contradictions.
    """
    if problems := unknown_overrides(overrides):
        raise ConfigError(problems)
    stem, names_variant, variant = str(path).partition(".py:")
    config = module(f"{stem}.py" if names_variant else path).get_config(variant)
    values, command = flags.FlagValues(), ["config", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    try:
        rest = values(command)
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest[1:]:
        raise InputError(f"{rest[1]!r} sets no field; one is set like this: --config.train.batch_size=8")
    return from_config_dict(values["config"].value)
