"""Score a model on a labelled source: one confusion matrix over all images.

The images are divided among the processes, then among the devices; a batch that is not full is padded, and what is
padded is never counted. Works on parameters in the middle of a training run as well as on a loaded checkpoint.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ahs_seg_jax import evaluation_images, evaluation_state, inference, metrics, parallel, results, visualize
from ahs_seg_jax.data.sources import Source
from ahs_seg_jax.evaluation_images import Failed, Loaded
from ahs_seg_jax.evaluation_state import Partial, Tally
from ahs_seg_jax.predictions import PredictionWriter
from ahs_seg_jax.results import Evaluation
from ahs_seg_jax.scored_classes import ScoredClasses
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary

PROGRESS_SECONDS = 10.0  # between two lines of progress


class DataProblem(ValueError):
    """Data that cannot be scored: there are none, their doctor refuses them, or labels lie outside the vocabulary."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """An image that went through the model: its labels and what was predicted, both in scored classes."""

    loaded: Loaded
    labels: np.ndarray  # int32 [H, W]


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
    indices = evaluation_images.chosen(source, quick, limit)
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
    return report | {"fingerprint": evaluation_state.digest(facts)}


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
    inference.check_protocol(protocol)
    check_data(source, allow_bad_data)
    log, mesh = log or (lambda _: None), mesh or parallel.make_mesh()
    about = {"path": None, "step": None, **(checkpoint or {})}
    if "sha256" not in about:  # takes seconds
        about["sha256"] = results.params_sha256(params)
    options: dict[str, Any] = {"protocol": protocol, "class_pooling": class_pooling, "limit": limit, "quick": quick}
    report = describe(model, source, about, **options, training_vocabulary=training_vocabulary, mesh=mesh)
    indices, classes = evaluation_images.chosen(source, quick, limit), ScoredClasses.of(source)
    run = _Run(model, params, source, classes, protocol, class_pooling, mesh, batch_size, num_threads)
    kept = Partial(partial, _partial_fingerprint(report, predictions), log) if partial else None
    tally = _count(run, indices, pictures // 3, kept, predictions, log)
    shown = evaluation_images.pictured(
        source,
        indices,
        worst=[index for _, index in tally.worst],
        best=[index for _, index in tally.best],
        failed={failure["name"] for failure in tally.failed},
        count=pictures,
    )
    panels = _panels(run, shown, classes.vocabulary)
    report["data"]["images"] = tally.images
    unread = [f"{len(tally.failed)} of {len(indices)} images could not be read"] if tally.failed else []
    report |= {
        "incomplete": unread + evaluation_images.incomplete(source, indices, quick),
        "failed": tally.failed,
        "pictures": {label: source.name(index) for index, label in shown.items()},
        "predictions": predictions and {"kind": predictions.kind, "path": predictions.finish(indices)},
        "seconds": round(tally.seconds, 3),
    }
    if kept:
        kept.remove()
    seen, unseen = classes.seen(source.vocabulary, training_vocabulary)
    return Evaluation(metrics.scores(tally.confusion), classes.vocabulary, seen, unseen, report, panels)


def _partial_fingerprint(report: Mapping[str, Any], predictions: PredictionWriter | None) -> str:
    """Of the evaluation, and of this process's share of it on these devices."""
    share = {
        "process": jax.process_index(),
        "hardware": report["hardware"],
        "predictions": predictions and predictions.kind,
    }
    return evaluation_state.digest({"evaluation": report["fingerprint"], **share})


