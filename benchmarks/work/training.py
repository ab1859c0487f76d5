"""A training step and its parts, each forward and backward as training does it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ahs_seg_jax.config import Experiment
from ahs_seg_jax.devices import partition
from ahs_seg_jax.devices.mesh import make_mesh, put_batch, put_replicated
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.models.prompts import Prompts
from ahs_seg_jax.training import losses, optimizer, step
from benchmarks import inputs
from benchmarks.measure import Program
from benchmarks.settings import Settings

UNIT = "images"


def whole_step(settings: Settings) -> Program:
    """A whole step (forward, backward, update), as `step.jitted_step` compiles it for a training run."""
    experiment = inputs.experiment(settings)
    mesh = make_mesh(config=experiment.mesh)
    state = step.create_state(inputs.parameters(experiment.model), experiment.train)
    state = jax.device_put(state, partition.tree_shardings(state, mesh))
    batch = put_batch(inputs.batch(settings), mesh)
    tokens = put_replicated(inputs.tokens(settings), mesh)
    function = step.jitted_step(experiment, None, mesh, state)
    useful = step.make_train_step(_plain(experiment), None, mesh)
    return Program(
        function, (state, batch, tokens), settings.batch, UNIT, lambda result, args: (result[0], *args[1:]), useful
    )


def _plain(experiment: Experiment) -> Experiment:
    """The same experiment with nothing computed twice in its step."""
    return dataclasses.replace(
        experiment,
        model=experiment.model.replace(class_chunk=0, remat="none"),
        losses=dataclasses.replace(experiment.losses, class_chunk=0),
    )


def _loss(experiment: Experiment) -> Callable[..., jax.Array]:
    model = build_model(experiment.model)

    def loss(trainable: Any, frozen: Any, batch: Any, tokens: Prompts) -> jax.Array:
        applied: Any = model.apply(
            {"params": parameters.merge(trainable, frozen)},
            batch["image"],
            tokens,
            class_pooling=experiment.train.class_pooling,
            train=True,
            rngs={"dropout": jax.random.key(0)},
        )
        logits, out = applied
        settings = step.loss_settings(experiment, model, logits.shape[0])
        return losses.total_loss(logits, out, batch["label"], settings)[0]

    return loss


def _loss_arguments(settings: Settings, experiment: Experiment) -> tuple[Any, ...]:
    trainable, frozen = optimizer.split(inputs.parameters(experiment.model), experiment.train.finetune)
    return jax.device_put((trainable, frozen, inputs.batch(settings), inputs.tokens(settings)))


def forward(settings: Settings) -> Program:
    """The loss without its gradient."""
    experiment = inputs.experiment(settings)
    return Program(jax.jit(_loss(experiment)), _loss_arguments(settings, experiment), settings.batch, UNIT)


def forward_backward(settings: Settings) -> Program:
    """The loss and its gradient, without the update."""
    experiment = inputs.experiment(settings)
    useful = jax.value_and_grad(_loss(_plain(experiment)))
    function = jax.jit(jax.value_and_grad(_loss(experiment)))
    return Program(function, _loss_arguments(settings, experiment), settings.batch, UNIT, useful=useful)


def update(settings: Settings) -> Program:
    """The optimiser's update of the parameters that learn, for given gradients."""
    experiment = inputs.experiment(settings)
    trainable, _ = optimizer.split(inputs.parameters(experiment.model), experiment.train.finetune)
    adamw = optimizer.make_optimizer(experiment.train)

    def apply(trainable: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = adamw.update(gradients, state, trainable)
        return jax.tree.map(lambda a, b: a + b, trainable, updates), state

    gradients = jax.tree.map(lambda x: inputs.noise(x.shape), trainable)
    args = (jax.device_put(trainable), adamw.init(trainable), gradients)
    return Program(jax.jit(apply, donate_argnums=(0, 1)), args, 1, "updates", lambda result, args: (*result, *args[2:]))


# ------------------------------------------------------------------------------------------ parts of the model

Apply = Callable[[Any, Any], Any]  # (bound model, what flows in) -> what comes out


def _part(settings: Settings, apply: Apply, inflow: Any) -> Program:
    """Forward and backward pass of one stage.

    Gradients are taken for the parameters that learn and for what flows in, unless that is of integers.
    """
    experiment = inputs.experiment(settings)
    model = build_model(experiment.model)
    trainable, frozen = optimizer.split(inputs.parameters(experiment.model), experiment.train.finetune)
    flows_back = all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(inflow))

    def run(trainable: Any, frozen: Any, inflow: Any) -> Any:
        with jax.default_matmul_precision("highest" if settings.dtype == "float32" else "default"):
            return model.apply({"params": parameters.merge(trainable, frozen)}, inflow, method=apply)

    def both(trainable: Any, frozen: Any, inflow: Any, cotangent: Any) -> Any:
        if flows_back:
            return jax.vjp(lambda t, x: run(t, frozen, x), trainable, inflow)[1](cotangent)
        return jax.vjp(lambda t: run(t, frozen, inflow), trainable)[1](cotangent)

    shape = jax.eval_shape(run, trainable, frozen, inflow)
    cotangent = jax.tree.map(lambda x: inputs.noise(x.shape, x.dtype), shape)
    args = jax.device_put((trainable, frozen, inflow, cotangent))
    return Program(jax.jit(both), args, settings.batch, UNIT)


