"""One training step: the state, and the compiled function that brings it to the next one.

A batch is a dictionary: `image` uint8 [b, H, W, 3] RGB, `label` int32 [b, H, W] (class or -1 = unlabelled), `index`
int32 [b] (where the example stands in the source). All of it describes the global batch, whatever the mesh.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import Experiment, TrainConfig, training
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import replicated
from ahs_seg_jax.models import parameters, sharding
from ahs_seg_jax.models.ahs_seg import AHSSeg, build_model
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.training import losses, optimizer

traces: collections.Counter[str] = collections.Counter()  # how often each compiled function was traced

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Tokens = Int[Array, "t p l"] | Prompts
TrainStep = Callable[["TrainState", Batch, Tokens], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and the frozen parameters. `trainable` and `frozen` are two parts of one tree."""

    step: Int[Array, ""]
    trainable: Any
    frozen: Any
    opt_state: Any
    ema: Any  # moving average of `trainable`, or None
    skipped: Int[Array, ""]  # updates left out because they were not finite

    @property
    def params(self) -> dict[str, Any]:
        """The whole parameter tree, for evaluation: the moving average where there is one."""
        return parameters.merge(self.trainable if self.ema is None else self.ema, self.frozen)


def create_state(params: Mapping[str, Any], train: TrainConfig) -> TrainState:
    """The state before the first step. Only the parameters that learn get optimiser state."""
    trainable, frozen = optimizer.split(params, train.finetune)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.make_optimizer(train).init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if train.ema_decay else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def watched(params: Mapping[str, Any]) -> Metrics:
    """Learned numbers of the components that people follow: alpha [l] and beta [] of each tower, fusion weights [3]."""
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


def _averaged(differentiated: Any, parts: int, state: TrainState, batch: Batch, tokens: Tokens, key: Array) -> Any:
    """What `differentiated` gives (loss, its parts, gradients), averaged over `parts` micro-batches."""
    if parts == 1:
        return differentiated(state.trainable, state.frozen, batch, tokens, key)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        share = differentiated(state.trainable, state.frozen, part[0], tokens, part[1])
        return jax.tree.map(lambda old, new: old + new / parts, total, share), None

    micro = _split_batch(batch, parts), jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(differentiated, state.trainable, state.frozen, first[0], tokens, first[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, micro)[0]


def _finite(*values: Array) -> Bool[Array, ""]:
    return jnp.isfinite(jnp.stack(values)).all()


def loss_settings(experiment: Experiment, model: AHSSeg, images: int) -> training.LossConfig:
    """The loss settings; on TPUs the number of classes per chunk is chosen from the global batch size `images`."""
    chunk = model.arrangement.class_chunk(images, experiment.losses.class_chunk)
    return dataclasses.replace(experiment.losses, class_chunk=chunk)


def make_train_step(
    experiment: Experiment, pairs: losses.ClassPairs | None = None, mesh: Mesh | None = None
) -> TrainStep:
    """The function (state, batch, tokens) -> (state, metrics) of one optimiser update; `jitted_step` compiles it.

    Metrics are float32 scalars: `loss/total`, `loss/<name>` unweighted, `gradient_norm` (before clipping),
    `learning_rate/...`, `skipped_updates` (only if they may be skipped), and what `watched` gives. Dropout depends on
    the seed, the step and the position in the global batch alone.
    """
    train, model = experiment.train, build_model(experiment.model, mesh)
    adamw, rate = optimizer.make_optimizer(train), optimizer.learning_rate(train)

    def loss(trainable: Any, frozen: Any, batch: Batch, tokens: Tokens, key: Array) -> tuple[Array, Metrics]:
        applied: Any = model.apply(
            {"params": parameters.merge(trainable, frozen)},
            batch["image"],
            tokens,
            class_pooling=train.class_pooling,
            train=True,
            rngs={"dropout": key},
        )
        logits, out = applied
        settings = loss_settings(experiment, model, logits.shape[0])
        return losses.total_loss(logits, out, batch["label"], settings, pairs=pairs)

    differentiated = jax.value_and_grad(loss, has_aux=True)

    def update(state: TrainState, gradients: Any) -> TrainState:
        updates, opt_state = adamw.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        ema = state.ema if state.ema is None else optimizer.update_ema(state.ema, trainable, train.ema_decay)
        return TrainState(state.step + 1, trainable, state.frozen, opt_state, ema, state.skipped)

    def train_step(state: TrainState, batch: Batch, tokens: Tokens) -> tuple[TrainState, Metrics]:
        traces["train_step"] += 1
        key = jax.random.fold_in(jax.random.key(experiment.seed), state.step)
        with sharding.on(mesh):
            (total, parts), gradients = _averaged(differentiated, train.accumulation, state, batch, tokens, key)
        norm, new = optax.tree.norm(gradients), update(state, gradients)
        metrics = {
            "loss/total": total,
            **{f"loss/{name}": value for name, value in parts.items()},
            "gradient_norm": norm,
            "learning_rate/base": rate(state.step),
            "learning_rate/clip": rate(state.step) * train.clip_multiplier,
        }
        if train.on_nonfinite == "skip":
            left_out = dataclasses.replace(state, step=state.step + 1, skipped=state.skipped + 1)
            good = _finite(total, norm, *parts.values())
            new = jax.tree.map(lambda done, old: jnp.where(good, done, old), new, left_out)
            metrics["skipped_updates"] = new.skipped.astype(jnp.float32)
        return new, metrics | watched(parameters.merge(new.trainable, new.frozen))

    return train_step


def abstract_state(experiment: Experiment, mesh: Mesh) -> TrainState:
    """The state's shapes, each with its sharding on the mesh."""
    shapes = jax.eval_shape(lambda: create_state(starting.fresh_params(experiment), experiment.train))
    return partition.with_shardings(shapes, mesh)


def jitted_step(experiment: Experiment, pairs: losses.ClassPairs | None, mesh: Mesh, state: TrainState) -> Any:
    """`make_train_step`, jitted. The new state takes the old one's memory and keeps its shardings."""
    shardings = (partition.tree_shardings(state, mesh), replicated(mesh))
    return jax.jit(make_train_step(experiment, pairs, mesh), donate_argnums=0, out_shardings=shardings)
