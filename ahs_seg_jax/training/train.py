"""The driver of a training run: what it starts from, the loop, and what happens beside it.

The position in the data is the number of steps done, so a run that was stopped continues with the batch it would have
seen next.
"""

import collections
import contextlib
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
from ahs_seg_jax.config import Experiment
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


def check_prompts(experiment: Experiment, *sources: Source) -> Int[np.ndarray, "t p l"]:
    """The first source's tokens. Raises ValueError if some source's class names do not fit the model."""
    model = experiment.model
    tokens = [source.vocabulary.tokens(model.text.context) for source in sources]
    if tokens[0].shape[1] != model.aggregator.prompts:
        raise ValueError(
            f"model.aggregator.prompts is {model.aggregator.prompts}, but the vocabulary of data.name = "
            f"{experiment.data.name!r} makes {tokens[0].shape[1]} prompt(s) for each class; set it to that number"
        )
    return tokens[0]


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


def train(experiment: Experiment, workdir: str | os.PathLike[str]) -> Ending:
    """Trains in `workdir`, or continues there; returns how the run ended (to its end, or asked to stop).

    Everything that can be wrong is looked at before the first long step. A run resumes from the newest readable
    checkpoint of its workdir, which must be of the same experiment and data; else it starts from `experiment.init`.

    Raises InputError (data that fail their checks, a batch that does not fit the devices, another run's workdir, one
    that is in use), CheckpointError (also where the last save fails, if the run was not told to stop), NonFiniteLoss and
    CorruptExample, each with cause, value and remedy.
    """
    settings, workdir = experiment.train, epath.Path(workdir)
    with checking_input():
        paths.check(workdir, "the workdir")
        mesh = make_mesh(config=experiment.mesh)
        check_batch(settings.batch_size, settings.accumulation, mesh)
        source = open_source(experiment.data, "train")
        validation = open_source(experiment.data, experiment.eval.split)
        score.check_data(validation, experiment.eval.allow_bad_data)  # not after hours, at the first evaluation
        host_tokens = check_prompts(experiment, source, validation)

    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.Watch())
        distributed.agree("configuration", resume.common_facts(experiment, source))
        tokens = put_replicated(prompts.split(host_tokens), mesh)
        lock = WorkdirLock(workdir) if processes.is_main_process() else contextlib.nullcontext()
        distributed.together("lock of the workdir", lambda: stack.enter_context(lock))
        checkpoints = stack.enter_context(contextlib.closing(CheckpointStore(workdir, settings.keep)))
        resume.check_workdir(checkpoints.newest_meta(), experiment, source)
        distributed.agree("workdir", {"steps of the checkpoints": checkpoints.steps()})
        state, done = start_state(experiment, checkpoints, mesh)
        announce(experiment, state, done, source, mesh)
        monitor = Monitor(workdir, settings.steps, done, settings.batch_size)
        stack.enter_context(contextlib.closing(monitor))
        skip_limit = settings.nonfinite_limit if settings.on_nonfinite == "skip" else None
        queue = MetricsQueue(monitor, settings.log_every, source.name, skip_limit=skip_limit)
        spacing = saving.save_spacing(settings.checkpoint_every)
        timer = saving.SaveTimer(settings.checkpoint_minutes, settings.log_every)
        batches = train_batches(
            source,
            crop=experiment.model.image.crop,
            augment=experiment.data.augment,
            batch_size=settings.batch_size,
            seed=experiment.seed,
            start_batch=done,
            num_threads=experiment.data.num_threads,
            prefetch=experiment.data.prefetch,
            rows=local_rows(settings.batch_size, mesh),
            on_corrupt=experiment.data.on_corrupt,
        )
        pairs = losses.ClassPairs(*hierarchy_pairs(source.vocabulary))
        step_function = jitted_step(experiment, pairs, mesh, state)

        def save(miou: float | None = None, last: bool = False) -> None:
            queue.settle()  # raises before a state with a loss that is no number could be saved
            meta = resume.checkpoint_meta(experiment, source, done)
            if last:
                checkpoints.save_last(done, state, meta, miou)
                return
            started = checkpoints.save(done, state, meta, miou)
            timer.saved()
            if started and settings.checkpoint_every == 1:
                checkpoints.wait()

        def look(limit: int | None = None) -> float | None:
            """Scores all of the validation split, or makes pictures of a few images; None if asked to stop meanwhile."""
            queue.settle()
            miou = None
            with monitor.paused(), stop.at_once():
                checkpoint = {"path": str(workdir), "step": done}
                flat = make_mesh(list(mesh.devices.flat))  # scoring splits images alone
                params = put_replicated(state.params, flat)
                result = run.score(experiment, params, validation, source.vocabulary, checkpoint, flat, limit)
                for number, (_, panel) in enumerate(result.pictures):
                    monitor.picture(done, f"{experiment.eval.split}_{number}", panel)
                if limit is None:
                    monitor.scalars(done, {f"eval/{name}": value for name, value in result.named_scores().items()})
                    processes.log(result.summary())
                    name = f"{experiment.data.name}_{experiment.eval.split}_{done:06d}"
                    write = functools.partial(run.write_files, result, workdir, name)
                    monitor.beside(f"the results of step {done}", write)
                    miou = result.scores.miou
            return miou

        stop = stack.enter_context(stopping.StopRequest())
        first, miou = done, None
        while done < settings.steps and not stop.received:
            try:
                batch = next(batches)
            except CorruptExample:
                if jax.process_count() == 1:  # several can only save together
                    save(last=True)
                raise
            on_mesh = put_batch(batch, mesh)
            if jax.process_count() > 1 and not monitor.started:
                # They compile at different rates, and the first operation across processes does not wait long.
                step_function = step_function.lower(state, on_mesh, tokens).compile()
                distributed.exchange("first step", "")
            state, metrics = step_function(state, on_mesh, tokens)
            done += 1
            monitor.start(done, metrics)
            queue.push(done, metrics, batch["index"])
            if checkpoints.reached_preemption(done):  # not |=, which forgets a signal that arrives while this is asked
                stop.received = True
            miou = None
            if done < settings.steps and due(done, settings.eval_every):
                miou = look()
            elif done < settings.steps and due(done, settings.picture_every):
                look(limit=experiment.eval.pictures)
            if not stop.received and (miou is not None or due(done, spacing) or timer.due(done)):
                save(miou)
        if batches.skipped:
            processes.log(f"corrupt examples replaced: {batches.skipped}")
        if not stop.received:
            miou = look()
        try:
            if done > first or not stop.received:
                save(miou, last=True)
        except CheckpointError as error:
            if not stop.received:
                raise
            # Whoever stopped it starts it again by its exit code: what is saved continues, and this is said.
            processes.log(f"WARNING: {error}")
        if stop.received:
            processes.log(resume.stopped(done, checkpoints.steps()))
        return stop.ending if stop.received else Ending.FINISHED


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0 = never) happens now."""
    return every > 0 and step % every == 0
