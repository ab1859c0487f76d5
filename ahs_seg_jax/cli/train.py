"""`ahs-seg train`: a configuration is trained in a working directory."""

from collections.abc import Sequence
from typing import NoReturn

import typer

from ahs_seg_jax.devices import before_start


def train(context: typer.Context) -> None:
    """Trains: --config=FILE --workdir=FOLDER.

    The configuration is a file such as configs/tiny.py; configs/tiny.py:smoke is a short trial of it.
    --config.train.batch_size=8 sets any of its fields, which ahs_seg_jax/config/experiment.py lists. The same command
    continues a stopped run.
    """
    hand_over("train", context.args)


def hand_over(mode: str, arguments: Sequence[str]) -> NoReturn:
    """Runs `ahs_seg_jax.main` with these flags, in this mode."""
    before_start.end_at_once()
    from ahs_seg_jax import main

    main.program(["ahs-seg", f"--mode={mode}", *arguments])
