"""Lines that say now and then how far long work is."""

import time
from collections.abc import Callable

import jax

PROGRESS_SECONDS = 10.0  # between two lines of progress


class Progress:
    """Lines with the rate and the time left, now and then. The first batch, which compiles, does not count."""

    def __init__(self, total: int, log: Callable[[str], None]):
        self._total, self._log = total, log
        self._first: tuple[int, float] | None = None
        self._shown = time.monotonic()

    def show(self, done: int) -> None:
        """Says how far the evaluation is, if the last line is old enough."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        left = f", {rate:.2f} images/s, {(self._total - done) / rate / 60:.1f} min left" if rate else ""
        share = "" if jax.process_count() == 1 else " of this process"
        self._log(f"evaluated {done} of {self._total} images{share}{left}")
