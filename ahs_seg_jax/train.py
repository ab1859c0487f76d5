"""Training: the state, one step, and the driver.

A batch is a dictionary: `image` uint8 [b, H, W, 3] RGB, `label` int32 [b, H, W] (class or -1 = unlabelled), `index`
int32 [b] (where the example stands in the source). The position in the data is the number of steps done, so a run that
was stopped continues with the batch it would have seen next.
"""

import collections
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh
from jaxtyping import Array, Int

from ahs_seg_jax import initialise, losses, optimizer, parallel, resume, scoring
from ahs_seg_jax.checkpoints.store import CheckpointStore
from ahs_seg_jax.config import Experiment, TrainConfig, checking_input
from ahs_seg_jax.data.pipeline import train_batches
from ahs_seg_jax.data.sources import CorruptExample, Source, open_source
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.monitor import MetricsQueue, Monitor
from ahs_seg_jax.vocabulary import hierarchy_pairs

traces: collections.Counter[str] = collections.Counter()  # how often each compiled function was traced

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and the frozen parameters. `trainable` and `frozen` are the two parts of the tree."""

    step: Int[Array, ""]
    trainable: Any
    frozen: Any
    opt_state: Any
    ema: Any  # moving average of `trainable`, or None

    @property
    def params(self) -> dict[str, Any]:
        """The whole parameter tree, for evaluation: the moving average where there is one."""
        return optimizer.merge(self.trainable if self.ema is None else self.ema, self.frozen)


def create_state(params: Mapping[str, Any], train: TrainConfig) -> TrainState:
    """The state before the first step. Only the parameters that learn get optimiser state."""
    trainable, frozen = optimizer.split(params, train.finetune)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.make_optimizer(train).init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if train.ema_decay else None,
    )


def watched(params: Mapping[str, Any]) -> Metrics:
    """What people want to see of the components: alpha [l] and beta [] per tower, the pyramid's fusion weights [3]."""
    adaptation = params["clip"].get("adaptation", {})
    shown = {
        name.replace("_", "/"): jax.nn.sigmoid(logits)
        for name, logits in adaptation.items()
        if name.startswith(("alpha_", "beta_"))
    }
    if "fusion_weights" in params.get("mh_fpn", {}):
        shown["fusion"] = jax.nn.softmax(params["mh_fpn"]["fusion_weights"])
    return shown


