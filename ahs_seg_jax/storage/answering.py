"""Waiting for a storage that may not answer."""

import threading
import time
from collections.abc import Callable


class Answering:
    """Finds out whether a place answers. Clients of a bucket try for a minute or more before they report a failure.

    `ask` does something there that needs the place itself; it runs in a thread, one at a time. An error that comes
    quickly counts as an answer: whatever is done there next will say more about it.
    """

    def __init__(self, ask: Callable[[], object]):
        self._ask = ask
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None  # of the last try that ended
        self._seconds = 0.0  # that it took
        self.cause = ""  # of the last no

    def within(self, seconds: float) -> bool:
        """Whether it answers now; waits at most `seconds`."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._try, daemon=True)
            self._thread.start()
        self._thread.join(seconds)
        if not self._thread.is_alive() and (self._failure is None or self._seconds <= seconds):
            return True
        self.cause = f"no answer within {seconds:g} s"
        if self._failure:
            self.cause += f", and before {type(self._failure).__name__}: {self._failure}"
        return False

    def _try(self) -> None:
        started = time.monotonic()
        failure = None
        try:
            self._ask()
        except Exception as error:
            failure = error
        self._seconds, self._failure = time.monotonic() - started, failure
