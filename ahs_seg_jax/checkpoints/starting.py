"""The parameters a run starts from: fresh by the seed, or from weights on disk or on a hub."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ahs_seg_jax.checkpoints import sources, words
from ahs_seg_jax.checkpoints.formats import convert
from ahs_seg_jax.checkpoints.formats.stated import CLIP_ACTIVATIONS
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.config import RANDOM_INIT, Experiment
from ahs_seg_jax.devices import partition
from ahs_seg_jax.errors import CheckpointError, InputError
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary.tokenizer import CLIP, TOKENIZER


def fresh_params(experiment: Experiment) -> dict[str, Any]:
    """Parameters by the experiment's seed; jit it, or `jax.eval_shape` it for the shapes alone."""
    crop, prompts = experiment.model.image.crop, experiment.model.aggregator.prompts
    images, tokens = jnp.zeros((1, crop, crop, 3)), jnp.ones((2, prompts, 8), jnp.int32)
    return build_model(experiment.model).init(jax.random.key(experiment.seed), images, tokens)["params"]


def plausible_params(config: ModelConfig) -> dict[str, Any]:
    """Random parameters of plausible size in host memory, made without compiling anything: to measure speed with."""
    make = functools.partial(fresh_params, Experiment(init=RANDOM_INIT, model=config))
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _plausible(path, leaf.shape, rng), jax.eval_shape(make))


def _plausible(path: Any, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    name = path[-1].key
    if name == "scale":
        return np.ones(shape, np.float32)
    if name == "bias" or len(shape) < 2:
        return np.zeros(shape, np.float32)
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[-2:-1])))


def starting_params(experiment: Experiment, mesh: Mesh) -> tuple[dict[str, Any], list[str]]:
    """Parameters on the mesh, and the names of those that `experiment.init` did not have.

    `init` may be "" or "random" (all fresh), or whatever `pretrained.load_pretrained` takes. Raises CheckpointError if
    it cannot be read or does not fit the model.
    """
    start = None
    if experiment.init not in ("", RANDOM_INIT):
        stated = experiment.activation or None
        start = load_pretrained(experiment.init, experiment.model, activation=stated)  # before the time of compiling
    # It runs once: on a CPU, optimising the many small random generators takes ten times longer than running them.
    options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
    make = functools.partial(fresh_params, experiment)
    shardings = partition.tree_shardings(jax.eval_shape(make), mesh)
    fresh = jax.jit(make, out_shardings=shardings, compiler_options=options)()
    if start is None:
        return fresh, []
    params, report = initialise_from(fresh, start, experiment.model)
    return partition.put_sharded(params, mesh), report["fresh"]


def with_words(experiment: Experiment, workdir: str | os.PathLike[str]) -> Experiment:
    """The experiment with the path of the tokenizer.json that its words need; with CLIP's there is nothing to do.

    Where the configuration names no place of it ("tokenizer.json", as presets do), it is the one in the workdir, or the
    one beside the weights that `init` names, which are downloaded. Raises InputError if there is none.
    """
    text = experiment.model.text
    if text.tokenizer != TOKENIZER:
        return experiment
    found = _beside(workdir)
    if found is None and experiment.init not in ("", RANDOM_INIT):
        found = _beside(sources.locate(experiment.init).path)
    if found is None:
        raise InputError(
            f"the words of the text tower {text.tower!r} are read by a {TOKENIZER}, and there is none in {workdir} or "
            f"beside init = {experiment.init!r}; give its path: --config.model.text.tokenizer=<path>"
        )
    own = dataclasses.replace(text, tokenizer=found)
    return dataclasses.replace(experiment, model=experiment.model.replace(text=own))


def keep_words(experiment: Experiment, workdir: str | os.PathLike[str]) -> Experiment:
    """`with_words`, the file kept in the workdir, so that the run can be moved. In a bucket it stays where it was.

    Raises CheckpointError if the file cannot be read, or the workdir holds another one.
    """
    experiment = with_words(experiment, workdir)
    if experiment.model.text.tokenizer == CLIP or paths.is_remote(workdir):
        return experiment
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    words.copy(experiment.model, folder)
    return with_words(dataclasses.replace(experiment, model=words.portable(experiment.model)), folder)


