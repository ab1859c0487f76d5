"""Ctrl-C and SIGTERM while a program imports and prepares: it has nothing to save yet, and ends with one line.

Nothing heavy is imported here, so that this can come first. An exception from a signal handler may be lost, in an
import that tries several libraries or in a finaliser, and a program that lost it would run for hours.
"""

import os
import signal
import threading
from typing import Any

from ahs_seg_jax.errors import Ending


def end_at_once() -> None:
    """From now on both signals end the process where it is, until `stopping.StopRequest` takes their place."""
    if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _end(number: int, _frame: Any) -> None:
    name = signal.Signals(number).name
    os.write(2, f"stopped by {name}; the same command continues from the newest checkpoint, if there is one\n".encode())
    os._exit(Ending.INTERRUPTED if number == signal.SIGINT else Ending.PREEMPTED)
