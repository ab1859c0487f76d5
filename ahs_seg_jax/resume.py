"""How a run stops and goes on: the request to stop, what is stored beside the arrays, what may continue it."""

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ahs_seg_jax import parallel
from ahs_seg_jax.config import ConfigError, Experiment, InputError, differences, fingerprint, from_config_dict
from ahs_seg_jax.data.sources import Source
from ahs_seg_jax.versions import versions


class WorkdirMismatch(InputError):
    """The working directory holds a run of another configuration or other data; the message names what differs."""


class StopRequest:
    """Ctrl-C or SIGTERM while this context is open: the first one asks the loop to stop after the current step.

    A second one, or the first inside `at_once`, raises KeyboardInterrupt where the program is.
    """

    def __init__(self) -> None:
        self.received = False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: Any) -> None:
        if self.received or self._at_once:
            raise KeyboardInterrupt
        self.received = True
        parallel.log("\nstopping after this step; once more stops without saving")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that changes no state: there is no need to wait for its end."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            self.received = True
        finally:
            self._at_once = False


def check_workdir(meta: Mapping[str, Any] | None, experiment: Experiment, source: Source) -> None:
    """Raises WorkdirMismatch if a checkpoint's metadata are of another experiment or of other data than these."""
    if meta is None:
        return
    try:
        found = differences(from_config_dict(meta["config"]), experiment)
    except ConfigError as error:  # written by a version with other fields
        found = error.problems
    now = json.loads(json.dumps(source.fingerprint()))
    found += [
        f"the training data's {key}: stored {meta['data'].get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*now, *meta["data"]})
        if now.get(key) != meta["data"].get(key)
    ]
    if found:
        listed = "\n".join(f"  - {line}" for line in found)
        raise WorkdirMismatch(
            f"the workdir belongs to another run, stopped at step {meta['step']}; what differs:\n{listed}\n"
            "set these back to continue that run, or choose another workdir"
        )


def checkpoint_meta(experiment: Experiment, source: Source, step: int) -> dict[str, Any]:
    """What is stored beside the arrays: enough to continue exactly, and to use the weights without the config file."""
    return {
        "step": step,
        "next_batch": step,
        "config": dataclasses.asdict(experiment),
        "fingerprint": fingerprint(experiment),
        "vocabulary": dataclasses.asdict(source.vocabulary),
        "vocabulary_sha256": source.vocabulary.sha256,
        "data": source.fingerprint(),
        "versions": versions(),
    }