class _Run:
    """The model, the images and the devices of one evaluation. Rotations are merged and the text encoded once."""

    def __init__(
        self,
        model: Any,
        params: Any,
        source: Source,
        classes: ScoredClasses,
        protocol: str,
        class_pooling: int,
        mesh: Mesh,
        batch_size: int,
        num_threads: int,
    ):
        self.source, self.classes, self.crop = source, classes, model.config.image.crop
        self._protocol, self._class_pooling, self._mesh, self._num_threads = protocol, class_pooling, mesh, num_threads
        self._model, self._params = inference.merged(model, parallel.put_replicated(params, mesh))
        pad_to = -(-len(source.vocabulary) // inference.CLASSES_AT_ONCE) * inference.CLASSES_AT_ONCE
        self._text = inference.encode_vocabulary(self._model, self._params, source.vocabulary, pad_to)
        self._rows = -(-max(batch_size, 1) // mesh.devices.size) * mesh.devices.size // jax.process_count()

    def predicted(self, indices: Sequence[int]) -> Iterator[list[Predicted | Failed]]:
        """This process's images in order, batch by batch, while the devices work on the next one.

        All processes must call it together, with as many or as few images each as they like.
        """
        batches = evaluation_state.most_over_processes(-(-len(indices) // self._rows))
        read = evaluation_images.read_batches(
            self.source, indices, self._rows, batches, self._protocol, self.crop, self._num_threads
        )
        under_way: list[tuple[Loaded | Failed, Any]] = []
        for batch in read:
            maps = iter(self._segment([loaded for loaded in batch if isinstance(loaded, Loaded)]))
            dispatched = [(item, next(maps) if isinstance(item, Loaded) else None) for item in batch]
            if under_way:
                yield self._collected(under_way)
            under_way = dispatched
        if under_way:
            yield self._collected(under_way)

    def _segment(self, batch: list[Loaded]) -> list[jax.Array]:
        """Padded label maps; returns before the devices have finished."""
        views = np.zeros((self._rows, *inference.views_shape(self._protocol, self.crop)), np.float32)
        for row, loaded in enumerate(batch):
            views[row] = loaded.views
        logits = inference.view_logits(
            self._model,
            self._params,
            parallel.put_batch({"views": views}, self._mesh)["views"],
            self._text.text,
            self._text.mask,
            class_pooling=self._class_pooling,
            mesh=self._mesh,
        )
        # Label maps depend on each image's size: they are made where its logits lie, one image at a time.
        shards = sorted(logits.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        own = itertools.chain.from_iterable(shard.data for shard in shards)
        return [
            inference.label_map(image_logits, loaded.label.shape, self._protocol)
            for loaded, image_logits in zip(batch, own, strict=False)
        ]

    def _collected(self, batch: list[tuple[Loaded | Failed, Any]]) -> list[Predicted | Failed]:
        done: list[Predicted | Failed] = []
        for item, padded in batch:
            if isinstance(item, Failed):
                done.append(item)
            else:
                height, width = item.label.shape
                done.append(Predicted(item, self.classes(np.asarray(padded)[:height, :width])))
        return done


def _count(
    run: _Run,
    indices: Sequence[int],
    extremes: int,
    kept: Partial | None,
    predictions: PredictionWriter | None,
    log: Callable[[str], None],
) -> Tally:
    """The counts of all images over all processes, going on from what is kept."""
    classes = len(run.classes.vocabulary)
    tally = (kept and kept.load()) or Tally(np.zeros((classes, classes), np.int64), extremes)
    own = indices[jax.process_index() :: jax.process_count()]
    if tally.done:
        log(f"going on after {tally.done} of {len(own)} images of this process")
    elif predictions:
        predictions.start_again(own)
    progress = _Progress(len(own), log)
    before, started = tally.seconds, time.monotonic()
    try:
        for batch in run.predicted(own[tally.done :]):
            counted = _counted(batch, tally, predictions)
            counted.seconds = before + time.monotonic() - started
            tally = tally.added(counted)
            progress.show(tally.done)
            if kept:
                kept.save_now_and_then(tally)
    except BaseException:  # Ctrl-C is one
        if kept:
            kept.save(tally)
        raise
    return evaluation_state.sum_over_processes(tally)


def _counted(batch: Iterable[Predicted | Failed], like: Tally, predictions: PredictionWriter | None) -> Tally:
    """The counts of one batch; its predictions are written on the way."""
    tally = Tally(np.zeros_like(like.confusion), like.extremes)
    for item in batch:
        tally.done += 1
        if isinstance(item, Failed):
            tally.failed.append({"name": item.name, "cause": item.cause})
            continue
        loaded = item.loaded
        try:
            confusion = metrics.confusion_matrix(loaded.label, item.labels, len(tally.confusion))
        except ValueError as error:
            raise DataProblem(f"{loaded.name}: {error}") from error
        tally.confusion += confusion
        miou = metrics.scores(confusion).miou if like.extremes else math.nan
        if not math.isnan(miou):
            tally.best.append((miou, loaded.index))
            tally.worst.append((miou, loaded.index))
        if predictions:
            predictions.write(loaded.index, loaded.name, item.labels)
    return tally


def _panels(run: _Run, shown: Mapping[int, str], vocabulary: Vocabulary) -> list[tuple[str, np.ndarray]]:
    """The pictures (label, panel), made in the main process; these images go through the model once more."""
    panels = []
    for batch in run.predicted(list(shown) if parallel.is_main_process() else []):
        for item in batch:
            if isinstance(item, Predicted):
                loaded = item.loaded
                panel = visualize.panel(loaded.image, loaded.label, item.labels, vocabulary, title=loaded.name)
                panels.append((shown[loaded.index], panel))
    return panels


class _Progress:
    """Lines with the rate and the time left, now and then. The first batch, which compiles, does not count."""

    def __init__(self, total: int, log: Callable[[str], None]):
        self._total, self._log = total, log
        self._first: tuple[int, float] | None = None
        self._shown = time.monotonic()

    def show(self, done: int) -> None:
        """Says how far the evaluation is, if the last line is old enough."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        left = f", {rate:.2f} images/s, {(self._total - done) / rate / 60:.1f} min left" if rate else ""
        share = "" if jax.process_count() == 1 else " of this process"
        self._log(f"evaluated {done} of {self._total} images{share}{left}")
