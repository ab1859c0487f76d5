"""The steps of a run in a directory, by Orbax's manager, where saves may fail and the place may not answer.

Every failure is returned as the words that say why, for whoever saves goes on training; an exception would keep Orbax's
frames, and with them the arrays, in memory.
"""

import contextlib
import functools
import logging
import os
import uuid
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from ahs_seg_jax.devices import processes
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.storage import answering

METRIC = "mIoU"
ASIDE = ".unreadable"  # what the name of a step's directory ends with that could not be read


def quiet_orbax() -> None:
    """Keeps Orbax from logging the traceback of every failure, which is reported here in one line."""
    for name in ("absl", "asyncio"):  # it leaves the other reads behind when one fails, which asyncio then tells of
        logger = logging.getLogger(name)
        if _not_from_orbax not in logger.filters:
            logger.addFilter(_not_from_orbax)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    place = f"{os.sep}orbax{os.sep}"
    return place not in record.pathname and not (record.name == "asyncio" and place in record.getMessage())


def _touch(directory: epath.Path) -> None:
    """Writes something there and takes it away again; reading might be answered from a client's memory."""
    path = directory / f"answers.{uuid.uuid4().hex[:8]}"
    path.write_text("")
    path.unlink()


class Steps:
    """Keeps the `keep` newest steps and the one with the highest mIoU. One save at a time runs in the background.

    Raises CheckpointError if the directory cannot be opened at first. Later it is opened again where that is needed.
    """

    def __init__(self, directory: epath.Path, keep: int):
        quiet_orbax()
        self.directory = directory
        self.under_way: int | None = None  # the step that is being saved
        self._keep = keep
        self._known: list[int] = []  # steps that had a complete checkpoint when that could last be seen
        self._answering = answering.Answering(functools.partial(_touch, directory.parent))
        self._manager: ocp.CheckpointManager | None = self._open()

    def _open(self) -> ocp.CheckpointManager:
        newest = checkpoint_managers.LatestN(self._keep)
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
            best_fn=lambda metrics: metrics[METRIC],  # without it the metrics are not written, and forgotten on resume
            async_options=ocp.options.AsyncOptions(
                # Orbax's threads wait 300 s for a directory that another thread could not make, and keep the process
                # alive. Several processes cannot do without: there an error here would leave the others at a barrier.
                create_directories_asynchronously=jax.process_count() > 1
            ),
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self.directory, options=options)
        except (OSError, ValueError) as error:  # ValueError: a file of a step is no JSON
            raise CheckpointError(f"cannot open {self.directory}: {reason(error)}; choose another workdir") from error

    @property
    def is_open(self) -> bool:
        """False where the directory could not be opened after a save that failed."""
        return self._manager is not None

    def complete(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending; as last seen, where the directory cannot be opened."""
        if self._manager:
            self._known = sorted(self._manager.all_steps())
        return self._known

    def unreachable(self, patience: float) -> str:
        """Why the directory does not answer within `patience` seconds; empty if it does. The same in all processes.

        Everything else here asks the directory, often more than once, and may each time wait until the client gives up.
        """
        answers = not processes.is_main_process() or self._answering.within(patience)
        return "" if processes.as_first_process(answers) else reason(TimeoutError(self._answering.cause))

    def start(self, step: int, items: ocp.args.Composite, metrics: dict[str, float] | None) -> str:
        """Starts a save, after the one before it has `ended`; returns why it could not be started, or nothing."""
        try:
            self._manager = self._manager or self._open()
            if step not in self.complete():
                self._manager.save(step, args=items, metrics=metrics)
                self.under_way = step
        except Exception as error:  # whatever stops a save must not stop the training
            self._open_again()
            return reason(error)
        return ""

    def ended(self) -> str:
        """Waits for the save under way; returns why it failed, or nothing."""
        try:
            if self._manager:
                self._manager.wait_until_finished()
        except Exception as error:  # TensorStore reports a full disk as ValueError, others as OSError
            self._open_again()
            return reason(error)
        finally:
            self.under_way = None
        return ""

    def _open_again(self) -> None:
        # A manager whose save failed counts that step as present and its predecessors as gone: look at the disk again.
        manager, self._manager = self._manager, None
        self._known = [step for step in self._known if step != self.under_way]
        try:
            if manager:
                manager.close()
            if processes.is_main_process():
                for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                    _remove(unfinished)
            self._manager = self._open()
        except Exception as error:  # not even that is possible now: the next save opens it again
            processes.log(f"WARNING: {self.directory} cannot be opened: {reason(error)}")

    def read(self, step: int, items: ocp.args.Composite) -> Any:
        """What a step holds. Raises whatever damaged files raise."""
        if not self._manager:
            raise CheckpointError(f"{self.directory} is not open")
        return self._manager.restore(step, args=items)

    def set_aside(self, step: int) -> epath.Path:
        """Gives a step's directory another name, which is returned, so that it counts no more."""
        aside = self.directory / f"{step}{ASIDE}"
        if self._manager:
            self._manager.close()
        if processes.is_main_process():
            _remove(aside)
            (self.directory / str(step)).rename(aside)
        processes.wait_for_all("set aside")
        self._manager = self._open()
        return aside

    def all_aside(self) -> list[epath.Path]:
        """The directories that were set aside."""
        return sorted(self.directory.glob(f"*{ASIDE}"))

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes of a multi-process run have been told to stop (`jax.distributed` only)."""
        return self._manager.reached_preemption(step) if self._manager else False

    def close(self) -> None:
        """Releases Orbax's threads; a save still running is completed first."""
        if self._manager:
            with contextlib.suppress(Exception):  # nobody is left to be told
                self._manager.wait_until_finished()
            self._manager.close()


def _remove(directory: epath.Path) -> None:
    try:
        directory.rmtree(missing_ok=True)
    except OSError as error:
        processes.log(f"WARNING: {directory} cannot be removed: {reason(error)}")
