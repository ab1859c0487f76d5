"""Evaluations from checkpoints to results files, whole or in the steps they are made of.

The steps are `load` (a checkpoint's own model) or `load_for` (the model of an experiment), `open_data`, and
`evaluate_source`, which scores one data set and writes its results. `evaluate_benchmarks` does all of it as an
experiment describes.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from PIL import Image

from ahs_seg_jax.checkpoints import manifest, pretrained, starting, store
from ahs_seg_jax.config import RANDOM_INIT, DataConfig, EvalConfig, Experiment
from ahs_seg_jax.data.catalogue import open_source
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices import processes, stopping
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import CheckpointError, Ending, InputError, checking_input
from ahs_seg_jax.evaluation import class_names, expected, tally
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.evaluation.results import Evaluation
from ahs_seg_jax.evaluation.score import Weights, check_data, describe, evaluate
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from ahs_seg_jax.models.ahs_seg import build_model
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import paths
from ahs_seg_jax.vocabulary import Vocabulary

WeightsOf = Callable[[str, Source], Weights]  # of a benchmark's name and its source


def evaluate_benchmarks(experiment: Experiment, workdir: str | os.PathLike[str]) -> Ending:
    """Scores `experiment.init`, or where that is empty the newest checkpoint of `workdir`, and writes the results.

    The data sets are `eval.benchmarks` in turn, or where there are none the run's own, of split `eval.split` below
    `data.root`. Prompts are made by `data.templates`, or where there are none by those that the weights were trained
    with. Raises as `evaluate_all` and `load_for` do.
    """
    names = experiment.eval.benchmarks or (experiment.data.name,)
    return evaluate_all(names, experiment.data, experiment.eval, workdir, lambda: load_for(experiment, workdir))


def evaluate_all(
    names: Sequence[str],
    data: DataConfig,
    settings: EvalConfig,
    workdir: str | os.PathLike[str],
    load: Callable[[], Weights | WeightsOf],
) -> Ending:
    """Scores what `load` gives on the data sets in turn: the same weights for all, or some for each.

    Everything that can be wrong with the data is looked at before the weights are loaded. Raises InputError for data
    that cannot be scored, and whatever `load` raises.
    """
    stop = stopping.StopRequest()
    # Several processes leave together when one is gone; there is nothing to agree on.
    with stop if jax.process_count() == 1 else contextlib.nullcontext(), stop.at_once():
        with checking_input():
            paths.check(epath.Path(workdir), "the workdir")
        sources = _open_all(names, data, settings)
        loaded = load()
        weights = {n: loaded if isinstance(loaded, Weights) else loaded(n, source) for n, source in sources.items()}
        for name, source in sources.items():
            _use_prompts(source, data, weights[name])
        for name, source in sources.items():
            evaluate_source(weights[name], source, name, settings, workdir, data.num_threads)
        return Ending.FINISHED
    processes.log("stopped; the same command continues from there")
    return stop.ending


def _open_all(names: Sequence[str], data: DataConfig, settings: EvalConfig) -> dict[str, Source]:
    """The benchmarks by name. Raises InputError with what is wrong with any of them."""
    found: dict[str, Source] = {}
    problems = []
    for name in names:
        try:
            found[name] = open_source(dataclasses.replace(data, name=name), settings.split)
            if settings.class_names:
                class_names.use(found[name], settings.class_names, name)
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


def _use_prompts(source: Source, data: DataConfig, weights: Weights) -> None:
    """Unless the settings say other prompts, those of the training. Raises InputError if a class name is too long."""
    if weights.vocabulary and not data.templates:
        source.vocabulary = dataclasses.replace(source.vocabulary, templates=weights.vocabulary.templates)
    with checking_input():
        source.vocabulary.tokens(weights.model.config.text.context, weights.model.config.text.tokenizer)


def open_data(data: DataConfig, split: str, weights: Weights) -> Source:
    """A source with the prompts that the weights were trained with, unless `data.templates` says others.

    Raises InputError for data that cannot be opened, or a class name that is too long for the text tower.
    """
    with checking_input():
        source = open_source(data, split)
    _use_prompts(source, data, weights)
    return source


def load(path: str | os.PathLike[str], activation: str | None = None) -> Weights:
    """Whatever `pretrained.load_pretrained` reads, as the model that it is. Raises CheckpointError as that does."""
    loaded = pretrained.load_pretrained(path, activation=activation)
    training = loaded.manifest.get("training")
    known, step = (manifest.stored_vocabulary(training), training.get("step")) if training else (None, None)
    return _weights(loaded.config, loaded.params, known, str(path), step, make_mesh())


def load_for(experiment: Experiment, workdir: str | os.PathLike[str]) -> Weights:
    """`experiment.init`, or where that is empty the newest checkpoint of `workdir`, in the experiment's model.

    Raises CheckpointError if the weights cannot be read, do not fit the model, or lack a part of it; FileNotFoundError
    if there is no checkpoint.
    """
    path = experiment.init or str(workdir)
    known, step = None, None
    if not experiment.init and not paths.location(workdir).exists():
        store.read_meta(path)  # raises: no checkpoint there; the name of a folder is not asked for on the hub
    if path != RANDOM_INIT and (meta := pretrained.training_meta(path)):
        known, step = manifest.stored_vocabulary(meta), meta.get("step")
    elif not experiment.init:
        store.read_meta(path)  # raises: no checkpoint there
    experiment, mesh = starting.with_words(experiment, workdir), make_mesh()
    params, missing = starting.starting_params(dataclasses.replace(experiment, init=path), mesh)
    if missing:
        raise CheckpointError(
            f"{path} lacks parts of the model, so there is nothing to evaluate: {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}; train it first, or switch the parts off"
        )
    return _weights(experiment.model, params, known, path, step, mesh)


def in_training(
    experiment: Experiment, params: Any, vocabulary: Vocabulary, workdir: str | os.PathLike[str], step: int, mesh: Mesh
) -> Weights:
    """The parameters of a training under way, after its step number `step`."""
    return _weights(experiment.model, params, vocabulary, str(workdir), step, mesh)


def _weights(
    config: ModelConfig, params: Any, vocabulary: Vocabulary | None, path: str, step: int | None, mesh: Mesh
) -> Weights:
    return Weights(build_model(config, mesh), params, vocabulary, path, step)


def evaluate_source(
    weights: Weights,
    source: Source,
    name: str,
    settings: EvalConfig,
    workdir: str | os.PathLike[str],
    num_threads: int = 2,
) -> Evaluation:
    """Scores the weights on the data set called `name`, and writes its results into `<workdir>/results`.

    The files are called `<name>_<split>[_<protocol>][_quick]`. An evaluation that has its results already is not
    computed again, unless `settings.again`; one that was interrupted is continued. Scores are compared with those that
    are known for the weights. Raises InputError for data that cannot be scored, or for an unknown `settings.expected`.
    """
    with checking_input():
        expected.check_name(settings.expected)
    mesh = make_mesh()
    names = class_names.described(settings.class_names, name)
    report = describe(weights, source, settings, mesh) | {"class_names": names}
    stem = epath.Path(workdir) / "results" / result_name(name, settings, report["protocol"])
    result = None if settings.again else _finished(stem, report["fingerprint"], settings.save_predictions, source)
    if tally.most_over_processes(result is None):  # one of them does not see the file: all take part
        result = None
    if result is None:
        processes.log(
            f"{name}: {report['data']['images']} images, {len(source.vocabulary)} classes, {report['protocol']}"
        )
        result = evaluate(
            weights,
            source,
            settings,
            mesh=mesh,
            num_threads=num_threads,
            log=processes.log,
            partial=stem.with_name(f"{stem.name}.partial"),
            predictions=_predictions(settings.save_predictions, source, stem),
            report=report,
        )
    else:
        processes.log(f"{name}: evaluated already, on {result.report['date']}; eval.again=True does it again")
    verdict = expected.compare(name, result.report, result.named_scores(), settings.expected)
    result.report.update(benchmark=name, split=settings.split, expected=verdict)
    write(result, workdir, stem.name)
    return result


def result_name(benchmark: str, settings: EvalConfig, protocol: str) -> str:
    """The name of a results file, without its ending: the protocol `whole` is not mentioned."""
    protocol = "" if protocol == "whole" else f"_{protocol}"
    return f"{benchmark}_{settings.split}{protocol}{'_quick' if settings.quick else ''}"


def _predictions(kind: str, source: Source, stem: epath.Path) -> PredictionWriter | None:
    if not kind:
        return None
    folder = stem.with_name(f"{stem.name}_predictions")
    classes = ScoredClasses.of(source).vocabulary.names
    with checking_input():
        return PredictionWriter(kind, folder, classes, [source.name(index) for index in range(len(source))])


def _finished(stem: epath.Path, fingerprint: str, predictions: str, source: Source) -> Evaluation | None:
    """The evaluation of an earlier results file, if it is the same one, lacks nothing, and all files could be read."""
    path = stem.with_name(f"{stem.name}.json")
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        usable = content["fingerprint"] == fingerprint and not content["failed"]
        missing = predictions and not (content["predictions"] or {}).get("kind") == predictions
        return Evaluation.from_dict(content, ScoredClasses.of(source).vocabulary) if usable and not missing else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        processes.log(f"{path} is of another version or damaged ({error!r}); evaluating again")
        return None


def write(result: Evaluation, workdir: str | os.PathLike[str], name: str) -> None:
    """Prints the scores and writes them below `<workdir>/results`.

    The files are `<name>.json`, `<name>_confusion.npz` and the pictures, `<name>_worst_1.png` and so on.
    """
    processes.log(result.summary())
    if processes.is_main_process():
        write_files(result, workdir, name)


def write_files(result: Evaluation, workdir: str | os.PathLike[str], name: str) -> None:
    """What `write` writes; for one process, in any thread."""
    folder = epath.Path(workdir) / "results"
    result.write_results(folder / f"{name}.json")
    result.write_confusion(folder / f"{name}_confusion.npz")
    for label, panel in result.pictures:
        with (folder / f"{name}_{label}.png").open("wb") as file:
            Image.fromarray(panel).save(file, "png")
    processes.log(f"results: {folder / name}.json")