def _split_batch(batch: Batch, parts: int) -> Batch:
    """Leaves [b, ...] -> [parts, b/parts, ...]. Strided, so that every device keeps the images it has."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)


def make_train_step(
    experiment: Experiment, pairs: losses.ClassPairs | None = None
) -> Callable[[TrainState, Batch, Int[Array, "t p l"]], tuple[TrainState, Metrics]]:
    """The function (state, batch, tokens) -> (state, metrics) of one optimiser update; jit it with the state donated.

    Metrics are float32 scalars: `loss/total`, `loss/<name>` unweighted, `gradient_norm` (before clipping),
    `learning_rate/...`, and `watched`. Dropout depends on the seed and the step alone.
    """
    train, model = experiment.train, AHSSeg(experiment.model)
    adamw, rate = optimizer.make_optimizer(train), optimizer.learning_rate(train)

    def loss(trainable: Any, frozen: Any, batch: Batch, tokens: Array, key: Array) -> tuple[Array, Metrics]:
        applied: Any = model.apply(
            {"params": optimizer.merge(trainable, frozen)},
            batch["image"],
            tokens,
            class_pooling=train.class_pooling,
            train=True,
            rngs={"dropout": key},
        )
        logits, out = applied
        return losses.total_loss(logits, out, batch["label"], experiment.losses, pairs=pairs)

    differentiated = jax.value_and_grad(loss, has_aux=True)

    def accumulated(state: TrainState, batch: Batch, tokens: Array, key: Array) -> Any:
        """Loss, parts and gradients, averaged over the micro-batches."""

        def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            share = differentiated(state.trainable, state.frozen, part[0], tokens, part[1])
            return jax.tree.map(lambda old, new: old + new / train.accumulation, total, share), None

        if train.accumulation == 1:
            return differentiated(state.trainable, state.frozen, batch, tokens, key)
        parts = _split_batch(batch, train.accumulation)
        keys = jax.random.split(key, train.accumulation)
        one = jax.tree.map(lambda x: x[0], (parts, keys))
        shapes = jax.eval_shape(differentiated, state.trainable, state.frozen, one[0], tokens, one[1])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (parts, keys))[0]

    def train_step(state: TrainState, batch: Batch, tokens: Array) -> tuple[TrainState, Metrics]:
        traces["train_step"] += 1
        key = jax.random.fold_in(jax.random.key(experiment.seed), state.step)
        (total, parts), gradients = accumulated(state, batch, tokens, key)
        updates, opt_state = adamw.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema if state.ema is None else optimizer.update_ema(state.ema, trainable, train.ema_decay)
        metrics = {
            "loss/total": total,
            **{f"loss/{name}": value for name, value in parts.items()},
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate/base": rate(state.step),
            "learning_rate/clip": rate(state.step) * train.clip_multiplier,
            **watched(optimizer.merge(trainable, state.frozen)),
        }
        return TrainState(state.step + 1, trainable, state.frozen, opt_state, ema), metrics

    return train_step


def start_state(experiment: Experiment, checkpoints: CheckpointStore, mesh: Mesh) -> tuple[TrainState, int]:
    """The state to go on from, on the devices, and its step: the newest readable checkpoint, or else a fresh start."""
    copied = parallel.replicated(mesh)
    make = functools.partial(create_state, train=experiment.train)
    shapes = jax.eval_shape(lambda: make(initialise.fresh_params(experiment)))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copied), shapes)
    if restored := checkpoints.restore(abstract):
        return restored[0], int(restored[0].step)
    params, missing = initialise.starting_params(experiment, mesh)
    if missing:
        parallel.log(f"fresh, because {experiment.init} does not have them: {', '.join(missing)}")
    return jax.jit(make, out_shardings=copied, donate_argnums=0)(params), 0


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
    """Says what is about to run: devices, data, batch, and how many parameters learn in each group."""

    def count(params: Any) -> int:
        return int(parameter_overview.count_parameters(params))

    lines = [f"{'group':<12}{'learning':>14}{'frozen':>14}"]
    for label in dict.fromkeys(label for _, label in optimizer.GROUPS):
        learning, frozen = (count(optimizer.only(part, label)) for part in (state.trainable, state.frozen))
        if learning or frozen:
            lines.append(f"{label:<12}{learning:>14,}{frozen:>14,}")
    lines.append(f"{'all':<12}{count(state.trainable):>14,}{count(state.frozen):>14,}")
    parallel.log("\n".join(lines))
    train, device = experiment.train, mesh.devices.flat[0]
    parallel.log(
        f"{experiment.name}: {mesh.devices.size} x {device.device_kind} in {jax.process_count()} process(es), "
        f"batch {train.batch_size}"
        + (f" in {train.accumulation} micro-batches" if train.accumulation > 1 else "")
        + f", {len(source)} training images, {len(source.vocabulary)} classes, "
        + (f"continuing after step {done} of {train.steps}" if done else f"{train.steps} steps")
    )


def train(experiment: Experiment, workdir: str | os.PathLike[str]) -> bool:
    """Trains in `workdir`, or continues there; returns whether the run is finished (False: it was asked to stop).

    Everything that can be wrong is looked at before the first long step. A run resumes from the newest readable
    checkpoint of its workdir, which must be of the same experiment and data; else it starts from `experiment.init`.

    Raises InputError (data that fail their checks, a batch that does not fit the devices, another run's workdir),
    CheckpointError, NonFiniteLoss and CorruptExample, each with cause, value and remedy.
    """
    settings, workdir, mesh = experiment.train, pathlib.Path(workdir), parallel.make_mesh()
    with checking_input():
        parallel.check_batch(settings.batch_size, settings.accumulation, mesh)
        source = open_source(experiment.data, "train")
        validation = open_source(experiment.data, experiment.eval.split)
        tokens = parallel.put_replicated(check_prompts(experiment, source, validation), mesh)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(CheckpointStore(workdir, settings.keep)))
        resume.check_workdir(checkpoints.newest_meta(), experiment, source)
        state, done = start_state(experiment, checkpoints, mesh)
        announce(experiment, state, done, source, mesh)
        monitor = Monitor(workdir, settings.steps, done, settings.batch_size)
        stack.enter_context(contextlib.closing(monitor))
        queue = MetricsQueue(monitor, settings.log_every, source.name)
        batches = train_batches(
            source,
            crop=experiment.model.image.crop,
            augment=experiment.data.augment,
            batch_size=settings.batch_size,
            seed=experiment.seed,
            start_batch=done,
            num_threads=experiment.data.num_threads,
            prefetch=experiment.data.prefetch,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_corrupt=experiment.data.on_corrupt,
        )
        step_function = jax.jit(
            make_train_step(experiment, losses.ClassPairs(*hierarchy_pairs(source.vocabulary))),
            donate_argnums=0,
            out_shardings=parallel.replicated(mesh),
        )

        def save(miou: float | None = None) -> None:
            queue.settle()  # raises before a state with a loss that is no number could be saved
            checkpoints.save(done, state, resume.checkpoint_meta(experiment, source, done), miou)

        def look(limit: int | None = None) -> float | None:
            """Scores all of the validation split, or makes pictures of a few images; None if asked to stop meanwhile."""
            queue.settle()
            miou = None
            with monitor.paused(), stop.at_once():
                checkpoint = {"path": str(workdir), "step": done}
                result = scoring.score(experiment, state.params, validation, source.vocabulary, checkpoint, mesh, limit)
                for number, (_, panel) in enumerate(result.pictures):
                    monitor.picture(done, f"{experiment.eval.split}_{number}", panel)
                if limit is None:
                    monitor.scalars(done, {f"eval/{name}": value for name, value in result.named_scores().items()})
                    scoring.write(result, workdir, f"{experiment.data.name}_{experiment.eval.split}_{done:06d}")
                    miou = result.scores.miou
            return miou

        stop = stack.enter_context(resume.StopRequest())
        while done < settings.steps and not stop.received:
            try:
                batch = next(batches)
            except CorruptExample:
                save()
                checkpoints.finish()
                raise
            state, metrics = step_function(state, parallel.put_batch(batch, mesh), tokens)
            done += 1
            monitor.start(done, metrics)
            queue.push(done, metrics, batch["index"])
            stop.received |= checkpoints.reached_preemption(done)
            miou = None
            if done < settings.steps and due(done, settings.eval_every):
                miou = look()
            elif done < settings.steps and due(done, settings.picture_every):
                look(limit=experiment.eval.pictures)
            if miou is not None or stop.received or due(done, settings.checkpoint_every):
                save(miou)
        if batches.skipped:
            parallel.log(f"corrupt examples replaced: {batches.skipped}")
        if not stop.received:
            save(look())
        checkpoints.finish()
        if stop.received:
            parallel.log(f"stopped at step {done}; the same command with the same --workdir continues from there")
        return not stop.received


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0 = never) happens now."""
    return every > 0 and step % every == 0
