"""Stopping in an orderly way when a signal asks for it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax

from ahs_seg_jax.devices import processes
from ahs_seg_jax.errors import Ending


class StopRequest:
    """Handles Ctrl-C and SIGTERM while this context is open: the first asks the loop to stop after the current step.

    A second one, or the first inside `at_once`, raises KeyboardInterrupt where the program is. Several processes must
    stop after the same step: there JAX's preemption service listens to SIGTERM, and Ctrl-C is handed on to it.
    """

    def __init__(self) -> None:
        self.received = False
        self.ending = Ending.PREEMPTED
        self._asked = False
        self._at_once = False
        self._several = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: Any) -> None:
        first, self._asked = not self._asked, True
        if first:
            self.ending = Ending.INTERRUPTED if number == signal.SIGINT else Ending.PREEMPTED
        if not self._several:
            self.received = True  # before anything is raised: Python drops what is raised inside a finaliser
        if not first or (self._at_once and not self._several):
            raise KeyboardInterrupt
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        processes.log("\nstopping after this step; once more stops without saving")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that changes no state: there is no need to wait for its end."""
        try:
            self._at_once = True
            yield
        except KeyboardInterrupt:
            self.received = True
        finally:
            self._at_once = False
