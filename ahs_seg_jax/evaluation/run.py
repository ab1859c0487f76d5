"""Evaluation as an experiment describes it: in the middle of its training, or alone from a checkpoint."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from ahs_seg_jax.checkpoints import manifest, pretrained, starting, store
from ahs_seg_jax.config import RANDOM_INIT, Experiment
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices import processes, stopping
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import CheckpointError, DataProblem, Ending, InputError, checking_input
from ahs_seg_jax.evaluation import expected, tally
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.evaluation.results import Evaluation
from ahs_seg_jax.evaluation.score import check_data, describe, evaluate
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import Vocabulary


def score(
    experiment: Experiment,
    params: Any,
    source: Source,
    training_vocabulary: Vocabulary | None,
    checkpoint: Mapping[str, Any],
    mesh: Mesh,
    limit: int | None = None,
    stem: epath.Path | None = None,
) -> Evaluation:
    """Scores parameters on a source as `experiment.eval` says; `limit` images instead of its own limit.

    With a `stem` the evaluation can be interrupted and continued, by files of that name, and predictions are saved.
    Raises InputError for labels outside the vocabulary, and for data that their doctor refuses.
    """
    settings = experiment.eval
    with _problems_of_data():
        predictions = _predictions(settings.save_predictions, source, stem) if stem else None
        return evaluate(
            build_model(experiment.model, mesh),
            params,
            source,
            protocol=settings.protocol,
            class_pooling=settings.class_pooling,
            batch_size=settings.batch_size,
            limit=settings.limit if limit is None else limit,
            quick=settings.quick,
            pictures=settings.pictures,
            training_vocabulary=training_vocabulary,
            checkpoint=checkpoint,
            mesh=mesh,
            num_threads=experiment.data.num_threads,
            log=processes.log,
            partial=stem and stem.with_name(f"{stem.name}.partial"),
            predictions=predictions,
            allow_bad_data=settings.allow_bad_data,
        )


@contextlib.contextmanager
def _problems_of_data() -> Iterator[None]:
    try:
        yield
    except DataProblem as error:
        raise InputError(str(error)) from error


def _predictions(kind: str, source: Source, stem: epath.Path) -> PredictionWriter | None:
    if not kind:
        return None
    folder = stem.with_name(f"{stem.name}_predictions")
    classes = ScoredClasses.of(source).vocabulary.names
    with checking_input():
        return PredictionWriter(kind, folder, classes, [source.name(index) for index in range(len(source))])


@dataclasses.dataclass(frozen=True)
class _Weights:
    """What is evaluated, on every device, and what is known about it."""

    params: Any
    vocabulary: Vocabulary | None  # it was trained with
    checkpoint: dict[str, Any]  # path, step, sha256


def evaluate_benchmarks(experiment: Experiment, workdir: str | os.PathLike[str]) -> Ending:
    """Scores one checkpoint on each of `eval.benchmarks` in turn, or where there are none as `evaluate_checkpoint`.

    Data come from `data.root`. Results go to `<workdir>/results/<benchmark>_<split>[_<protocol>][_quick].json`. Everything
    that can be wrong with the data is looked at before the weights are read. A benchmark that has its results already
    is not evaluated again, one that was interrupted is continued. Raises as `evaluate_checkpoint` does.
    """
    stop = stopping.StopRequest()
    # Several processes leave together when one is gone; there is nothing to agree on.
    with stop if jax.process_count() == 1 else contextlib.nullcontext(), stop.at_once():
        names = experiment.eval.benchmarks or (experiment.data.name,)
        for _ in _evaluations(experiment, epath.Path(workdir), names):
            pass
        return Ending.FINISHED
    processes.log("stopped; the same command continues from there")
    return stop.ending


def evaluate_checkpoint(experiment: Experiment, workdir: str | os.PathLike[str]) -> Evaluation:
    """Scores `experiment.init`, or where that is empty the newest checkpoint of `workdir`, and writes the results.

    On the run's own data, split `eval.split`. Prompts are made by `data.templates`, or where there are none by those
    that the weights were trained with. Raises CheckpointError if the weights cannot be read, do not fit the model, or
    lack a part of it; FileNotFoundError if there is no checkpoint; InputError for data that cannot be scored.
    """
    return next(_evaluations(experiment, epath.Path(workdir), (experiment.data.name,)))


def _evaluations(experiment: Experiment, workdir: epath.Path, names: tuple[str, ...]) -> Iterator[Evaluation]:
    with checking_input():
        paths.check(workdir, "the workdir")
    sources = _open_all(experiment, names)
    weights = _load(experiment, workdir)
    if weights.vocabulary and not experiment.data.templates:
        for source in sources.values():
            source.vocabulary = dataclasses.replace(source.vocabulary, templates=weights.vocabulary.templates)
    with checking_input():
        for source in sources.values():
            source.vocabulary.tokens(experiment.model.text.context)
    for name, source in sources.items():
        yield _evaluation(experiment, weights, source, name, workdir)


def _open_all(experiment: Experiment, names: tuple[str, ...]) -> dict[str, Source]:
    """The benchmarks by name. Raises InputError with what is wrong with any of them."""
    found, problems, settings = {}, [], experiment.eval
    for name in names:
        try:
            found[name] = open_source(dataclasses.replace(experiment.data, name=name), settings.split)
            check_data(found[name], settings.allow_bad_data)
            ScoredClasses.of(found[name])
        except (ValueError, OSError) as error:
            problems.append(str(error) if len(names) == 1 else f"{name}: {error}")
    try:
        expected.check_name(settings.expected)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return found


def _load(experiment: Experiment, workdir: epath.Path) -> _Weights:
    path = experiment.init or str(workdir)
    known, step = None, None
    if path != RANDOM_INIT and (meta := pretrained.training_meta(path)):
        known, step = manifest.stored_vocabulary(meta), meta.get("step")
    elif not experiment.init:
        store.read_meta(path)  # raises: no checkpoint there
    params, missing = starting.starting_params(dataclasses.replace(experiment, init=path), make_mesh())
    if missing:
        raise CheckpointError(
            f"{path} lacks parts of the model, so there is nothing to evaluate: {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; train it first, or switch the parts off"
        )
    return _Weights(params, known, {"path": path, "step": step, "sha256": parameters.params_sha256(params)})


def _evaluation(
    experiment: Experiment, weights: _Weights, source: Source, name: str, workdir: epath.Path
) -> Evaluation:
    """One benchmark: from its results file if that is of the same evaluation, else computed and written."""
    settings, mesh = experiment.eval, make_mesh()
    stem = workdir / "results" / result_name(name, settings.split, settings.protocol, settings.quick)
    report = describe(
        build_model(experiment.model),
        source,
        weights.checkpoint,
        protocol=settings.protocol,
        class_pooling=settings.class_pooling,
        limit=settings.limit,
        quick=settings.quick,
        training_vocabulary=weights.vocabulary,
        mesh=mesh,
    )
    result = None if settings.again else _finished(stem, report["fingerprint"], settings.save_predictions, source)
    if tally.most_over_processes(result is None):  # one of them does not see the file: all take part
        result = None
    if result is None:
        processes.log(
            f"{name}: {report['data']['images']} images, {len(source.vocabulary)} classes, {settings.protocol}"
        )
        result = score(
            experiment, weights.params, source, weights.vocabulary, weights.checkpoint, mesh, settings.limit, stem
        )
    else:
        processes.log(f"{name}: evaluated already, on {result.report['date']}; eval.again=True does it again")
    verdict = expected.compare(name, result.report, result.scores.miou, settings.expected)
    result.report.update(benchmark=name, split=settings.split, expected=verdict)
    write(result, workdir, stem.name)
    return result


def result_name(benchmark: str, split: str, protocol: str, quick: bool) -> str:
    """The name of a results file, without its ending: the protocol `whole` is not mentioned."""
    return f"{benchmark}_{split}{'' if protocol == 'whole' else f'_{protocol}'}{'_quick' if quick else ''}"


def _finished(stem: epath.Path, fingerprint: str, predictions: str, source: Source) -> Evaluation | None:
    """The evaluation of an earlier results file, if it is the same one, lacks nothing, and all files could be read."""
    path = stem.with_name(f"{stem.name}.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        usable = content["fingerprint"] == fingerprint and not content["failed"]
        missing = predictions and not (content["predictions"] or {}).get("kind") == predictions
        return Evaluation.from_dict(content, ScoredClasses.of(source).vocabulary) if usable and not missing else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        processes.log(f"{path} is of another version or damaged ({error!r}); evaluating again")
        return None


def write(result: Evaluation, workdir: str | os.PathLike[str], name: str) -> None:
    """Prints the scores and writes `<workdir>/results/<name>.json` and its pictures, `<name>_worst_1.png` and so on."""
    processes.log(result.summary())
    if processes.is_main_process():
        write_files(result, workdir, name)


def write_files(result: Evaluation, workdir: str | os.PathLike[str], name: str) -> None:
    """What `write` writes; for one process, in any thread."""
    folder = epath.Path(workdir) / "results"
    result.write_results(folder / f"{name}.json")
    for label, panel in result.pictures:
        with (folder / f"{name}_{label}.png").open("wb") as file:
            Image.fromarray(panel).save(file, "png")
    processes.log(f"results: {folder / name}.json")
