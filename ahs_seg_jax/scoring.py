"""Evaluation as an experiment describes it: in the middle of its training, or alone from a checkpoint."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh
from PIL import Image

from ahs_seg_jax import initialise, parallel
from ahs_seg_jax.checkpoints import pretrained, store
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.config import RANDOM_INIT, Experiment, checking_input
from ahs_seg_jax.data.sources import Source, open_source
from ahs_seg_jax.evaluate import evaluate
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.results import Evaluation
from ahs_seg_jax.vocabulary import Vocabulary


def score(
    experiment: Experiment,
    params: Any,
    source: Source,
    training_vocabulary: Vocabulary | None,
    checkpoint: Mapping[str, Any],
    mesh: Mesh,
    limit: int | None = None,
) -> Evaluation:
    """Scores parameters on a source by the protocol of `experiment.eval`; `limit` images instead of its own limit."""
    settings = experiment.eval
    return evaluate(
        AHSSeg(experiment.model),
        params,
        source,
        protocol=settings.protocol,
        class_pooling=settings.class_pooling,
        batch_size=settings.batch_size,
        limit=settings.limit if limit is None else limit,
        pictures=settings.pictures,
        training_vocabulary=training_vocabulary,
        checkpoint=checkpoint,
        mesh=mesh,
        num_threads=experiment.data.num_threads,
        log=parallel.log,
    )


def stored_vocabulary(meta: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that a run was trained with, from the metadata of its checkpoints."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in meta["vocabulary"].items()
    }
    return Vocabulary(**fields)


def evaluate_checkpoint(experiment: Experiment, workdir: str | pathlib.Path) -> Evaluation:
    """Scores `experiment.init`, or where that is empty the newest checkpoint of `workdir`, and writes the results.

    Prompts are made by `data.templates`, or where there are none by those that the weights were trained with. Results
    go to `<workdir>/results/<data>_<split>.json`, see `write`. Raises CheckpointError if the weights cannot be read, do
    not fit the model, or lack a part of it; FileNotFoundError if there is no checkpoint.
    """
    workdir, mesh = pathlib.Path(workdir), parallel.make_mesh()
    with checking_input():
        source = open_source(experiment.data, experiment.eval.split)
    path = experiment.init or str(workdir)
    known, step = None, None
    if path != RANDOM_INIT and (meta := pretrained.training_meta(path)):
        known, step = stored_vocabulary(meta), meta["step"]
    elif not experiment.init:
        store.read_meta(path)  # raises: no checkpoint there
    with checking_input():
        if known and not experiment.data.templates:
            source.vocabulary = dataclasses.replace(source.vocabulary, templates=known.templates)
        source.vocabulary.tokens(experiment.model.text.context)
    params, missing = initialise.starting_params(dataclasses.replace(experiment, init=path), mesh)
    if missing:
        raise CheckpointError(
            f"{path} lacks parts of the model, so there is nothing to evaluate: {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; train it first, or switch the parts off"
        )
    result = score(experiment, params, source, known, {"path": path, "step": step}, mesh)
    write(result, workdir, f"{experiment.data.name}_{experiment.eval.split}")
    return result


def write(result: Evaluation, workdir: pathlib.Path, name: str) -> None:
    """Prints the scores and writes `<workdir>/results/<name>.json` and its pictures `<name>_<n>.png`."""
    if parallel.is_main_process():
        stem = workdir / "results" / name
        result.write_results(f"{stem}.json")
        for number, (_, panel) in enumerate(result.pictures):
            Image.fromarray(panel).save(f"{stem}_{number}.png")
        parallel.log(f"{result.summary()}\nresults: {stem}.json")