def _classwise(settings: Settings) -> jax.Array:
    """A stand-in for the embedded correlation, `[b, t, h, w, c]`, of at most as many classes as the model keeps."""
    c = settings.model()
    kept = min(settings.train_classes, c.aggregator.pad_len or settings.train_classes)
    return inputs.noise((settings.batch, kept, c.grid, c.grid, c.aggregator.hidden), c.dtype)


def text_tower(settings: Settings) -> Program:
    """The text tower with its rotations, for the prompts of all training classes."""
    return _part(settings, lambda m, tokens: m.encode_text(tokens), inputs.tokens(settings))


def image_tower(settings: Settings) -> Program:
    """The image tower with its rotations, the pyramid and the guidance."""
    return _part(settings, lambda m, images: m.encode_image(images), jnp.asarray(inputs.batch(settings)["image"]))


def rotations(settings: Settings) -> Program:
    """The rotations of both towers alone: mixing, Cayley, modulation."""
    return _part(settings, lambda m, _: m.clip.rotations(), jnp.zeros((), jnp.int32))


def correlation(settings: Settings) -> Program:
    """The correlation of dense features with all training classes, and its embedding."""
    c = settings.model()
    inflow = (
        inputs.noise((settings.batch, c.grid, c.grid, c.embed_dim), c.dtype),
        inputs.noise((settings.train_classes, c.aggregator.prompts, c.embed_dim)),
    )
    return _part(settings, lambda m, flow: m.aggregator.embed(m.correlate(*flow), flow[0].dtype), inflow)


def spatial(settings: Settings) -> Program:
    """All spatial layers of the aggregator: its Swin blocks."""
    c = settings.model()
    appearance = inputs.noise((settings.batch, c.grid, c.grid, c.aggregator.appearance_guidance), c.dtype)

    def apply(m: Any, x: jax.Array) -> jax.Array:
        for layer in m.aggregator.layers:
            x = layer.spatial(x, appearance, chunk=m.arrangement.class_chunk(x.shape[0], c.class_chunk), remat=c.remat)
        return x

    return _part(settings, apply, _classwise(settings))


def class_layers(settings: Settings) -> Program:
    """All class layers of the aggregator, at the pooling of training."""
    c, x = settings.model(), _classwise(settings)
    guidance = inputs.noise((1, x.shape[1], c.aggregator.text_guidance), c.dtype)
    pooling = inputs.experiment(settings).train.class_pooling

    def apply(m: Any, x: jax.Array) -> jax.Array:
        padding = m.aggregator.padding(jnp.asarray([x.shape[1]]))
        for layer in m.aggregator.layers:
            x = layer.classes(x, guidance, pooling=pooling, class_mask=None, padding=padding)
        return x

    return _part(settings, apply, x)


def decoder(settings: Settings) -> Program:
    """The decoder: both stages and the head."""
    c = settings.model()
    guidance = tuple(
        inputs.noise((settings.batch, side * c.grid, side * c.grid, channels), c.dtype)
        for side, channels in zip((2, 4), c.aggregator.decoder_guidance, strict=True)
    )
    return _part(
        settings, lambda m, x: m.aggregator.decode(x, m.aggregator.prepare_decoder(guidance)), _classwise(settings)
    )


def image_losses(settings: Settings) -> Program:
    """The two losses at label resolution, segmentation and boundary, and their gradient."""
    experiment = inputs.experiment(settings)
    c, chunk = experiment.model, experiment.losses.class_chunk
    logits = inputs.noise((settings.batch, settings.train_classes, 4 * c.grid, 4 * c.grid))
    labels = jnp.asarray(inputs.batch(settings)["label"])

    def both(logits: jax.Array, labels: jax.Array) -> jax.Array:
        boundary = losses.boundary_loss(logits, labels, floor=experiment.losses.boundary_log_floor, chunk=chunk)
        return losses.segmentation_loss(logits, labels, chunk) + boundary

    return Program(jax.jit(jax.value_and_grad(both)), (logits, labels), settings.batch, UNIT)
