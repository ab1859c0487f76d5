"""The program: `python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny [--mode=eval]`.

Trains, or continues, or evaluates in the working directory. Any field of the configuration can be set:
`--config.train.batch_size=8`. A user's mistake ends in one message and exit code 2; a run stopped by Ctrl-C in 130.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from ahs_seg_jax import config
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.data.sources import CorruptExample
from ahs_seg_jax.host_memory import keep_freed_memory
from ahs_seg_jax.monitor import NonFiniteLoss
from ahs_seg_jax.scoring import evaluate_checkpoint
from ahs_seg_jax.train import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, such as configs/tiny.py or its :smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, TensorBoard files, results, pictures.")
_MODE = flags.DEFINE_enum("mode", None, config.MODES, "In place of the configuration's own mode.")

# What is wrong with the input or the machine rather than with the program.
USER_ERRORS = (config.InputError, CheckpointError, CorruptExample, NonFiniteLoss, OSError)


def run() -> bool:
    """Does what the flags say; returns whether it came to its end."""
    if _CONFIG.value is None or not _WORKDIR.value:
        raise config.InputError("both flags are needed, such as --config=configs/tiny.py --workdir=runs/tiny")
    values = _CONFIG.value.copy_and_resolve_references()
    if _MODE.value:
        values.mode = _MODE.value
    experiment = config.from_config_dict(values)
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    if experiment.mode == "eval":
        evaluate_checkpoint(experiment, _WORKDIR.value)
        return True
    return train(experiment, _WORKDIR.value)


def main(argv: Sequence[str]) -> None:
    """Runs, and turns mistakes of the user into one message."""
    try:
        finished = run()
    except USER_ERRORS as error:
        fail(error)
    sys.exit(0 if finished else 130)


def fail(error: BaseException) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def parse(argv: list[str]) -> list[str]:
    """Absl's flags from the command line, without its usage text around a mistake."""
    if problems := config.unknown_overrides(argv):
        fail(config.ConfigError(problems))
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(config.innermost(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
