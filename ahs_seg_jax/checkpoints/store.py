"""Checkpoints on disk, by Orbax: saving beside the training, keeping the newest and the best, restoring, reading weights.

A working directory holds `checkpoints/<step>/` with `state` (trainable, frozen, opt_state, ema, step), `meta` (JSON: the
configuration, the vocabulary's hash, the index of the next batch, versions) and `metrics`. A step's directory gets its
name only when it is complete, so a run that is killed or a disk that fills up leaves the earlier ones as they were.
"""

import contextlib
import functools
import logging
import os
import time
import uuid
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from ahs_seg_jax.devices import processes
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.storage import answering

SUBDIRECTORY = "checkpoints"
METRIC = "mIoU"
PATIENCE, LAST_PATIENCE = 5.0, 60.0  # seconds to wait for a place that does not answer; for the last save of a run
AGAIN_WITHIN = (
    15.0  # seconds: a last save that failed sooner is tried once more; who sends SIGTERM does not wait for ever
)


def _quiet_orbax() -> None:
    # Orbax logs the traceback of every failed save, and also raises it; this module reports it in one line instead.
    logger = logging.getLogger("absl")
    if _not_from_orbax not in logger.filters:
        logger.addFilter(_not_from_orbax)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _cause(error: Exception) -> str:
    text = str(error).strip()
    if "No space left on device" in text or "RESOURCE_EXHAUSTED" in text or "Disk quota exceeded" in text:
        return "the disk is full (No space left on device)"
    return f"{type(error).__name__}: {text.splitlines()[0][:300] if text else 'no message'}"


def _touch(directory: epath.Path) -> None:
    """Writes something there and takes it away again; reading might be answered from a client's memory."""
    path = directory / f"answers.{uuid.uuid4().hex[:8]}"
    path.write_text("")
    path.unlink()


