"""Configuration files, such as `configs/tiny.py`."""

import contextlib
import importlib.util
import os
import pathlib
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from ahs_seg_jax.config.command_line import from_config_dict, unknown_overrides
from ahs_seg_jax.config.experiment import Experiment
from ahs_seg_jax.errors import ConfigError, InputError

NO_CONFIG = "is no Python file with a get_config(); configs/tiny.py is one"


def module(path: str | os.PathLike[str]) -> Any:
    """The Python module of a configuration file, with its `experiment()` and `get_config(variant)`.

    Raises InputError where there is no such file, or it cannot be run.
    """
    file = pathlib.Path(path)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{file} {NO_CONFIG}")
    loaded = importlib.util.module_from_spec(spec)
    with _running(file):
        spec.loader.exec_module(loaded)
    if not callable(getattr(loaded, "get_config", None)):
        raise InputError(f"{file} {NO_CONFIG}")
    return loaded


@contextlib.contextmanager
def _running(file: pathlib.Path) -> Iterator[None]:
    """Whatever a configuration file raises in this context is an InputError that names the file and the line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(
            f"{file} cannot be run as a configuration: {where}{type(error).__name__}: {error}; configs/tiny.py is one"
        ) from error


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that the program runs with `--config=<path>` and the overrides `--config.some.field=value`.

    `path` may name a variant of the file: `configs/tiny.py:smoke`. Raises InputError for a file, variant, field or
    value that does not exist or fit, and ConfigError for contradictions.
    """
    if problems := unknown_overrides(overrides):
        raise ConfigError(problems)
    stem, names_variant, variant = str(path).partition(".py:")
    file = pathlib.Path(f"{stem}.py" if names_variant else path)
    loaded = module(file)
    with _running(file):
        config = loaded.get_config(variant)
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"{file} has a get_config() that gives a {type(config).__name__}; it must give a ConfigDict")
    values, command = flags.FlagValues(), ["config", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
    try:
        rest = values(command)
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest[1:]:
        raise InputError(f"{rest[1]!r} sets no field; one is set like this: --config.train.batch_size=8")
    return from_config_dict(values["config"].value)
