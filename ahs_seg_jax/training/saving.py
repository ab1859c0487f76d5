"""How often a run saves a checkpoint."""

import time
from collections.abc import Callable

import jax

from ahs_seg_jax.devices import processes


def save_spacing(at_most: int) -> int:
    """Steps from one save to the next, so that a killed run loses `at_most` steps (0: never any save).

    A save that is being written when the run is killed is lost as well, and what counts is the one before, which was
    complete when it started: hence half. For 1 there is no half: that save must be complete before the next step.
    """
    return max(1, at_most // 2) if at_most else 0


class SaveTimer:
    """Says when to save so that a killed run loses `minutes` (0: never): when the last save is half as old.

    Half for the reason of `save_spacing`. Several processes agree on it every `agree_every` steps.
    """

    def __init__(self, minutes: float, agree_every: int, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._agree_every, self._clock = minutes * 60.0 / 2, agree_every, clock
        self._saved = clock()

    def saved(self) -> None:
        """A save was started now."""
        self._saved = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        if not self._seconds:
            return False
        old = self._clock() - self._saved >= self._seconds
        if jax.process_count() == 1:
            return old
        # Clocks differ, and asking makes the devices wait: the first process decides, every `agree_every` steps only.
        return step % self._agree_every == 0 and processes.as_first_process(old)
