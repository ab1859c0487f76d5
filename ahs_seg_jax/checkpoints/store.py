"""A run's checkpoints: saving them beside the training, the newest that is whole, and the weights alone.

A working directory holds `checkpoints/<step>/` with `state` (trainable, frozen, opt_state, ema, step), `meta` (JSON:
the configuration, the vocabulary, versions, and a hash of every array) and `metrics`. A step's directory gets its name
only when it is complete, so a run that is killed or a disk that fills up leaves the earlier ones as they were.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ahs_seg_jax.checkpoints import hashes, step_folders
from ahs_seg_jax.checkpoints.steps import METRIC, Steps, quiet_orbax
from ahs_seg_jax.devices import processes
from ahs_seg_jax.errors import CheckpointError, reason
from ahs_seg_jax.models import parameters

PATIENCE, LAST_PATIENCE = 5.0, 60.0  # seconds to wait for a place that does not answer; for the last save of a run
# A last save that failed within so many seconds is tried once more; who sends SIGTERM does not wait for ever.
AGAIN_WITHIN = 15.0


class CheckpointStore:
    """The checkpoints of one training run, in `<workdir>/checkpoints`.

    Keeps the `keep` newest and the one with the highest mIoU. Saving runs in the background; a save that fails (a full
    disk) is reported when it is noticed, the earlier checkpoints stay, and the next save tries again. A place that does
    not answer (a bucket that vanished) holds up the training for PATIENCE seconds a save.
    """

    def __init__(self, workdir: str | os.PathLike[str], keep: int):
        self._steps = Steps(step_folders.absolute(workdir) / step_folders.SUBDIRECTORY, keep)
        self.directory = self._steps.directory
        self._unsaved = ""  # why the last save was not even started

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending; as last seen, where the directory cannot be opened."""
        return self._steps.complete()

    def save(
        self, step: int, state: Any, meta: dict[str, Any], miou: float | None = None, patience: float = PATIENCE
    ) -> bool:
        """Starts saving `state` (a pytree of arrays, None allowed) in the background; returns whether it was started.

        The arrays may be donated or changed as soon as this returns. The previous save is complete by then. `miou` in
        percent makes it a candidate for the best checkpoint. `patience` is how many seconds the directory may take to
        answer. Failures, this one's or the previous one's, are printed, not raised: see `finish`.
        """
        self._unsaved = self._start(step, state, meta, miou, patience)
        if self._unsaved:
            self._warn(step, self._unsaved)
        return not self._unsaved

    def _start(self, step: int, state: Any, meta: dict[str, Any], miou: float | None, patience: float) -> str:
        if cause := self._steps.unreachable(patience):
            return cause
        self.wait()
        about = hashes.sealed(meta | {hashes.HASHES: hashes.of_state(state)})
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(about))
        return self._steps.start(step, items, None if miou is None else {METRIC: miou})

    def wait(self) -> None:
        """Returns when the save under way is complete, or has failed, which is printed."""
        step = self._steps.under_way
        if cause := self._steps.ended():
            self._warn(step, cause)

    def save_last(self, step: int, state: Any, meta: dict[str, Any], miou: float | None = None) -> None:
        """Saves as `save` does, and returns when that is complete. Raises as `finish`.

        A failure within AGAIN_WITHIN seconds is tried once more: most of those of a bucket are gone a moment later.
        """
        started = time.monotonic()
        for first in (True, False):
            self._unsaved = self._start(step, state, meta, miou, LAST_PATIENCE)
            failed, soon = bool(self._failure()), time.monotonic() - started < AGAIN_WITHIN
            if not processes.as_first_process(first and failed and soon):
                break
            processes.log(f"WARNING: the last checkpoint, of step {step}, is tried once more: {self._unsaved}")
        self.finish()

    def _failure(self) -> str:
        """Why the last save failed; waits for it. Empty if it did not."""
        self._unsaved = self._unsaved or self._steps.ended()
        return self._unsaved

    def finish(self) -> None:
        """Waits for the last save. Raises CheckpointError if the newest state did not reach the disk."""
        cause = self._failure()
        if cause or not self._steps.is_open:
            raise CheckpointError(
                f"the last checkpoint could not be saved in {self.directory}: {cause or 'it cannot be opened'}; "
                f"{self._left()}; free some space, or see that it can be reached, and start the same command again to "
                "continue from there"
            )

    def close(self) -> None:
        """Releases Orbax's threads; a save still running is completed first."""
        self._steps.close()

    def reached_preemption(self, step: int) -> bool:
        """Whether all processes of a multi-process run have been told to stop (`jax.distributed` only)."""
        return self._steps.reached_preemption(step)

    def _warn(self, step: int | None, cause: str) -> None:
        processes.log(
            f"WARNING: the checkpoint of step {step} could not be saved in {self.directory}: {cause}; "
            f"{self._left()}; training goes on and the next save will try again"
        )

    def _left(self) -> str:
        steps = [step for step in self.steps() if step != self._steps.under_way]
        return f"the checkpoint of step {steps[-1]} stays" if steps else "there is no earlier checkpoint"

    def newest_meta(self) -> dict[str, Any] | None:
        """The metadata of the newest checkpoint that has a readable one; None if there is none."""
        for step in reversed(self.steps()):
            try:
                read = self._steps.read(step, ocp.args.Composite(meta=ocp.args.JsonRestore()))
                return hashes.unsealed(read.meta, f"the metadata of step {step}")[0]
            except Exception as error:  # a truncated file fails in many ways; the older checkpoint is the remedy
                processes.log(
                    f"WARNING: the metadata of step {step} in {self.directory} is unreadable: {reason(error)}"
                )
        return None

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that is whole as (state, meta), or None if there never was one.

        `abstract_state` is the state's tree of `jax.ShapeDtypeStruct` with shardings: any number of devices will do. A
        checkpoint that cannot be read, or holds other numbers than were saved, is set aside as `<step>.unreadable` with
        a warning, and the one before it taken. Raises CheckpointError if none is left.
        """
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore())
        for step in reversed(self.steps()):
            where = f"the checkpoint of step {step}"
            try:
                read = processes.all_or_none(self._steps.read, step, items)
                meta, stored = processes.all_or_none(hashes.unsealed, read.meta, where)
                processes.all_or_none(hashes.check_state, read.state, stored, where)
                return read.state, meta
            except Exception as error:  # damaged files fail in many ways
                cause = reason(error)
            aside = self._steps.set_aside(step)
            processes.log(f"WARNING: {where} is unreadable ({cause}); set aside as {aside}")
        if aside := self._steps.all_aside():
            names = ", ".join(path.name for path in aside)
            raise CheckpointError(
                f"none of the checkpoints in {self.directory} can be read; they were set aside as {names}. Restore one "
                "from a copy, choose another workdir, or remove them to start again at step 0"
            )
        return None


def load_params(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of a training checkpoint, without optimiser state: (params, meta), params a tree of NumPy arrays.

    `path` is a run's workdir (its newest step is taken) or one step's directory. The exponential moving average is
    taken where the run kept one. Raises FileNotFoundError if there is no checkpoint, CheckpointError if it is damaged.
    """
    directory, step = step_folders.find_step(step_folders.absolute(path))
    where = directory / str(step)
    with _reading(directory, step, state=ocp.PyTreeCheckpointHandler()) as manager:
        meta, stored = _meta_of(manager, step, where)
        tree = manager.item_metadata(step)["state"].tree
        averaged = tree.get("ema") if stored is None else any(name.startswith("ema/") for name in stored)
        learned = "ema" if averaged else "trainable"
        wanted = {learned: tree[learned], "frozen": tree["frozen"]}
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract)
        weights = ocp.args.PyTreeRestore(item=abstract, restore_args=on_host, partial_restore=True)
        state = manager.restore(step, args=ocp.args.Composite(state=weights)).state
        hashes.check(dict(parameters.flatten(state)), stored, str(where), (f"{learned}/", "frozen/"))
    return parameters.merge(state[learned], state["frozen"]), meta


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a training checkpoint; `path` and errors as in `load_params`."""
    directory, step = step_folders.find_step(step_folders.absolute(path))
    with _reading(directory, step) as manager:
        return _meta_of(manager, step, directory / str(step))[0]


@contextlib.contextmanager
def _reading(directory: epath.Path, step: int, **handlers: Any) -> Iterator[ocp.CheckpointManager]:
    """A manager that only reads; what goes wrong with a damaged checkpoint is a CheckpointError."""
    quiet_orbax()
    try:
        with ocp.CheckpointManager(
            directory, item_handlers={"meta": ocp.JsonCheckpointHandler(), **handlers}
        ) as manager:
            yield manager
    except Exception as error:  # damaged files fail in many ways
        others = sorted(other for other in step_folders.steps_in(directory) if other != step)
        remedy = f"name another step's directory: {others}" if others else "there is no other step"
        raise CheckpointError(f"{directory / str(step)} cannot be read: {reason(error)}; {remedy}") from error


def _meta_of(manager: ocp.CheckpointManager, step: int, where: epath.Path) -> tuple[dict[str, Any], Any]:
    return hashes.unsealed(manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta, str(where))
