"""How a run stops and goes on: the request to stop, what is stored beside the arrays, what may continue it."""

import contextlib
import dataclasses
import enum
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ahs_seg_jax import parallel
from ahs_seg_jax.config import ConfigError, Experiment, InputError, differences, fingerprint, from_config_dict
from ahs_seg_jax.config_fields import flatten
from ahs_seg_jax.data.sources import Source
from ahs_seg_jax.versions import code_hash, versions


class WorkdirMismatch(InputError):
    """The working directory holds a run of another configuration or other data; the message names what differs."""


class Ending(enum.IntEnum):
    """How a run ended; the value is the program's exit code.

    The same command continues a run that was told to stop: from the step where it stopped or, if that could not be saved
    (which is said), from the newest checkpoint. 75 is sysexits.h's EX_TEMPFAIL, "try again":
    a shell reports 143 for a program that SIGTERM killed, which would not tell a saved run from a dead one.
    """

    FINISHED = 0
    PREEMPTED = 75  # SIGTERM or a preemption notice
    INTERRUPTED = 130  # Ctrl-C


class StopRequest:
    """Ctrl-C or SIGTERM while this context is open: the first one asks the loop to stop after the current step.

    A second one, or the first inside `at_once`, raises KeyboardInterrupt where the program is. With several processes all
    must stop after the same step: there JAX's preemption service listens to SIGTERM, and Ctrl-C is handed on to it.
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
        parallel.log("\nstopping after this step; once more stops without saving")

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
        # Clocks differ, and asking makes the devices wait: the first process decides, now and then.
        return step % self._agree_every == 0 and parallel.as_first_process(old)


def stopped(step: int, saved: Sequence[int]) -> str:
    """What a run says that stops after `step`, with checkpoints of the steps `saved` (ascending)."""
    again = "the same command with the same --workdir"
    if not saved:
        return f"stopped at step {step}, and there is no checkpoint; {again} starts anew"
    if saved[-1] == step:
        return f"stopped at step {step}; {again} continues from there"
    lost = step - saved[-1]
    return (
        f"stopped at step {step}; the newest checkpoint is of step {saved[-1]}: {again} continues from there and repeats "
        f"{lost} step{'s' if lost > 1 else ''}"
    )


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


def common_facts(experiment: Experiment, source: Source) -> dict[str, Any]:
    """What all processes of a run must hold alike: every field, the code, the vocabulary and the data."""
    return {
        **{path: value for path, value in flatten(experiment) if path != "data.root"},
        "the code": code_hash(),
        **{f"the version of {name}": version for name, version in versions().items()},
        "the vocabulary": source.vocabulary.sha256,
        **{f"the training data's {key}": value for key, value in source.fingerprint().items()},
    }


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
