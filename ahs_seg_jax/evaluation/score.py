"""Score a model on a labelled source: one confusion matrix over all images.

The images are divided among the processes, then among the devices; a batch that is not full is padded, and what is
padded is never counted. Works on parameters in the middle of a training run as well as on a loaded checkpoint.
"""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices import processes
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import DataProblem
from ahs_seg_jax.evaluation import images, metrics, predict, results
from ahs_seg_jax.evaluation.predict import Predicted, Weights
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.evaluation.results import Evaluation
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from ahs_seg_jax.evaluation.tally import Partial, digest
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.pictures import panels
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary


def describe(weights: Weights, source: Source, settings: EvalConfig, mesh: Mesh) -> dict[str, Any]:
    """The part of the report that is known before the first image: what is scored, how, with what.

    `fingerprint` is the same for two evaluations that must give the same scores. Computing it takes a while: the
    parameters are hashed, and a source may have to look at every one of its files.
    """
    indices = images.chosen(source, settings.quick, settings.limit)
    scored = ScoredClasses.of(source).vocabulary
    method = weights.labeller.described() if weights.labeller else None
    report = {
        "protocol": method["protocol"] if method else settings.protocol,
        "class_pooling": settings.class_pooling,
        "quick": settings.quick,
        "vocabulary": results.vocabulary_report(source.vocabulary),
        "scored_vocabulary": None if scored == source.vocabulary else results.vocabulary_report(scored),
        "training_vocabulary": weights.vocabulary and results.vocabulary_report(weights.vocabulary),
        "checkpoint": {"path": weights.path, "step": weights.step, "sha256": weights.sha256},
        "model": dataclasses.asdict(weights.model.config),
        "data": {
            "fingerprint": source.fingerprint(),
            "images": len(indices),
            "images_in_source": len(source),
            "problems": list(getattr(source, "doctor_problems", ())),
        },
        "versions": versions(),
        "hardware": results.hardware(mesh),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    same = ("protocol", "class_pooling", "quick", "vocabulary", "scored_vocabulary", "training_vocabulary", "model")
    facts = {key: report[key] for key in (*same, "data")}
    if method:
        report["method"] = facts["method"] = method
    facts |= {"weights": weights.sha256, "version": versions()["ahs_seg_jax"]}
    return report | {"fingerprint": digest(facts)}


def check_data(source: Source, allow_bad_data: bool = False) -> None:
    """Raises DataProblem if the source is empty, or if its doctor found something wrong with it and that matters."""
    if not len(source):
        raise DataProblem("nothing to evaluate: the source holds no image; check the folder and the split")
    problems = list(getattr(source, "doctor_problems", ()))
    if problems and not allow_bad_data:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise DataProblem(
            f"the data are not what they should be:\n{listed}\nscores of such data mean little: repair them, or set "
            "eval.allow_bad_data to True, and the results will say so"
        )


def evaluate(
    weights: Weights,
    source: Source,
    settings: EvalConfig | None = None,
    *,
    mesh: Mesh | None = None,
    num_threads: int = 2,
    log: Callable[[str], None] | None = None,
    partial: epath.Path | None = None,
    predictions: PredictionWriter | None = None,
    report: dict[str, Any] | None = None,
) -> Evaluation:
    """Scores of the weights on every image of `source`, or on those that `settings` choose.

    `settings.batch_size` counts images over all devices and is rounded up to a multiple of them. `num_threads` read the
    images, and `log` receives lines of progress. Where `partial` is given, the counts are kept in files of that name,
    every half minute and at an interruption, and the next call goes on from there. `report` is what `describe` gave, if
    it was called before. Images that cannot be read are named in the report, and the rest is scored.

    Raises ValueError for an unknown protocol; DataProblem for an empty source, for labels outside the vocabulary, and
    for data that their doctor refuses unless `settings.allow_bad_data`.
    """
    settings, log, mesh = settings or EvalConfig(), log or (lambda _: None), mesh or make_mesh()
    if weights.labeller is None:
        find_protocol(settings.protocol)  # an unknown one is refused before anything is read
    check_data(source, settings.allow_bad_data)
    report = report or describe(weights, source, settings, mesh)
    indices, classes = images.chosen(source, settings.quick, settings.limit), ScoredClasses.of(source)
    run = predict.open_run(weights, source, settings, mesh, num_threads)
    kept = Partial(partial, _partial_fingerprint(report, predictions), log) if partial else None
    tally = predict.count(run, indices, settings.pictures // 3, kept, predictions, log)
    shown = images.pictured(
        source,
        indices,
        worst=[index for _, index in tally.worst],
        best=[index for _, index in tally.best],
        failed={failure["name"] for failure in tally.failed},
        count=settings.pictures,
    )
    pictures_made = _panels(run, shown, classes.vocabulary)
    report["data"]["images"] = tally.images
    unread = [f"{len(tally.failed)} of {len(indices)} images could not be read"] if tally.failed else []
    report |= {
        "incomplete": unread + images.incomplete(source, indices, settings.quick),
        "failed": tally.failed,
        "pictures": {label: source.name(index) for index, label in shown.items()},
        "predictions": predictions and {"kind": predictions.kind, "path": predictions.finish(indices)},
        "seconds": round(tally.seconds, 3),
    }
    if kept:
        kept.remove()
    seen, unseen = classes.seen(source.vocabulary, weights.vocabulary)
    found = metrics.scores(tally.confusion)
    return Evaluation(found, classes.vocabulary, seen, unseen, report, pictures_made, tally.confusion)


def draw(
    weights: Weights, source: Source, settings: EvalConfig, mesh: Mesh, num_threads: int
) -> list[tuple[str, np.ndarray]]:
    """`settings.pictures` pictures (label, panel uint8 [H, W, 3]) of predictions, always of the same images.

    Nothing is counted or hashed: each image goes through the model once.
    """
    first = images.chosen(source, settings.quick, settings.pictures)
    shown = images.pictured(source, first, worst=[], best=[], failed=set(), count=settings.pictures)
    return _panels(
        predict.open_run(weights, source, settings, mesh, num_threads), shown, ScoredClasses.of(source).vocabulary
    )


def _partial_fingerprint(report: Mapping[str, Any], predictions: PredictionWriter | None) -> str:
    """Fingerprint of the evaluation and of this process's share of it."""
    share = {
        "process": jax.process_index(),
        "hardware": report["hardware"],
        "predictions": predictions and predictions.kind,
    }
    return digest({"evaluation": report["fingerprint"], **share})


def _panels(run: predict.Run, shown: Mapping[int, str], vocabulary: Vocabulary) -> list[tuple[str, np.ndarray]]:
    """The pictures (label, panel), made in the main process, which alone segments these images."""
    pictures = []
    for batch in run.predicted(list(shown) if processes.is_main_process() else []):
        for item in batch:
            if isinstance(item, Predicted):
                loaded = item.loaded
                picture = panels.panel(loaded.image, loaded.label, item.labels, vocabulary, title=loaded.name)
                pictures.append((shown[loaded.index], picture))
    return pictures
