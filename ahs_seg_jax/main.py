"""The program: `python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny [--mode=eval]`.

Trains, or continues, or evaluates in the working directory. Any field of the configuration can be set:
`--config.train.batch_size=8`. A user's mistake ends in one message and exit code 2; other codes: `errors.Ending`.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

from ahs_seg_jax import errors
from ahs_seg_jax.config import MODES, command_line
from ahs_seg_jax.devices import distributed
from ahs_seg_jax.devices.huge_pages import restart_with_huge_pages
from ahs_seg_jax.errors import CheckpointError, CorruptExample, Ending
from ahs_seg_jax.evaluation.run import evaluate_benchmarks
from ahs_seg_jax.training.monitor import NonFiniteLoss
from ahs_seg_jax.training.train import train

if __name__ == "__main__":
    restart_with_huge_pages()  # before the imports that take seconds


USER_ERRORS = (errors.InputError, CheckpointError, CorruptExample, NonFiniteLoss, errors.LostProcess, OSError)


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> flags.FlagValues:
    """Adds the program's flags to `values`; the fields of the configuration that can be set are found in `argv`."""
    config = "Configuration file, such as configs/tiny.py or its :smoke."
    config_flags.DEFINE_config_file("config", None, config, flag_values=values, sys_argv=list(argv))
    folder = "Folder of the run: checkpoints, TensorBoard files, results, pictures."
    flags.DEFINE_string("workdir", None, folder, flag_values=values)
    flags.DEFINE_enum("mode", None, MODES, "In place of the configuration's own mode.", flag_values=values)
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, for a run of several processes.", flag_values=values
    )
    flags.DEFINE_integer("num_processes", None, "How many processes take part in the run.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "This process's number, from 0.", flag_values=values)
    several = "Several processes, as Cloud TPU, SLURM or Open MPI say."
    flags.DEFINE_bool("distributed", False, several, flag_values=values)
    timeout = "Seconds without a sign of life, after which a process is lost."
    flags.DEFINE_float("process_timeout", distributed.TIMEOUT, timeout, flag_values=values)
    return values


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Sets the flags from the command line. A mistake ends the program in one message, without absl's usage text."""
    if problems := command_line.unknown_overrides(argv):
        fail(errors.ConfigError(problems))
    try:
        return values(argv)
    except flags.Error as error:
        fail(command_line.innermost(error))


def run(values: flags.FlagValues) -> Ending:
    """Does what the flags say; returns how it ended. Raises one of USER_ERRORS for a user's mistake."""
    if values.config is None or not values.workdir:
        raise errors.InputError("both flags are needed, such as --config=configs/tiny.py --workdir=runs/tiny")
    config = values.config.copy_and_resolve_references()
    config.mode = values.mode or config.mode
    experiment = command_line.from_config_dict(config)
    join(values)
    return (evaluate_benchmarks if experiment.mode == "eval" else train)(experiment, values.workdir)


def join(values: flags.FlagValues) -> None:
    """Joins the other processes, if the flags say that there are any. Raises as `distributed.join` does."""
    distributed.join(
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
        detect=values.distributed,
        timeout=values.process_timeout,
    )


def main(_argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs, and turns what is wrong with the input or the machine, not with the program, into one message."""
    try:
        sys.exit(run(values))
    except USER_ERRORS as error:
        fail(error)


def fail(error: BaseException) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def program(argv: list[str]) -> NoReturn:
    """The whole program; `argv` begins with its name, as `sys.argv` does. Once in a process."""
    define_flags(flags.FLAGS, argv)
    app.run(main, argv=argv, flags_parser=parse)
    raise AssertionError("absl's run does not return")


if __name__ == "__main__":
    program(sys.argv)
