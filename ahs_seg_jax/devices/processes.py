"""The processes of one run: who speaks, and waiting for each other."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ahs_seg_jax.devices import distributed


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


def all_or_none(action: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `action` in every process and returns its result, or raises in all of them where it failed in one.

    Raises the error of this process, or RuntimeError with the words of another one's.
    """
    result, failure = None, None
    try:
        result = action(*arguments)
    except Exception as error:
        failure = error
    mine = "" if failure is None else str(failure) or type(failure).__name__
    failures = distributed.exchange("done by all or none", mine)
    if failure is not None:
        raise failure
    for number, text in enumerate(failures):
        if text:
            raise RuntimeError(f"process {number}: {text}")
    return result


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes reports."""
    return jax.process_index() == 0


def log(message: str) -> None:
    """Prints a line, once for all processes."""
    if is_main_process():
        print(message, flush=True)