class CheckpointStore:
    """The checkpoints of one training run, in `<workdir>/checkpoints`.

    Keeps the `keep` newest and the one with the highest mIoU. Saving runs in the background; a save that fails (a full
    disk) is reported when it is noticed, the earlier checkpoints stay, and the next save tries again. A place that does
    not answer (a bucket that vanished) holds up the training for PATIENCE seconds a save.
    """

    def __init__(self, workdir: str | os.PathLike[str], keep: int):
        _quiet_orbax()
        self.directory = _absolute(workdir) / SUBDIRECTORY
        self._keep = keep
        self._pending: int | None = None
        self._known: list[int] = []  # steps that had a complete checkpoint when that could last be seen
        self._unsaved = ""  # why the last save was not even started; words, for an exception would keep Orbax's frames
        self._answering = answering.Answering(functools.partial(_touch, self.directory.parent))
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
        except OSError as error:
            raise CheckpointError(f"cannot open {self.directory}: {_cause(error)}; choose another workdir") from error

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending; as last seen, where the directory cannot be opened."""
        if self._manager:
            self._known = sorted(self._manager.all_steps())
        return self._known

    def save(
        self, step: int, state: Any, meta: dict[str, Any], miou: float | None = None, patience: float = PATIENCE
    ) -> bool:
        """Starts saving `state` (a pytree of arrays, None allowed) in the background; returns whether it was started.

        The arrays may be donated or changed as soon as this returns. The previous save is complete by then. `miou` in
        percent makes it a candidate for the best checkpoint. `patience`: seconds to wait for an answer of the directory.
        Failures, this one's or the previous one's, are printed, not raised: see `finish`.
        """
        error = self._start(step, state, meta, miou, patience)
        self._unsaved = _cause(error) if error else ""
        if self._unsaved:
            self._warn(step, self._unsaved)
        return not self._unsaved

    def _start(
        self, step: int, state: Any, meta: dict[str, Any], miou: float | None, patience: float
    ) -> Exception | None:
        # Everything below asks the directory, often more than once, and may each time wait until the client gives up.
        answers = not processes.is_main_process() or self._answering.within(patience)
        if not processes.as_first_process(answers):
            return TimeoutError(self._answering.cause)
        self.wait()
        try:
            self._manager = self._manager or self._open()
        except CheckpointError as error:
            return error
        if step in self.steps():
            return None
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(step, args=items, metrics=None if miou is None else {METRIC: miou})
        except Exception as error:  # whatever stops a save must not stop the training
            self._recover()
            return error
        self._pending = step
        return None

    def wait(self) -> None:
        """Returns when the save under way is complete, or has failed, which is printed."""
        step = self._pending
        if error := self._settle():
            self._warn(step, _cause(error))

    def save_last(self, step: int, state: Any, meta: dict[str, Any], miou: float | None = None) -> None:
        """Saves as `save` does, and returns when that is complete. Raises as `finish`.

        A failure within AGAIN_WITHIN seconds is tried once more: most of those of a bucket are gone a moment later.
        """
        started = time.monotonic()
        for first in (True, False):
            error = self._start(step, state, meta, miou, LAST_PATIENCE)
            self._unsaved = _cause(error) if error else ""
            failed, soon = bool(self._failure()), time.monotonic() - started < AGAIN_WITHIN
            if not processes.as_first_process(first and failed and soon):
                break
            processes.log(f"WARNING: the last checkpoint, of step {step}, is tried once more: {self._unsaved}")
        self.finish()

    def _failure(self) -> str:
        """Why the last save failed; waits for it. Empty if it did not."""
        if not self._unsaved and (error := self._settle()):
            self._unsaved = _cause(error)
        return self._unsaved

    def finish(self) -> None:
        """Waits for the last save. Raises CheckpointError if the newest state did not reach the disk."""
        cause = self._failure()
        if cause or not self._manager:
            raise CheckpointError(
                f"the last checkpoint could not be saved in {self.directory}: {cause or 'it cannot be opened'}; "
                f"{self._left()}; free some space, or see that it can be reached, and start the same command again to "
                "continue from there"
            )

    def close(self) -> None:
        """Releases Orbax's threads; a save still running is completed first."""
        if self._manager:
            with contextlib.suppress(Exception):  # nobody is left to be told
                self._manager.wait_until_finished()
            self._manager.close()

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes of a multi-process run have been told to stop (`jax.distributed` only)."""
        return self._manager.reached_preemption(step) if self._manager else False

    def _settle(self) -> Exception | None:
        """Waits for the save under way; if it failed, cleans up and returns the error."""
        try:
            if self._manager:
                self._manager.wait_until_finished()
        except Exception as error:  # TensorStore reports a full disk as ValueError, others as OSError
            self._recover()
            return error
        finally:
            self._pending = None
        return None

    def _recover(self) -> None:
        # A manager whose save failed counts that step as present and its predecessors as gone: look at the disk again.
        manager, self._manager = self._manager, None
        self._known = [step for step in self._known if step != self._pending]
        try:
            if manager:
                manager.close()
            if processes.is_main_process():
                for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                    _remove(unfinished)
            self._manager = self._open()
        except Exception as error:  # not even that is possible now: the next save opens it again
            processes.log(f"WARNING: {self.directory} cannot be opened: {_cause(error)}")

    def _warn(self, step: int | None, cause: str) -> None:
        processes.log(
            f"WARNING: the checkpoint of step {step} could not be saved in {self.directory}: {cause}; "
            f"{self._left()}; training goes on and the next save will try again"
        )

    def _left(self) -> str:
        steps = [step for step in self.steps() if step != self._pending]
        return f"the checkpoint of step {steps[-1]} stays" if steps else "there is no earlier checkpoint"

    def newest_meta(self) -> dict[str, Any] | None:
        """The metadata of the newest checkpoint that has a readable one; None if there is none."""
        for step in reversed(self.steps()):
            try:
                return dict(self._restore(step, ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)
            except Exception as error:  # a truncated file fails in many ways; the older checkpoint is the remedy
                processes.log(
                    f"WARNING: the metadata of step {step} in {self.directory} is unreadable: {_cause(error)}"
                )
        return None

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest readable checkpoint as (state, meta), or None if the directory has none.

        `abstract_state` is the state's tree of `jax.ShapeDtypeStruct` with shardings: any number of devices will do.
        An unreadable checkpoint is set aside as `<step>.unreadable` with a warning, and the one before it taken.
        Raises CheckpointError if there are checkpoints and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore())
            try:
                restored = self._restore(step, items)
                return restored.state, dict(restored.meta)
            except Exception as error:
                self._set_aside(step, error)
        if steps:
            raise CheckpointError(
                f"none of the checkpoints in {self.directory} can be read (steps {steps}); choose another workdir"
            )
        return None

    def _restore(self, step: int, items: ocp.args.Composite) -> Any:
        if not self._manager:
            raise CheckpointError(f"{self.directory} is not open")
        return self._manager.restore(step, args=items)

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self.directory / f"{step}.unreadable"
        processes.log(f"WARNING: the checkpoint of step {step} is unreadable ({_cause(error)}); set aside as {aside}")
        if self._manager:
            self._manager.close()
        if processes.is_main_process():
            _remove(aside)
            (self.directory / str(step)).rename(aside)
        processes.wait_for_all("set aside")
        self._manager = self._open()


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
    """An absolute path; `gs://` paths are as they are."""
    return epath.Path(path) if "://" in os.fspath(path) else epath.Path(os.path.abspath(path))


def _remove(directory: epath.Path) -> None:
    try:
        directory.rmtree(missing_ok=True)
    except OSError as error:
        processes.log(f"WARNING: {directory} cannot be removed: {_cause(error)}")


def load_params(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of a training checkpoint, without optimiser state: (params, meta), params a tree of NumPy arrays.

    `path` is a run's workdir (its newest step is taken) or one step's directory. The exponential moving average is
    taken where the run kept one. Raises FileNotFoundError if there is no checkpoint, CheckpointError if it is damaged.
    """
    _quiet_orbax()
    directory, step = _find_step(_absolute(path))
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    with ocp.CheckpointManager(directory, item_handlers=handlers) as manager:
        try:
            meta = dict(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)
            tree = manager.item_metadata(step)["state"].tree
            learned = "ema" if tree.get("ema") else "trainable"
            wanted = {learned: tree[learned], "frozen": tree["frozen"]}
            abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
            on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract)
            weights = ocp.args.PyTreeRestore(item=abstract, restore_args=on_host, partial_restore=True)
            state = manager.restore(step, args=ocp.args.Composite(state=weights)).state
        except Exception as error:  # damaged files fail in many ways
            others = [other for other in manager.all_steps() if other != step]
            remedy = f"name another step's directory: {sorted(others)}" if others else "there is no other step"
            raise CheckpointError(f"{directory / str(step)} cannot be read: {_cause(error)}; {remedy}") from error
    return parameters.merge(state[learned], state["frozen"]), meta


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a training checkpoint; `path` and errors as in `load_params`."""
    _quiet_orbax()
    directory, step = _find_step(_absolute(path))
    with ocp.CheckpointManager(directory, item_handlers={"meta": ocp.JsonCheckpointHandler()}) as manager:
        try:
            return dict(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)
        except Exception as error:  # damaged files fail in many ways
            raise CheckpointError(f"the metadata in {directory / str(step)} cannot be read: {_cause(error)}") from error


def _find_step(path: epath.Path) -> tuple[epath.Path, int]:
    """(directory of steps, step) for a workdir, its checkpoints directory, or a step's directory."""
    if path.name.isdigit() and (path / "state").is_dir():
        return path.parent, int(path.name)
    directory = path / SUBDIRECTORY if (path / SUBDIRECTORY).is_dir() else path
    steps = [int(child.name) for child in directory.glob("*") if child.name.isdigit() and child.is_dir()]
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {path}: expected {path / SUBDIRECTORY}/<step>, or a step's directory"
        )
    return directory, max(steps)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `load_params` can find a checkpoint at `path`."""
    try:
        _find_step(_absolute(path))
    except FileNotFoundError:
        return False
    return True
