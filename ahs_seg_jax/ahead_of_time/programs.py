"""The real programs of a configuration, ready to be compiled for the devices at hand or for a TPU that is not there.

No data and no weights are read.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ahs_seg_jax import errors
from ahs_seg_jax.checkpoints import starting
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.devices.mesh import along_batch, batch_shards, check_batch, replicated
from ahs_seg_jax.inference import at_once, labelling
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.models import prompts
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.training import losses
from ahs_seg_jax.training.step import abstract_state, jitted_step
from ahs_seg_jax.vocabulary import Vocabulary, hierarchy_pairs


def topology_devices(name: str) -> list[Any]:
    """The devices of a TPU topology such as v5e:2x2 (v5e:1x1 is one chip), to compile for.

    Raises InputError if libtpu is not installed, or if there is no such topology.
    """
    from jax.experimental import topologies

    try:
        one = {"chips_per_host_bounds": (1, 1, 1)} if name.endswith(":1x1") else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **one).devices)
    except Exception as error:  # libtpu and JAX fail in many ways
        cause = str(error).splitlines()[0]
        raise errors.InputError(
            f"cannot compile for the topology {name!r}: {cause}; it needs libtpu (pip install 'ahs_seg_jax[tpu]'), "
            "and a name such as v5e:2x2, v4:2x2x2, v5p:2x2x2, v6e:4x4"
        ) from error


def training_vocabulary(experiment: Experiment) -> Vocabulary:
    """The vocabulary of the training data. The data are opened only if their vocabulary is not packaged."""
    name, templates = experiment.data.name, experiment.data.templates
    if name not in ("scenes", "coco_stuff"):
        return open_source(experiment.data, "train").vocabulary
    vocabulary = scenes_vocabulary("train") if name == "scenes" else Vocabulary.named(name)
    return dataclasses.replace(vocabulary, templates=templates) if templates else vocabulary


def _whole(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=replicated(mesh))


def _by_row(mesh: Mesh, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=along_batch(mesh))


def lower(experiment: Experiment, mode: str, mesh: Mesh) -> Any:
    """What `program` returns, lowered: ready to be compiled."""
    function, arguments = program(experiment, mode, mesh)
    return function.lower(*arguments)


def program(experiment: Experiment, mode: str, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """The real program of a mode on the mesh: a jitted function, and the shapes of its arguments.

    With mode `train` it is one step. With `eval` it gives the logits of one batch of images; the rotations are already
    folded into the weights, and the text is encoded. Raises ValueError for a batch that cannot be split over the mesh.
    """
    return (_training if mode == "train" else _evaluation)(experiment, training_vocabulary(experiment), mesh)


def _training(experiment: Experiment, vocabulary: Vocabulary, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    train, crop = experiment.train, experiment.train_crop
    check_batch(train.batch_size, train.accumulation, mesh)
    state = abstract_state(experiment, mesh)
    batch = {
        "image": _by_row(mesh, (train.batch_size, crop, crop, 3), jnp.uint8),
        "label": _by_row(mesh, (train.batch_size, crop, crop), jnp.int32),
        "index": _by_row(mesh, (train.batch_size,), jnp.int32),
    }
    tokens = prompts.split(vocabulary.tokens(experiment.model.text.context, experiment.model.text.tokenizer))
    step = jitted_step(experiment, losses.ClassPairs(*hierarchy_pairs(vocabulary)), mesh, state)
    return step, (state, batch, jax.tree.map(lambda x: _whole(mesh, x.shape, x.dtype), tokens))


def _evaluation(experiment: Experiment, vocabulary: Vocabulary, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    settings = experiment.eval
    model = build_model(experiment.model.replace(adaptation="none"), mesh)
    rows = -(-settings.batch_size // batch_shards(mesh)) * batch_shards(mesh)
    shapes = jax.eval_shape(lambda: starting.fresh_params(dataclasses.replace(experiment, model=model.config)))
    params = jax.tree.map(lambda leaf: _whole(mesh, leaf.shape, leaf.dtype), shapes)
    classes = -(-len(vocabulary) // labelling.CLASSES_AT_ONCE) * labelling.CLASSES_AT_ONCE
    views = find_protocol(settings.protocol).views_shape(experiment.model.image.crop)
    text = (classes, experiment.model.aggregator.prompts, experiment.model.embed_dim)
    logits = functools.partial(at_once.view_logits, model, class_pooling=settings.class_pooling, mesh=mesh)
    arguments = (
        params,
        _by_row(mesh, (rows, *views), jnp.float32),
        _whole(mesh, text, jnp.float32),
        _whole(mesh, (classes,), np.bool_),
    )
    return jax.jit(logits), arguments
