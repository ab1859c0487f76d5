"""`ahs-seg memory`: what a configuration needs of each device."""

from typing import Annotated, Literal

import typer

from ahs_seg_jax.cli import options


def memory(
    context: typer.Context,
    config: Annotated[str, typer.Option(help="Configuration file, such as configs/vitb.py.")],
    mode: Annotated[Literal["train", "eval"], typer.Option(help="The program to look at.")] = "train",
    topology: Annotated[str, typer.Option(help="TPU topology to compile for, such as v5e:2x2.")] = "",
) -> None:
    """Predicts the memory of a run on each device.

    Compiles the real programs without running them, and needs no data and no weights: for the devices at hand or, with
    --topology, for a TPU on any machine that has libtpu. --config.train.batch_size=16 sets any field, as for train.
    """
    options.finish(lambda: run(config, context.args, topology, mode))


def run(config: str, overrides: list[str], topology: str, mode: str) -> None:
    """Prints the report. Raises InputError for what a user can mend."""
    from ahs_seg_jax.ahead_of_time.memory import report_for

    print(report_for(config, overrides, topology=topology, mode=mode))
