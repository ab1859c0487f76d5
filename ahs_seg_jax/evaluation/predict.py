"""Predictions of a model on the images of an evaluation, batch by batch."""

import abc
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from ahs_seg_jax import threads
from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.data.source import Source
from ahs_seg_jax.devices.mesh import put_batch, put_replicated
from ahs_seg_jax.errors import DataProblem
from ahs_seg_jax.evaluation import images, metrics
from ahs_seg_jax.evaluation.images import Failed, Loaded
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.evaluation.scored_classes import ScoredClasses
from ahs_seg_jax.evaluation.tally import Partial, Tally, most_over_processes, sum_over_processes
from ahs_seg_jax.inference import encoding, labelling
from ahs_seg_jax.inference.engine import Engine
from ahs_seg_jax.inference.protocols import find_protocol
from ahs_seg_jax.models import parameters
from ahs_seg_jax.progress import Progress
from ahs_seg_jax.vocabulary import Vocabulary

COUNTED_AT_ONCE = 2  # batches


@dataclasses.dataclass(frozen=True)
class Predicted:
    """An image that went through the model: its labels and what was predicted, both in scored classes."""

    loaded: Loaded
    labels: np.ndarray  # int32 [H, W]


class Labeller(Protocol):
    """What labels one image after another by a way of its own, such as a training-free method."""

    def described(self) -> dict[str, Any]:
        """JSON-ready facts on which its labels depend; `protocol` is its short name in results."""
        ...

    def __call__(self, image: np.ndarray, /) -> np.ndarray:
        """Predicted classes int32 `[H, W]`, indices of the source's vocabulary, of an image uint8 `[H, W, 3]`."""
        ...


@dataclasses.dataclass(frozen=True)
class Weights:
    """What is scored: a model with its parameters, and what is known about where they come from."""

    model: Any  # AHSSeg, or another model with a `config`, if there is a labeller
    params: Any
    vocabulary: Vocabulary | None = None  # it was trained with; None if that is not known
    path: str | None = None  # of the checkpoint
    step: int | None = None  # of the training
    labeller: Labeller | None = None  # labels the images in place of the engine

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the parameters; it takes seconds, and is computed when it is first asked for."""
        return parameters.params_sha256(self.params)


class Run(abc.ABC):
    """What predicts the labels of the images of one evaluation."""

    source: Source
    classes: ScoredClasses

    @abc.abstractmethod
    def predicted(self, indices: Sequence[int]) -> Iterator[list[Predicted | Failed]]:
        """This process's images in order, batch by batch.

        All processes must call it together, with as many or as few images each as they like.
        """


def open_run(weights: Weights, source: Source, settings: EvalConfig, mesh: Mesh, num_threads: int) -> Run:
    """The run of a labeller, if the weights have one, or of the engine."""
    if weights.labeller is not None:
        return OneByOne(weights.labeller, source, num_threads)
    return InBatches(weights, source, settings, mesh, num_threads)


class OneByOne(Run):
    """The labeller and the images of one evaluation; images are read while others are labelled."""

    def __init__(self, labeller: Labeller, source: Source, num_threads: int):
        self.source, self.classes = source, ScoredClasses.of(source)
        self._label, self._num_threads = labeller, num_threads

    def predicted(self, indices: Sequence[int]) -> Iterator[list[Predicted | Failed]]:
        """See `Run`."""
        for batch in images.read_batches(self.source, indices, 1, len(indices), None, self._num_threads):
            yield [item if isinstance(item, Failed) else self._predict(item) for item in batch]

    def _predict(self, item: Loaded) -> Predicted:
        return Predicted(item, self.classes(self._label(item.image)))


class InBatches(Run):
    """The engine, the images and the devices of one evaluation. The text is encoded once."""

    def __init__(self, weights: Weights, source: Source, settings: EvalConfig, mesh: Mesh, num_threads: int):
        self.source, self.classes, self.crop = source, ScoredClasses.of(source), weights.model.config.image.crop
        self._protocol, self._class_pooling = find_protocol(settings.protocol), settings.class_pooling
        self._mesh, self._num_threads = mesh, num_threads
        self._engine = Engine(weights.model, put_replicated(weights.params, mesh), few_images=False)
        text = encoding.encode_vocabulary(self._engine.model, self._engine.params, source.vocabulary)
        self._text, self._mask = encoding.padded_text(text, labelling.CLASSES_AT_ONCE)
        self._rows = -(-max(settings.batch_size, 1) // mesh.devices.size) * mesh.devices.size // jax.process_count()

    def predicted(self, indices: Sequence[int]) -> Iterator[list[Predicted | Failed]]:
        """See `Run`; the devices work on the next batch meanwhile."""
        batches = most_over_processes(-(-len(indices) // self._rows))
        views = functools.partial(self._protocol.views, crop=self.crop)
        read = images.read_batches(self.source, indices, self._rows, batches, views, self._num_threads)
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
        views = np.zeros((self._rows, *self._protocol.views_shape(self.crop)), np.float32)
        for row, loaded in enumerate(batch):
            views[row] = loaded.views
        return self._engine.label_maps(
            put_batch({"views": views}, self._mesh)["views"],
            self._text,
            self._mask,
            [loaded.label.shape for loaded in batch],
            self._protocol,
            class_pooling=self._class_pooling,
            mesh=self._mesh,
        )

    def _collected(self, batch: list[tuple[Loaded | Failed, Any]]) -> list[Predicted | Failed]:
        done: list[Predicted | Failed] = []
        for item, padded in batch:
            if isinstance(item, Failed):
                done.append(item)
            else:
                height, width = item.label.shape
                labels = self.classes(np.asarray(padded)[:height, :width])
                done.append(Predicted(dataclasses.replace(item, views=None), labels))  # the views have had their use
        return done


def count(
    run: Run,
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
    progress = Progress(len(own), log, "evaluated")
    share = " of this process" if jax.process_count() > 1 else ""
    before, started = tally.seconds, time.monotonic()
    # The devices work on the next batches meanwhile.
    counting = functools.partial(_counted, classes=classes, extremes=extremes, predictions=predictions)
    batches = threads.in_order(counting, run.predicted(own[tally.done :]), COUNTED_AT_ONCE)
    try:
        with contextlib.closing(batches):
            for counted in batches:
                counted.seconds = before + time.monotonic() - started
                tally = tally.added(counted)
                progress.show(tally.done, share)
                if kept:
                    kept.save_now_and_then(tally)
    except BaseException:  # Ctrl-C is one
        if kept:
            kept.save(tally)
        raise
    return sum_over_processes(tally)


def _counted(
    batch: Iterable[Predicted | Failed], classes: int, extremes: int, predictions: PredictionWriter | None
) -> Tally:
    """The counts of one batch; its predictions are written on the way."""
    tally = Tally(np.zeros((classes, classes), np.int64), extremes)
    for item in batch:
        tally.done += 1
        if isinstance(item, Failed):
            tally.failed.append({"name": item.name, "cause": item.cause})
            continue
        loaded = item.loaded
        try:
            confusion = metrics.confusion_matrix(loaded.label, item.labels, classes)
        except ValueError as error:
            raise DataProblem(f"{loaded.name}: {error}") from error
        tally.confusion += confusion
        miou = metrics.scores(confusion).miou if extremes else math.nan
        if not math.isnan(miou):
            tally.best.append((miou, loaded.index))
            tally.worst.append((miou, loaded.index))
        if predictions:
            predictions.write(loaded.index, loaded.name, item.labels)
    return tally
