"""`ahs-seg memory`: what a configuration needs of each device."""

from typing import Annotated

import typer

from ahs_seg_jax.cli import options


def memory(
    context: typer.Context,
    topology: Annotated[str, typer.Option(help="TPU topology to compile for, such as v5e:2x2.")] = "",
) -> None:
    """Predicts a run's memory: --config=FILE [--mode=eval].

    Compiles the real programs without running them, on the devices at hand or, with --topology, for a TPU on any
    machine that has libtpu. No data and no weights are read. --config.train.batch_size=16 sets any field, as for train.
    """
    options.finish(lambda: run(context.args, topology))


def run(arguments: list[str], topology: str) -> None:
    """Prints the report. Raises InputError for what a user can mend."""
    from ahs_seg_jax import main
    from ahs_seg_jax.ahead_of_time.memory import predict
    from ahs_seg_jax.config.training import RANDOM_INIT

    main.parse(["ahs-seg", *arguments])
    print(predict(main.configured(init=RANDOM_INIT), topology))  # weights change nothing here
