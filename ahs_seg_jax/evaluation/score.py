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

from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices import processes
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.errors import DataProblem
from ahs_seg_jax.evaluation import images, metrics, predict, results
from ahs_seg_jax.evaluation.predict import Predicted
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.evaluation.results import Evaluation
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from ahs_seg_jax.evaluation.tally import Partial, digest
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.models import parameters
from ahs_seg_jax.pictures import panels
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary


def describe(
    model: Any,
    source: Source,
    checkpoint: Mapping[str, Any],
    *,
    protocol: str,
    class_pooling: int = 1,
    limit: int = 0,
    quick: bool = False,
    training_vocabulary: Vocabulary | None = None,
    mesh: Mesh,
) -> dict[str, Any]:
    """The part of the report that is known before the first image: what is scored, how, with what.

    `fingerprint` is the same for two evaluations that must give the same scores.
    """
    indices = images.chosen(source, quick, limit)
    scored = ScoredClasses.of(source).vocabulary
    report = {
        "protocol": protocol,
        "class_pooling": class_pooling,
        "quick": quick,
        "vocabulary": results.vocabulary_report(source.vocabulary),
        "scored_vocabulary": None if scored == source.vocabulary else results.vocabulary_report(scored),
        "training_vocabulary": training_vocabulary and results.vocabulary_report(training_vocabulary),
        "checkpoint": dict(checkpoint),
        "model": dataclasses.asdict(model.config),
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
    facts |= {"weights": checkpoint["sha256"], "version": versions()["ahs_seg_jax"]}
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
    model: Any,
    params: Any,
    source: Source,
    *,
    protocol: str = "cat_seg",
    class_pooling: int = 1,
    batch_size: int = 1,
    limit: int = 0,
    quick: bool = False,
    pictures: int = 0,
    training_vocabulary: Vocabulary | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    num_threads: int = 2,
    log: Callable[[str], None] | None = None,
    partial: epath.Path | None = None,
    predictions: PredictionWriter | None = None,
    allow_bad_data: bool = False,
) -> Evaluation:
    """Scores of `model` (AHSSeg) with `params` on every image of `source`, or on its first `limit` (0 = all).

    `batch_size` counts images over all devices and is rounded up to a multiple of them. `quick` takes a fixed subset of
    100 images. `pictures` panels are made: of random images, the worst and the best. `checkpoint` (path, step, sha256)
    goes into the report. `log` receives lines of progress. Where `partial` is given, the counts are kept in files of
    that name, now and then and at an interruption, and the next call goes on from there. Images that cannot be read are
    named in the report, and the rest is scored.

    Raises ValueError for an unknown protocol; DataProblem for an empty source, for labels outside the vocabulary, and
    for data that their doctor refuses unless `allow_bad_data`.
    """
    seen_by = find_protocol(protocol)
    check_data(source, allow_bad_data)
    log, mesh = log or (lambda _: None), mesh or make_mesh()
    about = {"path": None, "step": None, **(checkpoint or {})}
    if "sha256" not in about:  # takes seconds
        about["sha256"] = parameters.params_sha256(params)
    options: dict[str, Any] = {"protocol": protocol, "class_pooling": class_pooling, "limit": limit, "quick": quick}
    report = describe(model, source, about, **options, training_vocabulary=training_vocabulary, mesh=mesh)
    indices, classes = images.chosen(source, quick, limit), ScoredClasses.of(source)
    run = predict.Run(model, params, source, classes, seen_by, class_pooling, mesh, batch_size, num_threads)
    kept = Partial(partial, _partial_fingerprint(report, predictions), log) if partial else None
    tally = predict.count(run, indices, pictures // 3, kept, predictions, log)
    shown = images.pictured(
        source,
        indices,
        worst=[index for _, index in tally.worst],
        best=[index for _, index in tally.best],
        failed={failure["name"] for failure in tally.failed},
        count=pictures,
    )
    pictures_made = _panels(run, shown, classes.vocabulary)
    report["data"]["images"] = tally.images
    unread = [f"{len(tally.failed)} of {len(indices)} images could not be read"] if tally.failed else []
    report |= {
        "incomplete": unread + images.incomplete(source, indices, quick),
        "failed": tally.failed,
        "pictures": {label: source.name(index) for index, label in shown.items()},
        "predictions": predictions and {"kind": predictions.kind, "path": predictions.finish(indices)},
        "seconds": round(tally.seconds, 3),
    }
    if kept:
        kept.remove()
    seen, unseen = classes.seen(source.vocabulary, training_vocabulary)
    return Evaluation(metrics.scores(tally.confusion), classes.vocabulary, seen, unseen, report, pictures_made)


def _partial_fingerprint(report: Mapping[str, Any], predictions: PredictionWriter | None) -> str:
    """Of the evaluation, and of this process's share of it on these devices."""
    share = {
        "process": jax.process_index(),
        "hardware": report["hardware"],
        "predictions": predictions and predictions.kind,
    }
    return digest({"evaluation": report["fingerprint"], **share})


def _panels(run: predict.Run, shown: Mapping[int, str], vocabulary: Vocabulary) -> list[tuple[str, np.ndarray]]:
    """The pictures (label, panel), made in the main process; these images go through the model once more."""
    pictures = []
    for batch in run.predicted(list(shown) if processes.is_main_process() else []):
        for item in batch:
            if isinstance(item, Predicted):
                loaded = item.loaded
                picture = panels.panel(loaded.image, loaded.label, item.labels, vocabulary, title=loaded.name)
                pictures.append((shown[loaded.index], picture))
    return pictures
