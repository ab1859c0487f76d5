"""The processes of one run: who speaks, and waiting for each other."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def wait_for_all(name: str) -> None:
    """Returns when all processes have come to the point of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def as_first_process(value: bool) -> bool:
    """The first process's value, in all processes.

    It is for decisions that they must make alike, on something that each would see a little differently.
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes reports."""
    return jax.process_index() == 0


def log(message: str) -> None:
    """Prints a line, once for all processes."""
    if is_main_process():
        print(message, flush=True)
