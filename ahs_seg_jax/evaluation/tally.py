"""What an evaluation has counted so far: kept in a file so that it can go on, and added up over processes."""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from ahs_seg_jax.storage import writing

SAVE_SECONDS = 30.0  # between two saves

Ranked = tuple[float, int]  # (mIoU of one image in percent, its index)


@dataclasses.dataclass
class Tally:
    """The counts of one process, or of all of them together."""

    confusion: np.ndarray  # int64 [t, t], row = predicted class, column = labelled class
    extremes: int = 0  # how many of the best and of the worst images are remembered
    done: int = 0  # images dealt with, in order, broken ones included
    seconds: float = 0.0
    failed: list[dict[str, str]] = dataclasses.field(default_factory=list)  # name and cause
    best: list[Ranked] = dataclasses.field(default_factory=list)
    worst: list[Ranked] = dataclasses.field(default_factory=list)

    @property
    def images(self) -> int:
        """Images that were counted."""
        return self.done - len(self.failed)

    def added(self, other: "Tally") -> "Tally":
        """Both together, as a new tally: whoever is interrupted meanwhile still has a whole one."""
        return Tally(
            confusion=self.confusion + other.confusion,
            extremes=self.extremes,
            done=self.done + other.done,
            seconds=max(self.seconds, other.seconds),
            failed=self.failed + other.failed,
            best=sorted(self.best + other.best, key=lambda image: (-image[0], image[1]))[: self.extremes],
            worst=sorted(self.worst + other.worst)[: self.extremes],
        )

    def to_json(self) -> str:
        """Everything but the confusion matrix."""
        return json.dumps({key: value for key, value in vars(self).items() if key != "confusion"})

    @classmethod
    def from_json(cls, text: str, confusion: np.ndarray) -> "Tally":
        """The inverse of `to_json`."""
        values = json.loads(text)
        for name in ("best", "worst"):
            values[name] = [(miou, index) for miou, index in values[name]]
        return cls(confusion=confusion, **values)


def digest(facts: Mapping[str, Any]) -> str:
    """A short hash of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Partial:
    """The file that keeps a tally between an interruption and the continuation, one for each process.

    A file whose `fingerprint` differs belongs to another evaluation and is not used. Replaced in one step, so that a
    kill at any time leaves the previous state.
    """

    def __init__(self, path: epath.Path, fingerprint: str, log: Callable[[str], None] | None = None):
        self._folder, self._name = path.parent, path.name
        self._path = self._folder / f"{self._name}.{jax.process_index()}.npz"
        self._fingerprint, self._log = fingerprint, log or (lambda _: None)
        self._saved = time.monotonic()

    def load(self) -> Tally | None:
        """The tally to go on from; None if there is none that belongs to this evaluation."""
        if not self._path.is_file():
            return None
        try:
            with self._path.open("rb") as stream, np.load(stream) as file:
                if file["fingerprint"].item() == self._fingerprint:
                    return Tally.from_json(file["tally"].item(), file["confusion"])
        except Exception as error:  # a damaged file fails in many ways; starting again is the remedy for all of them
            self._log(f"{self._path} is unreadable ({type(error).__name__}: {error}); starting again")
            return None
        self._log(f"{self._path} is of another evaluation (checkpoint, data or settings differ); starting again")
        return None

    def save(self, tally: Tally) -> None:
        """Writes the tally, all or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.savez_compressed(
            file,
            confusion=tally.confusion,
            tally=np.array(tally.to_json()),
            fingerprint=np.array(self._fingerprint),
        )
        writing.write_bytes(self._path, file.getvalue())
        self._saved = time.monotonic()

    def save_now_and_then(self, tally: Tally) -> None:
        """Writes the tally if the last save is old enough."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save(tally)

    def remove(self) -> None:
        """Removes the files of all processes; the evaluation is finished."""
        if jax.process_index() == 0:
            for path in self._folder.glob(f"{self._name}.*"):
                path.unlink(missing_ok=True)


def most_over_processes(count: int) -> int:
    """The largest of the processes' numbers."""
    return int(multihost_utils.process_allgather(np.array(count)).max()) if jax.process_count() > 1 else count


def sum_over_processes(tally: Tally) -> Tally:
    """The counts of all processes together. Bytes travel, because JAX arrays have no int64."""
    if jax.process_count() == 1:
        return tally
    size = tally.confusion.nbytes
    own = np.frombuffer(tally.confusion.tobytes() + tally.to_json().encode(), np.uint8)
    row = np.full(most_over_processes(len(own)), ord(" "), np.uint8)
    row[: len(own)] = own
    total = Tally(np.zeros_like(tally.confusion), tally.extremes)
    for gathered in multihost_utils.process_allgather(row):
        counts = np.frombuffer(gathered[:size].tobytes(), np.int64).reshape(tally.confusion.shape)
        total = total.added(Tally.from_json(gathered[size:].tobytes().decode(), counts))
    return total
