"""One thread calls the model; images that wait with the same words go into one call."""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ahs_seg_jax.segmenter import Segmentation
from ahs_seg_jax.serve.limits import Refused

logger = logging.getLogger("ahs_seg_jax")


@dataclasses.dataclass(frozen=True)
class Words:
    """What is looked for. Only images with equal words share a call."""

    names: tuple[str, ...]
    unknown: str | float | tuple[str, ...] = "none"  # as `Segmenter.__call__` takes it


Segment = Callable[[list[np.ndarray], Words], Sequence[Segmentation]]
Answer = concurrent.futures.Future[Segmentation]


class Batches:
    """Calls `segment` in a thread of its own, with at most `together` images that wait with the same words.

    The image that has waited longest is always among the next ones. A call takes 1, 2, 4, 8 ... images: other numbers
    would be filled up by the model, or compiled for. Nobody waits for a call to become full.
    """

    def __init__(self, segment: Segment, together: int, observe: Callable[[int], None] = lambda images: None):
        """`observe` gets the number of images of every call."""
        self._segment, self._together, self._observe = segment, together, observe
        self._waiting: collections.deque[tuple[np.ndarray, Words, Answer]] = collections.deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="segmenter", daemon=True)
        self._thread.start()

    def ask(self, image: np.ndarray, words: Words) -> Answer:
        """The result for an image uint8 `[H, W, 3]`, when it is there. Cancelled before its turn, it is left out."""
        answer: Answer = concurrent.futures.Future()
        with self._changed:
            if self._closed:
                raise Refused(503, "The server is stopping.")
            self._waiting.append((image, words, answer))
            self._changed.notify()
        return answer

    def alive(self) -> bool:
        """Whether images are still segmented."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Ends when the call that runs has ended; what waits then is cancelled."""
        with self._changed:
            self._closed = True
            for *_, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _next(self) -> tuple[Words, list[tuple[np.ndarray, Answer]]] | None:
        """The images of the next call, which cannot be cancelled any more; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            words = self._waiting[0][1]
            same = [entry for entry in self._waiting if entry[1] == words and not entry[2].cancelled()]
            most = min(len(same), self._together)
            taken = same[: 2 ** (most.bit_length() - 1) if most else 0]
            gone = {id(answer) for *_, answer in taken}
            self._waiting = collections.deque(
                entry for entry in self._waiting if id(entry[2]) not in gone and not entry[2].cancelled()
            )
        return words, [(image, answer) for image, _, answer in taken if answer.set_running_or_notify_cancel()]

    def _work(self) -> None:
        while (found := self._next()) is not None:
            words, group = found
            if group:
                self._answer(words, group)

    def _answer(self, words: Words, group: list[tuple[np.ndarray, Answer]]) -> None:
        self._observe(len(group))
        try:
            results = self._segment([image for image, _ in group], words)
        except Exception as error:  # of whatever kind: it is the answer, and the next call goes on
            if len(group) == 1:
                group[0][1].set_exception(error)
                return
            logger.warning("%d images together failed (%r); each is tried alone", len(group), error)
            for entry in group:
                self._answer(words, [entry])
            return
        for (_, answer), result in zip(group, results, strict=True):
            answer.set_result(result)
