"""The driver of a training run: what it starts from, the loop, and what happens beside it.

The position in the data is the number of steps done, so a run that was stopped continues with the batch that would have
come next.
"""

import collections
import contextlib
import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Int

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.checkpoints.store import CheckpointStore
from ahs_seg_jax.config import Experiment, recipes
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.data.pipeline import train_batches
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices import distributed, partition, processes, stopping
from ahs_seg_jax.devices.mesh import batch_shards, check_batch, local_rows, make_mesh, put_batch, put_replicated
from ahs_seg_jax.errors import CheckpointError, CorruptExample, Ending, checking_input
from ahs_seg_jax.evaluation import run, score
from ahs_seg_jax.models import prompts
from ahs_seg_jax.storage import paths
from ahs_seg_jax.training import losses, optimizer, resume, saving
from ahs_seg_jax.training.monitor import MetricsQueue, Monitor
from ahs_seg_jax.training.step import TrainState, abstract_state, create_state, jitted_step
from ahs_seg_jax.training.workdir_lock import WorkdirLock
from ahs_seg_jax.vocabulary import hierarchy_pairs


def start_state(experiment: Experiment, checkpoints: CheckpointStore, mesh: Mesh) -> tuple[TrainState, int]:
    """The state to go on from, on the devices, and its step: the newest readable checkpoint, or else a fresh start."""
    abstract = abstract_state(experiment, mesh)
    if restored := checkpoints.restore(abstract):
        return restored[0], int(restored[0].step)
    params, missing = starting.starting_params(experiment, mesh)
    if missing:
        processes.log(f"fresh, because {experiment.init} does not have them: {', '.join(missing)}")
    make = functools.partial(create_state, train=experiment.train)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(make, out_shardings=shardings, donate_argnums=0)(params), 0


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads."""

    train: Source
    validation: Source
    tokens: Int[np.ndarray, "t p l"]  # the prompts of the training classes


def open_data(experiment: Experiment) -> Data:
    """The data of a run.

    Raises ValueError for data that cannot be opened, that an evaluation would refuse after hours of training, or whose
    class names do not fit the model.
    """
    source = open_source(experiment.data, "train")
    validation = open_source(experiment.data, experiment.eval.split)
    score.check_data(validation, experiment.eval.allow_bad_data)
    model = experiment.model
    tokens, _ = (of.vocabulary.tokens(model.text.context, model.text.tokenizer) for of in (source, validation))
    if tokens.shape[1] != model.aggregator.prompts:
        raise ValueError(
            f"model.aggregator.prompts is {model.aggregator.prompts}, but the vocabulary of data.name = "
            f"{experiment.data.name!r} makes {tokens.shape[1]} prompt(s) for each class; set it to that number"
        )
    return Data(source, validation, tokens)


def announce(experiment: Experiment, state: TrainState, done: int, source: Source, mesh: Mesh) -> None:
    """Says what is about to run: devices, data, batch, and for each group what learns and what a device holds."""
    held: collections.Counter[str] = collections.Counter()
    for name, size in partition.bytes_per_device(state, mesh):
        held[optimizer.group(name) if name else "other"] += size

    def count(params: Any) -> int:
        return int(parameter_overview.count_parameters(params))

    def line(label: str, learning: int, frozen: int, size: int) -> str:
        return f"{label:<12}{learning:>14,}{frozen:>14,}{size / 2**20:>14,.1f}"

    lines = [f"{'group':<12}{'learning':>14}{'frozen':>14}{'MiB a device':>14}"]
    for label in optimizer.LABELS:
        learning, frozen = (count(optimizer.only(part, label)) for part in (state.trainable, state.frozen))
        if learning or frozen:
            lines.append(line(label, learning, frozen, held[label]))
    lines.append(line("all", count(state.trainable), count(state.frozen), held.total()))
    processes.log("\n".join(lines))
    if differs := recipes.remark(experiment):
        processes.log(differs)
    train, device = experiment.train, mesh.devices.flat[0]
    shards, axes = batch_shards(mesh), [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    processes.log(
        f"{experiment.name}: {mesh.devices.size} x {device.device_kind} in {jax.process_count()} process(es)"
        + (f" (mesh: {', '.join(axes)})" if axes else "")
        + f", batch {train.batch_size}"
        + (f" ({train.batch_size // shards} a device)" if shards > 1 else "")
        + (f" in {train.accumulation} micro-batches" if train.accumulation > 1 else "")
        + f", {len(source)} training images, {len(source.vocabulary)} classes, "
        + (f"continuing after step {done} of {train.steps}" if done else f"{train.steps} steps")
    )


class Training:
    """A training under way: its state after `done` steps, and what happens beside the steps."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: epath.Path,
        data: Data,
        checkpoints: CheckpointStore,
        state: TrainState,
        done: int,
        mesh: Mesh,
        stop: stopping.StopRequest,
    ):
        settings = experiment.train
        self.state, self.done = state, done
        self.monitor = Monitor(workdir, settings.steps, done, settings.batch_size)
        self.stop = stop
        self._experiment, self._workdir, self._data, self._mesh = experiment, workdir, data, mesh
        self._checkpoints = checkpoints
        self._tokens = put_replicated(prompts.split(data.tokens), mesh)
        skip_limit = settings.nonfinite_limit if settings.on_nonfinite == "skip" else None
        self._metrics = MetricsQueue(self.monitor, settings.log_every, data.train.name, skip_limit=skip_limit)
        self._spacing = saving.save_spacing(settings.checkpoint_every)
        self._timer = saving.SaveTimer(settings.checkpoint_minutes, settings.log_every)
        pairs = losses.ClassPairs(*hierarchy_pairs(data.train.vocabulary))
        self._step_function = jitted_step(experiment, pairs, mesh, state)
        self._batches = train_batches(
            data.train,
            crop=experiment.train_crop,
            augment=experiment.data.augment,
            batch_size=settings.batch_size,
            seed=experiment.seed,
            start_batch=done,
            num_threads=experiment.data.num_threads,
            prefetch=experiment.data.prefetch,
            rows=local_rows(settings.batch_size, mesh),
            on_corrupt=experiment.data.on_corrupt,
        )

    def run(self) -> Ending:
        """All steps that are left, with what their intervals ask for, and the end; or until asked to stop."""
        settings, first, miou = self._experiment.train, self.done, None
        while self.done < settings.steps and not self.stop.received:
            self._step()
            miou = None
            if self.done < settings.steps and due(self.done, settings.eval_every):
                miou = self._score()
            elif self.done < settings.steps and due(self.done, settings.picture_every):
                self._draw()
            wanted = miou is not None or due(self.done, self._spacing) or self._timer.due(self.done)
            if wanted and not self.stop.received:
                self._save(miou)
        if self._batches.skipped:
            processes.log(f"corrupt examples replaced: {self._batches.skipped}")
        if not self.stop.received:
            miou = self._score()
        try:
            if self.done > first or not self.stop.received:
                self._save_last(miou)
        except CheckpointError as error:
            if not self.stop.received:
                raise
            # The supervisor restarts the run because of its exit code; the older checkpoint is continued.
            processes.log(f"WARNING: {error}")
        if not self.stop.received:
            return Ending.FINISHED
        processes.log(resume.stopped(self.done, self._checkpoints.steps()))
        return self.stop.ending

    def _step(self) -> None:
        """One update. Raises CorruptExample, after what was done is saved; NonFiniteLoss for an earlier step."""
        try:
            batch = next(self._batches)
        except CorruptExample:
            if jax.process_count() == 1:  # several can only save together
                self._save_last()
            raise
        on_mesh = put_batch(batch, self._mesh)
        if jax.process_count() > 1 and not self.monitor.started:
            # They compile at different rates, and the first operation across processes does not wait long.
            self._step_function = self._step_function.lower(self.state, on_mesh, self._tokens).compile()
            distributed.exchange("first step", "")
        self.state, metrics = self._step_function(self.state, on_mesh, self._tokens)
        self.done += 1
        self.monitor.start(self.done, metrics)
        self._metrics.push(self.done, metrics, batch["index"])
        if self._checkpoints.reached_preemption(self.done):  # not |=, which forgets a signal that arrives meanwhile
            self.stop.received = True

    def _meta(self) -> dict[str, Any]:
        self._metrics.drain()  # raises before a state with a loss that is no number could be saved
        return resume.checkpoint_meta(self._experiment, self._data.train, self.done)

    def _save(self, miou: float | None) -> None:
        started = self._checkpoints.save(self.done, self.state, self._meta(), miou)
        self._timer.saved()
        if started and self._experiment.train.checkpoint_every == 1:
            self._checkpoints.wait()

    def _save_last(self, miou: float | None = None) -> None:
        self._checkpoints.save_last(self.done, self.state, self._meta(), miou)

    def _weights(self) -> tuple[score.Weights, Mesh]:
        """The parameters of this step, or their moving average, on a mesh that splits images alone."""
        mesh = make_mesh(list(self._mesh.devices.flat))
        params = put_replicated(self.state.params, mesh)
        vocabulary = self._data.train.vocabulary
        return run.in_training(self._experiment, params, vocabulary, self._workdir, self.done, mesh), mesh

    def _score(self) -> float | None:
        """mIoU on the validation split, in percent; None if asked to stop meanwhile.

        Results and pictures are written beside the training.
        """
        self._metrics.drain()
        settings, data = self._experiment.eval, self._experiment.data
        with self.monitor.paused(), self.stop.at_once():
            weights, mesh = self._weights()
            result = score.evaluate(
                weights, self._data.validation, settings, mesh=mesh, num_threads=data.num_threads, log=processes.log
            )
            self._show(result.pictures)
            self.monitor.scalars(self.done, {f"eval/{name}": value for name, value in result.named_scores().items()})
            processes.log(result.summary())
            name = f"{data.name}_{settings.split}_{self.done:06d}"
            write = functools.partial(run.write_files, result, self._workdir, name)
            self.monitor.beside(f"the results of step {self.done}", write)
            return result.scores.miou
        return None

    def _draw(self) -> None:
        """Pictures of predictions on a few images of the validation split, always the same ones."""
        self._metrics.drain()
        with self.monitor.paused(), self.stop.at_once():
            weights, mesh = self._weights()
            threads = self._experiment.data.num_threads
            self._show(score.draw(weights, self._data.validation, self._experiment.eval, mesh, threads))

    def _show(self, pictures: list[tuple[str, np.ndarray]]) -> None:
        for number, (_, panel) in enumerate(pictures):
            self.monitor.picture(self.done, f"{self._experiment.eval.split}_{number}", panel)


