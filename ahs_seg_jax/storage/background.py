"""Small writes in a thread of their own: a storage that does not answer must not hold up a training step."""

import queue
import threading
from collections.abc import Callable

from ahs_seg_jax.devices import processes

ROOM = 1000  # writes that may wait; further ones are dropped
PATIENCE = 30.0  # seconds that the end of a run waits for the last writes


class Writer:
    """Runs the actions that it is given one after the other.

    An error, as on a full disk or of a bucket that vanished, becomes a warning: one for each outage, not each write.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._waiting: queue.Queue[tuple[str, Callable[[], object]] | None] = queue.Queue(room)
        self._lock = threading.Lock()
        self._lost = 0  # in this outage; 0: there is none
        threading.Thread(target=self._run, daemon=True).start()

    def do(self, what: str, action: Callable[[], object]) -> None:
        """Returns at once; `what` names it in a warning."""
        try:
            self._waiting.put_nowait((what, action))
        except queue.Full:
            self._failed(what, f"{self._waiting.maxsize} writes before it are not done yet")

    def wait(self, seconds: float) -> bool:
        """Whether everything given so far is done, or has failed, within `seconds`."""
        done = threading.Event()
        try:
            self._waiting.put(("", done.set), timeout=seconds)
        except queue.Full:
            return False
        return done.wait(seconds)

    def close(self, patience: float = PATIENCE) -> None:
        """Waits `patience` seconds for the last writes and ends the thread; prints a line if some had to be given up.

        Nothing may be given to the writer afterwards.
        """
        if self.wait(patience):
            self._waiting.put(None)
        else:
            processes.log(f"WARNING: {self._waiting.qsize()} writes were given up: no answer within {patience:g} s")

    def _run(self) -> None:
        while (given := self._waiting.get()) is not None:
            what, action = given
            try:
                action()
            except Exception as error:  # a bucket's libraries have errors of their own
                self._failed(what, f"{type(error).__name__}: {error}")
            else:
                if what:
                    self._worked()

    def _failed(self, what: str, cause: str) -> None:
        with self._lock:
            self._lost += 1
            first = self._lost == 1
        if first:
            processes.log(f"WARNING: {what} could not be written ({cause}); training goes on")

    def _worked(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            processes.log(
                f"curves, pictures and results are written again; {lost} write{'s' if lost > 1 else ''} were lost"
            )
