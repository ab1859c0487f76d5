"""Lines that say now and then how far long work is."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

PROGRESS_SECONDS = 5.0  # from one line of progress to the next

T = TypeVar("T")


class Progress:
    """Says how many of `total` things are done, how many a second, and how long the rest takes.

    A line reads "`doing` 12 of 100 `unit`, 3.21 `unit`/s, 27 s left". The first report only starts the clock of the
    rate, because what it covers may have included a compilation. `log` receives each line.
    """

    def __init__(self, total: int, log: Callable[[str], None], doing: str, unit: str = "images"):
        self._total, self._log, self._doing, self._unit = total, log, doing, unit
        self._first: tuple[int, float] | None = None
        self._shown, self._done = time.monotonic(), 0

    def show(self, done: int, note: str = "") -> None:
        """Writes a line, with `note` behind the unit, if the last one is old enough."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        left = f", {_rounded(rate)} {self._unit}/s, {duration((self._total - done) / rate)} left" if rate else ""
        self._log(f"{self._doing} {done:,} of {self._total:,} {self._unit}{note}{left}")

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Passes things on and counts each as done; several calls count on."""
        for item in items:
            self._done += 1
            self.show(self._done)
            yield item


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """A time for people: `97 s`, `17 min`, `2 h 07 min`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
