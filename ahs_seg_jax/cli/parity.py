"""`ahs-seg parity`: how far a checkpoint is from another implementation."""

import pathlib
from typing import Annotated

import typer

from ahs_seg_jax.cli import options


def parity(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=options.CHECKPOINTS.capitalize())],
    activations: Annotated[
        pathlib.Path, typer.Argument(metavar="ACTIVATIONS", help="npz of another implementation's activations.")
    ],
    activation: options.Activation = None,
    class_pooling: Annotated[int, typer.Option(help="Side of the class layers' pooling.", min=1)] = 2,
) -> None:
    """Compares a checkpoint with saved activations.

    Prints a table, stage by stage; exit code 1 if one differs. The module ahs_seg_jax.evaluation.parity lists the names
    and axes of the activations.
    """
    options.finish(lambda: run(checkpoint, activations, class_pooling, activation))


def run(checkpoint: str, activations: pathlib.Path, class_pooling: int, activation: str | None = None) -> int:
    """Prints the table; returns 0 if every stage holds, 1 if one differs.

    Raises CheckpointError, OSError or ValueError if they cannot be compared.
    """
    import numpy as np

    from ahs_seg_jax.checkpoints.pretrained import load_pretrained
    from ahs_seg_jax.errors import CheckpointError
    from ahs_seg_jax.evaluation.parity import AGREEMENT, TOLERANCE, report, table

    pretrained = load_pretrained(checkpoint, activation=activation)
    if not pretrained.is_complete:
        raise CheckpointError(f"{checkpoint} is a bare CLIP; only a whole model's activations can be compared")
    with np.load(activations, allow_pickle=False) as file:
        saved = {name: file[name] for name in file.files}
    rows = report(pretrained, saved, class_pooling)
    print(table(rows))
    print(f"tolerance: {TOLERANCE:g} of the largest absolute value, {100 * AGREEMENT:g} % of the labels")
    return 0 if all(row.holds for row in rows) else 1