def _beside(place: Any) -> str | None:
    """The tokenizer.json in a folder, or beside a file."""
    if paths.is_remote(place):
        return None
    path = pathlib.Path(place)
    found = (path if path.is_dir() else path.parent) / TOKENIZER
    return str(found.absolute()) if found.is_file() else None


def initialise_from(
    fresh: Mapping[str, Any], pretrained: Pretrained, config: ModelConfig | None = None
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Fresh parameters with the pretrained values in their place, and a report of both kinds.

    What the file has must match in name and shape. What it lacks may stay fresh only as a whole component: rotations,
    HA-HEM's strengths, MH-FPN, DC-HSP, and the aggregator when the file is a bare CLIP. `fresh` may hold arrays or
    shapes; `config`, the model that `fresh` belongs to, adds a check of heads, activation and pixels.

    Returns:
      (params, {"loaded": paths, "fresh": paths}); fresh leaves are those of `fresh` itself.

    Raises:
      CheckpointError: names or shapes differ otherwise; the message lists them both ways.
    """
    wanted, given = dict(parameters.flatten(fresh)), dict(parameters.flatten(pretrained.params))
    components = {_component(path) for path in given}
    kept = [path for path in wanted if path not in given and _may_be_fresh(_component(path), components)]
    expected = {path: tuple(leaf.shape) for path, leaf in wanted.items() if path not in kept}
    lines = convert.differences(expected, {path: leaf.shape for path, leaf in given.items()})
    lines += _hints(expected, given, pretrained, config)
    if lines:
        source = pretrained.manifest["source"]["path"]
        raise CheckpointError("\n  ".join([f"{source} does not fit the model of this configuration:", *lines]))
    params = parameters.unflatten({path: given.get(path, leaf) for path, leaf in wanted.items()})
    return params, {"loaded": sorted(given), "fresh": sorted(kept)}


def _component(path: str) -> str:
    """The unit that is either wholly in a file or not at all."""
    if path.startswith(("clip/adaptation/alpha_", "clip/adaptation/beta_")):
        return "ha_hem"
    if path.startswith("clip/adaptation/"):
        return "rotations"
    first = path.partition("/")[0]
    return "aggregator" if first.startswith("guidance_up_") else first


def _may_be_fresh(component: str, in_file: set[str]) -> bool:
    if component == "aggregator":
        return in_file == {"clip"}
    return component != "clip" and component not in in_file


def _hints(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, np.ndarray],
    pretrained: Pretrained,
    config: ModelConfig | None,
) -> list[str]:
    """What to change, for the differences that people meet."""
    hints = []
    grid = "clip/image/position_embedding"
    if grid in expected and grid in given and expected[grid] != given[grid].shape:
        stored = pretrained.config.image.pretrained_grid
        hints.append(f"set model.image.pretrained_grid = {stored}; the crop may differ, it is resized to")
    extra = {_component(path) for path in given} - {_component(path) for path in expected}
    fields = {"rotations": "model.adaptation", "ha_hem": "model.adaptation = 'ha_hem'", "mh_fpn": "model.mh_fpn"}
    fields["dc_hsp"] = "model.dc_hsp"
    hints += [
        f"the file has {name}, the configuration does not: see {fields[name]}" for name in sorted(extra & set(fields))
    ]
    if config is not None:
        for tower in ("image", "text"):
            theirs, ours = getattr(pretrained.config, tower).heads, getattr(config, tower).heads
            if theirs != ours:
                hints.append(f"model.{tower}.heads is {ours}, the file's is {theirs}")
            theirs, ours = getattr(pretrained.config, tower).activation, getattr(config, tower).activation
            if theirs != ours:
                field = "activation" if theirs in CLIP_ACTIVATIONS else f"model.{tower}.activation"
                hints.append(
                    f"model.{tower}.activation is {ours!r}, the file's is {theirs!r}: set {field} = {theirs!r}"
                )
        for field in ("pixel_mean", "pixel_std"):
            theirs, ours = getattr(pretrained.config.image, field), getattr(config.image, field)
            if not np.allclose(theirs, ours, rtol=1e-6):
                hints.append(f"model.image.{field} is {ours}, the file's is {theirs}: set it to that")
    return hints
