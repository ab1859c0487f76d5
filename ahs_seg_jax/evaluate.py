"""Score a model on a labelled source: one confusion matrix over all images.

The images are divided among the processes, then among the devices; a batch that is not full is padded, and what is
padded is never counted. Works on parameters in the middle of a training run as well as on a loaded checkpoint.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ahs_seg_jax import inference, metrics, parallel, results, visualize
from ahs_seg_jax.data.sources import CorruptExample, Source
from ahs_seg_jax.results import Evaluation
from ahs_seg_jax.versions import versions
from ahs_seg_jax.vocabulary import Vocabulary

PROGRESS_SECONDS = 10.0  # between two lines of progress


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """One image, ready for the device."""

    index: int
    name: str
    views: np.ndarray  # float32 [v, s, s, 3]
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # int32 [H, W]


@dataclasses.dataclass
class _Tally:
    """What this process has counted so far."""

    confusion: np.ndarray  # int64 [t, t]
    images: int = 0
    failed: list[dict[str, str]] = dataclasses.field(default_factory=list)
    pictures: list[tuple[str, np.ndarray]] = dataclasses.field(default_factory=list)


def evaluate(
    model: Any,
    params: Any,
    source: Source,
    *,
    protocol: str = "cat_seg",
    class_pooling: int = 1,
    batch_size: int = 1,
    limit: int = 0,
    pictures: int = 0,
    training_vocabulary: Vocabulary | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    num_threads: int = 2,
    log: Callable[[str], None] | None = None,
) -> Evaluation:
    """Scores of `model` (AHSSeg) with `params` on every image of `source`, or on its first `limit` (0 = all).

    `batch_size` counts images over all devices and is rounded up to a multiple of them. `pictures` panels of images
    spread over the source are kept. `checkpoint` (path, step) goes into the report beside the parameters' hash. `log`
    receives lines of progress. Files that cannot be read are named in the report, and the rest is scored.

    Raises ValueError for an unknown protocol, an empty source, or labels outside the source's vocabulary.
    """
    started = time.monotonic()
    inference.check_protocol(protocol)
    if not len(source):
        raise ValueError("nothing to evaluate: the source holds no image; check the folder and the split")
    total = min(limit, len(source)) if limit else len(source)
    mesh = mesh or parallel.make_mesh()
    report = _setting(model, params, source, protocol, class_pooling, training_vocabulary, checkpoint, mesh)
    segment = _make_segment(model, params, source.vocabulary, protocol, class_pooling, mesh)
    rows = -(-max(batch_size, 1) // mesh.devices.size) * mesh.devices.size // jax.process_count()
    batches = _batches(source, total, rows, protocol, model.config.image.crop, num_threads)
    tally = _count(batches, segment, source.vocabulary, _pictured(total, pictures), _Progress(total, log))
    tally = _sum_over_processes(tally)
    report |= {
        "data": {"fingerprint": source.fingerprint(), "images": tally.images, "images_in_source": len(source)},
        "incomplete": _reasons(len(tally.failed), total, len(source)),
        "failed": tally.failed,
        "seconds": round(time.monotonic() - started, 3),
    }
    seen = None if training_vocabulary is None else source.vocabulary.seen_by(training_vocabulary)
    return Evaluation(metrics.scores(tally.confusion), source.vocabulary, seen, report, tally.pictures)


def _setting(
    model: Any,
    params: Any,
    source: Source,
    protocol: str,
    class_pooling: int,
    training_vocabulary: Vocabulary | None,
    checkpoint: Mapping[str, Any] | None,
    mesh: Mesh,
) -> dict[str, Any]:
    """The part of the report that is known before the first image: what is scored, how, with what."""
    return {
        "protocol": protocol,
        "class_pooling": class_pooling,
        "vocabulary": results.vocabulary_report(source.vocabulary),
        "training_vocabulary": training_vocabulary and results.vocabulary_report(training_vocabulary),
        "checkpoint": {"path": None, "step": None, **(checkpoint or {}), "sha256": results.params_sha256(params)},
        "model": dataclasses.asdict(model.config),
        "versions": versions(),
        "hardware": results.hardware(mesh),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _make_segment(
    model: Any, params: Any, vocabulary: Vocabulary, protocol: str, class_pooling: int, mesh: Mesh
) -> Callable[[list[_Loaded], int], list[jax.Array]]:
    """A function from images to their padded label maps; it returns before the devices have finished.

    Rotations are merged and the text is encoded here, once.
    """
    model, params = inference.merged(model, parallel.put_replicated(params, mesh))
    pad_to = -(-len(vocabulary) // inference.CLASSES_AT_ONCE) * inference.CLASSES_AT_ONCE
    encoded = inference.encode_vocabulary(model, params, vocabulary, pad_to)
    sharding = parallel.along_batch(mesh)
    shape = inference.views_shape(protocol, model.config.image.crop)

    def segment(batch: list[_Loaded], rows: int) -> list[jax.Array]:
        views = np.zeros((rows, *shape), np.float32)
        for row, loaded in enumerate(batch):
            views[row] = loaded.views
        logits = inference.view_logits(
            model,
            params,
            parallel.put_batch({"views": views}, mesh)["views"],
            encoded.text,
            encoded.mask,
            class_pooling=class_pooling,
            sharding=sharding,
        )
        # Label maps depend on each image's size: they are made where its logits lie, one image at a time.
        shards = sorted(logits.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        own = itertools.chain.from_iterable(shard.data for shard in shards)
        return [
            inference.label_map(image_logits, loaded.label.shape, protocol)
            for loaded, image_logits in zip(batch, own, strict=False)
        ]

    return segment


def _batches(
    source: Source, total: int, rows: int, protocol: str, crop: int, num_threads: int
) -> Iterator[tuple[int, list[_Loaded], list[dict[str, str]]]]:
    """This process's images, read ahead by threads: (rows of a full batch, images read, files that failed).

    Every process yields equally many batches, if need be empty ones: all of them take part in each computation.
    """
    processes = jax.process_count()
    indices = iter(range(jax.process_index(), total, processes))

    def load(index: int) -> _Loaded | dict[str, str]:
        name = source.name(index)
        try:
            example = source[index]
        except CorruptExample as error:
            return {"name": name, "cause": str(error)}
        image = example["image"]
        return _Loaded(index, name, inference.make_views(image, protocol, crop), image, example["label"])

    with concurrent.futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
        ahead = rows + num_threads
        pending = collections.deque(pool.submit(load, index) for index in itertools.islice(indices, ahead))
        for _ in range(-(-total // (processes * rows))):
            read: list[_Loaded] = []
            failed: list[dict[str, str]] = []
            for _ in range(min(rows, len(pending))):
                loaded = pending.popleft().result()
                (failed if isinstance(loaded, dict) else read).append(loaded)  # type: ignore[arg-type]
                pending.extend(pool.submit(load, index) for index in itertools.islice(indices, 1))
            yield rows, read, failed


def _count(
    batches: Iterable[tuple[int, list[_Loaded], list[dict[str, str]]]],
    segment: Callable[[list[_Loaded], int], list[jax.Array]],
    vocabulary: Vocabulary,
    pictured: set[int],
    progress: "_Progress",
) -> _Tally:
    """Counts every batch while the devices work on the next one."""
    tally = _Tally(np.zeros((len(vocabulary), len(vocabulary)), np.int64))

    def collect(read: list[_Loaded], maps: list[jax.Array]) -> None:
        for loaded, padded in zip(read, maps, strict=True):
            height, width = loaded.label.shape
            prediction = np.asarray(padded)[:height, :width]
            try:
                tally.confusion += metrics.confusion_matrix(loaded.label, prediction, len(vocabulary))
            except ValueError as error:
                raise ValueError(f"{loaded.name}: {error}") from error
            tally.images += 1
            if loaded.index in pictured:
                panel = visualize.panel(loaded.image, loaded.label, prediction, vocabulary, title=loaded.name)
                tally.pictures.append((loaded.name, panel))

    under_way: tuple[list[_Loaded], list[jax.Array]] = ([], [])
    for rows, read, failed in batches:
        tally.failed += failed
        dispatched = (read, segment(read, rows))
        collect(*under_way)
        under_way = dispatched
        progress.show((tally.images + len(tally.failed)) * jax.process_count())
    collect(*under_way)
    return tally


def _pictured(total: int, pictures: int) -> set[int]:
    """Indices of the images to picture, spread evenly over the source."""
    return {int(index) for index in np.linspace(0, total - 1, min(pictures, total)).round()}


def _sum_over_processes(tally: _Tally) -> _Tally:
    """The counts of all processes together; pictures stay where they are. As JSON text: JAX arrays have no int64."""
    if jax.process_count() == 1:
        return tally
    own = json.dumps([tally.confusion.tolist(), tally.images, tally.failed]).encode()
    longest = int(multihost_utils.process_allgather(np.array(len(own))).max())
    parts = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(_as_row(own, longest))]
    return _Tally(
        confusion=np.sum([np.array(part[0], np.int64) for part in parts], axis=0),
        images=sum(part[1] for part in parts),
        failed=[failure for part in parts for failure in part[2]],
        pictures=tally.pictures,
    )


def _as_row(text: bytes, length: int) -> np.ndarray:
    return np.frombuffer(text.ljust(length), np.uint8)


def _reasons(failed: int, total: int, in_source: int) -> list[str]:
    reasons = []
    if failed:
        reasons.append(f"{failed} of {total} images could not be read")
    if total < in_source:
        reasons.append(f"limited to the first {total} of {in_source} images")
    return reasons


class _Progress:
    """Lines with the rate and the time left, now and then. The first batch, which compiles, does not count."""

    def __init__(self, total: int, log: Callable[[str], None] | None):
        self._total, self._log = total, log
        self._first: tuple[int, float] | None = None
        self._shown = time.monotonic()

    def show(self, done: int) -> None:
        """Says how far the evaluation is, if the last line is old enough."""
        now = time.monotonic()
        if self._first is None and done:
            self._first = (done, now)
        if self._log is None or self._first is None or now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        rate = (done - self._first[0]) / max(now - self._first[1], 1e-9)
        left = f", {rate:.2f} images/s, {(self._total - done) / rate / 60:.1f} min left" if rate else ""
        self._log(f"evaluated {min(done, self._total)} of {self._total} images{left}")