def train(experiment: Experiment, workdir: str | os.PathLike[str]) -> Ending:
    """Trains in `workdir`, or continues there; returns how the run ended (to its end, or asked to stop).

    Everything that can be wrong is looked at before the first long step. A run resumes from the newest readable
    checkpoint of its workdir, which must be of the same experiment and data; else it starts from `experiment.init`.

    Raises InputError (data that fail their checks, a batch that does not fit the devices, another run's workdir, one
    that is in use), CheckpointError (also if the last save fails, unless the run was told to stop), NonFiniteLoss and
    CorruptExample, each with cause, value and remedy.
    """
    training = None
    with contextlib.ExitStack() as stack, stopping.StopRequest() as stop:
        with stop.at_once():
            training = _prepared(experiment, epath.Path(workdir), stop, stack)
        if training is None:
            processes.log("stopped before the first step; the same command with the same --workdir starts it again")
            return stop.ending
        return training.run()


def _prepared(
    experiment: Experiment, workdir: epath.Path, stop: stopping.StopRequest, stack: contextlib.ExitStack
) -> Training:
    """The training before its first step; `stack` closes what it holds open. Raises as `train`."""
    settings = experiment.train
    with checking_input():
        paths.check(workdir, "the workdir")
        mesh = make_mesh(config=experiment.mesh)
        check_batch(settings.batch_size, settings.accumulation, mesh)
        experiment = starting.with_words(experiment, workdir)
        data = open_data(experiment)
    stack.enter_context(distributed.Watch())
    distributed.agree("configuration", resume.common_facts(experiment, data.train))
    lock = WorkdirLock(workdir) if processes.is_main_process() else contextlib.nullcontext()
    distributed.together("lock of the workdir", lambda: stack.enter_context(lock))
    checkpoints = stack.enter_context(contextlib.closing(CheckpointStore(workdir, settings.keep)))
    resume.check_workdir(checkpoints.newest_meta(), experiment, data.train)
    experiment = starting.keep_words(experiment, workdir)
    distributed.agree("workdir", {"steps of the checkpoints": checkpoints.steps()})
    state, done = start_state(experiment, checkpoints, mesh)
    announce(experiment, state, done, data.train, mesh)
    training = Training(experiment, workdir, data, checkpoints, state, done, mesh, stop)
    stack.enter_context(contextlib.closing(training.monitor))
    return training


def due(step: int, every: int) -> bool:
    """Whether something that happens every `every` steps (0 = never) happens after this step."""
    return every > 0 and step % every == 0
