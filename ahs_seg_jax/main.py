"""The program: `python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny [--mode=eval]`.

Trains, or continues, or evaluates in the working directory. Any field of the configuration can be set:
`--config.train.batch_size=8`. A user's mistake ends in one message and exit code 2; other codes: `resume.Ending`.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

from ahs_seg_jax import errors
from ahs_seg_jax.config import MODES, Experiment, command_line
from ahs_seg_jax.devices import distributed
from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages
from ahs_seg_jax.errors import CheckpointError, CorruptExample, Ending
from ahs_seg_jax.evaluation.run import evaluate_benchmarks
from ahs_seg_jax.training.monitor import NonFiniteLoss
from ahs_seg_jax.training.train import train

if __name__ == "__main__":
    restart_with_huge_pages()  # before the imports that take seconds


_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, such as configs/tiny.py or its :smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, TensorBoard files, results, pictures.")
_MODE = flags.DEFINE_enum("mode", None, MODES, "In place of the configuration's own mode.")
USER_ERRORS = (errors.InputError, CheckpointError, CorruptExample, NonFiniteLoss, errors.LostProcess, OSError)


def run() -> Ending:
    """Does what the flags say; returns how it ended."""
    if _CONFIG.value is None or not _WORKDIR.value:
        raise errors.InputError("both flags are needed, such as --config=configs/tiny.py --workdir=runs/tiny")
    experiment = configured()
    distributed.join()
    return (evaluate_benchmarks if experiment.mode == "eval" else train)(experiment, _WORKDIR.value)


def configured(init: str = "") -> Experiment:
    """The experiment that the flags describe; `init` takes the place of an empty one.

    Raises InputError without --config, ConfigError for one that cannot be run.
    """
    if _CONFIG.value is None:
        raise errors.InputError("a configuration is needed, such as --config=configs/tiny.py")
    values = _CONFIG.value.copy_and_resolve_references()
    values.mode = _MODE.value or values.mode
    values.init = values.init or init
    return command_line.from_config_dict(values)


def main(argv: Sequence[str]) -> None:
    """Runs, and turns what is wrong with the input or the machine, not with the program, into one message."""
    try:
        sys.exit(run())
    except USER_ERRORS as error:
        fail(error)


def fail(error: BaseException) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def parse(argv: list[str]) -> list[str]:
    """Absl's flags from the command line, without its usage text around a mistake."""
    if problems := command_line.unknown_overrides(argv):
        fail(errors.ConfigError(problems))
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(command_line.innermost(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
