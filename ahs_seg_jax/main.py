"""The program: `python -m ahs_seg_jax.main --config=configs/tiny.py --workdir=runs/tiny [--mode=eval]`.

Trains, or continues, or evaluates in the working directory. Any field of the configuration can be set:
`--config.train.batch_size=8`. A user's mistake ends in one message and exit code 2; other codes: `errors.Ending`.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from ahs_seg_jax.devices import before_start, huge_pages

if __name__ == "__main__":  # before the imports that take seconds
    before_start.end_at_once()
    huge_pages.restart_with_huge_pages()

from absl import app, flags

from ahs_seg_jax import config, errors
from ahs_seg_jax.devices import distributed
from ahs_seg_jax.errors import CheckpointError, CorruptExample
from ahs_seg_jax.evaluation.run import evaluate_benchmarks
from ahs_seg_jax.training.monitor import NonFiniteLoss
from ahs_seg_jax.training.train import train

USER_ERRORS = (errors.InputError, CheckpointError, CorruptExample, NonFiniteLoss, errors.LostProcess, OSError)


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Adds the program's flags to `values`; the fields of the configuration are not among them."""
    file = "Configuration file, such as configs/tiny.py or its :smoke; --config.some.field=value sets a field of it."
    flags.DEFINE_string("config", None, file, flag_values=values)
    folder = "Folder of the run: checkpoints, TensorBoard files, results, pictures."
    flags.DEFINE_string("workdir", None, folder, flag_values=values)
    flags.DEFINE_enum("mode", None, config.MODES, "In place of the configuration's own mode.", flag_values=values)
    address = "host:port of process 0, for a run of several processes."
    flags.DEFINE_string("coordinator", None, address, flag_values=values)
    flags.DEFINE_integer("num_processes", None, "How many processes take part in the run.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "This process's number, from 0.", flag_values=values)
    several = "Several processes, as Cloud TPU, SLURM or Open MPI say."
    flags.DEFINE_bool("distributed", False, several, flag_values=values)
    timeout = "Seconds without a sign of life, after which a process is lost."
    flags.DEFINE_float("process_timeout", distributed.TIMEOUT, timeout, flag_values=values)
    return values


def parse(argv: list[str], values: flags.FlagValues) -> list[str]:
    """Sets the flags; returns the program's name and the arguments that set fields of the configuration.

    Raises InputError for a mistake.
    """
    try:
        rest = values(argv, known_only=True)
        if unknown := [word for word in rest if word.startswith("-") and not word.startswith("--config.")]:
            values([argv[0], *unknown])  # raises, and says which flag may have been meant
    except flags.Error as error:
        raise errors.InputError(str(error)) from error
    return rest


def parse_or_fail(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """`parse`, which a mistake ends in one message, without absl's usage text."""
    try:
        return parse(argv, values)
    except errors.InputError as error:
        fail(error)


def experiment_of(values: flags.FlagValues, overrides: Sequence[str]) -> config.Experiment:
    """What the flags describe. Raises InputError for a user's mistake."""
    if not values.config or not values.workdir:
        raise errors.InputError("both flags are needed, such as --config=configs/tiny.py --workdir=runs/tiny")
    return config.load(values.config, [*overrides, *([f"--config.mode={values.mode}"] if values.mode else [])])


def join(values: flags.FlagValues) -> None:
    """Joins the other processes, if the flags say that there are any. Raises as `distributed.join` does."""
    distributed.join(
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
        detect=values.distributed,
        timeout=values.process_timeout,
    )


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs what `parse` left; turns what is wrong with the input or the machine, not the program, into one message."""
    try:
        experiment = experiment_of(values, argv[1:])
        join(values)
        sys.exit((evaluate_benchmarks if experiment.mode == "eval" else train)(experiment, values.workdir))
    except USER_ERRORS as error:
        fail(error)


def fail(error: BaseException) -> NoReturn:
    """One message on stderr, exit code 2."""
    print(errors.told(error), file=sys.stderr)
    sys.exit(2)


def program(argv: list[str]) -> NoReturn:
    """The whole program; `argv` begins with its name, as `sys.argv` does. Once in a process."""
    define_flags(flags.FLAGS)
    app.run(main, argv=argv, flags_parser=parse_or_fail)
    raise AssertionError("absl's run does not return")


if __name__ == "__main__":
    program(sys.argv)
