"""TensorBoard's files: scalars and pictures by step.

tensorboardX makes and frames the records. Its own writer is not used, because its writer thread dies on a full disk,
and close() then never returns.
"""

import contextlib
import time
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

SECONDS = 10.0  # between two flushes


class Curves:
    """Appends to a file of its own in `folder`, which is made with the first point.

    After an error, which is raised, later points go to another file, because TensorBoard reads a file only up to its
    first torn record.
    """

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._files = 0
        self._file: event_file_writer.EventsWriter | None = None
        self._flushed = time.monotonic()

    def scalar(self, name: str, value: float, step: int) -> None:
        """A point of the curve `name`."""
        self._write(summary.scalar(name, value), step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        for name, value in values.items():
            self.scalar(name, value, step)

    def picture(self, name: str, image_uint8: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """A picture."""
        self._write(summary.image(name, image_uint8, dataformats="HWC"), step)

    def _write(self, content: object, step: int) -> None:
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                suffix = f".{self._files}" if self._files else ""
                self._files += 1
                self._file = event_file_writer.EventsWriter(str(self._folder / "events"), suffix)
            self._file.write_event(event_pb2.Event(wall_time=time.time(), step=step, summary=content))
            if time.monotonic() - self._flushed > SECONDS:
                self.flush()
        except Exception:
            with contextlib.suppress(Exception):
                self.close()
            raise

    def flush(self) -> None:
        """Brings what was written to the disk."""
        self._flushed = time.monotonic()
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file:
            file.close()
