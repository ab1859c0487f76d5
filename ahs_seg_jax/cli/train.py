"""`ahs-seg train` and `ahs-seg evaluate`: a configuration is trained, or its model scored, in a working directory."""

import typer

from ahs_seg_jax.devices import before_start


def train(context: typer.Context) -> None:
    """Trains: --config=FILE --workdir=FOLDER.

    The configuration is a file such as configs/tiny.py; configs/tiny.py:smoke is a short trial of it.
    --config.train.batch_size=8 sets any of its fields, which ahs_seg_jax/config/experiment.py lists. The same command
    continues a stopped run.
    """
    _main("train", context.args)


def evaluate(context: typer.Context) -> None:
    """Scores a model: --config=FILE --workdir=FOLDER.

    The flags are those of train; --config.eval.benchmarks and the other fields of --config.eval choose what is scored.
    """
    _main("eval", context.args)


def _main(mode: str, arguments: list[str]) -> None:
    before_start.end_at_once()
    from ahs_seg_jax import main

    main.program(["ahs-seg", f"--mode={mode}", *arguments])
