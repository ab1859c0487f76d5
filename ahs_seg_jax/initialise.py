"""The parameters a run starts from: fresh by the seed, or from weights on disk or on a hub."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ahs_seg_jax import parallel
from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.config import RANDOM_INIT, Experiment
from ahs_seg_jax.models.ahs_seg import AHSSeg


def fresh_params(experiment: Experiment) -> dict[str, Any]:
    """Parameters by the experiment's seed; jit it, or `jax.eval_shape` it for the shapes alone."""
    crop, prompts = experiment.model.image.crop, experiment.model.aggregator.prompts
    images, tokens = jnp.zeros((1, crop, crop, 3)), jnp.ones((2, prompts, 8), jnp.int32)
    return AHSSeg(experiment.model).init(jax.random.key(experiment.seed), images, tokens)["params"]


def starting_params(experiment: Experiment, mesh: Mesh) -> tuple[dict[str, Any], list[str]]:
    """Parameters on the mesh, and the names of those that `experiment.init` did not have.

    `init` may be "" or "random" (all fresh), or whatever `pretrained.load_pretrained` takes. Raises CheckpointError if
    it cannot be read or does not fit the model.
    """
    start = None
    if experiment.init not in ("", RANDOM_INIT):
        start = pretrained.load_pretrained(experiment.init, experiment.model)  # before the time that compiling takes
    # It runs once: on a CPU, optimising the many small random generators takes ten times longer than running them.
    options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
    make = functools.partial(fresh_params, experiment)
    shardings = parallel.tree_shardings(jax.eval_shape(make), mesh)
    fresh = jax.jit(make, out_shardings=shardings, compiler_options=options)()
    if start is None:
        return fresh, []
    params, report = pretrained.initialise_from(fresh, start, experiment.model)
    return parallel.put_sharded(params, mesh), report["fresh"]
