"""Any number of classes on any number of views in bounded memory: class chunks go through the compiled parts in passes.

Axes: b view of a group, t class, p prompt, e joint embedding, n class whose logits are stored, g side of the logits.

The result does not depend on the size of a chunk or of a group of views, beyond float32's rounding. Features and logits
stay on the device.
"""

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ahs_seg_jax.inference import buckets, keeping, pass_programs
from ahs_seg_jax.inference.keeping import Keep
from ahs_seg_jax.models import class_layer
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.class_layer import Sums

Features = dict[str, jax.Array]  # what the image says, each [b, ...]; see `AHSSeg.encode_image`


@dataclasses.dataclass(frozen=True, eq=False)
class ViewLogits:
    """Logits of the views of one image, on the device.

    `values` may hold views of other images too, and only the classes that a view kept: class k of the image's view v is
    `values[rows[v], places[v, k]]`, or absent where that place is `values.shape[1]`.
    """

    values: jax.Array  # float32 [b, n, g, g]
    rows: np.ndarray  # int32 [v]
    places: np.ndarray  # int32 [v, t]

    def of(self, classes: np.ndarray) -> jax.Array:
        """Logits float32 `[v, k, g, g]` of the classes with these indices `[k]`; -100 where a view has none."""
        return pass_programs.take_classes(self.values, self.rows, self.places[:, classes])

    def shown(self) -> np.ndarray:
        """Indices of the classes that some view kept, and class 0: the label where all probabilities are 0."""
        kept = np.asarray((self.places < self.values.shape[1]).any(axis=0))
        return np.flatnonzero(kept | (np.arange(len(kept)) == 0))


def encode_views(model: Any, params: Any, views: np.ndarray, at_once: int, always: bool = False) -> Features:
    """Features of views float32 `[v, s, s, 3]`, RGB 0..255; at most `at_once` are computed together, or `always`."""
    groups = [np.asarray(rows) for _, rows in _groups(len(views), at_once, always)]
    encode = lambda i: pass_programs.encode_image(model, params, views[groups[i]])
    return take_rows(joined(list(_each(encode, len(groups)))), np.arange(len(views)))


def joined(parts: Sequence[Features]) -> Features:
    """The features of several groups of views as one group."""
    return parts[0] if len(parts) == 1 else pass_programs.join(list(parts))


def take_rows(features: Features, rows: np.ndarray) -> Features:
    """The features of some views; the very same arrays where these are all of them, in order."""
    if np.array_equal(rows, np.arange(len(next(iter(features.values()))))):
        return features
    return pass_programs.take_rows(features, rows.astype(np.int32))


def segment_views(
    model: AHSSeg,
    params: Any,
    features: Features,
    text: np.ndarray,
    *,
    keep: Keep,
    chunk: int,
    at_once: int,
    pooling: int = 1,
) -> ViewLogits:
    """Logits of the views' features for text float32 `[t, p, e]`, in passes of `chunk` classes.

    With `keep`, each view's classes are cut: to a number of those with the largest correlation, as in
    `AHSSeg.segment`, or by a margin; None takes all.
    """
    classes, views, side = len(text), len(features["dense"]), model.config.grid * 4
    rows = np.arange(views, dtype=np.int32)
    if not keeping.cuts(keep, classes):
        groups = list(_groups(views, at_once))
        chunks = buckets.chunk_size(classes, chunk)
        shape = (len(groups) * len(groups[0][1]), -(-classes // chunks) * chunks, side, side)
        logits = jnp.zeros(shape, jnp.float32)
        for start, group in groups:
            for at, value in _Passes(model, params, take_rows(features, group), text, chunk, pooling).run():
                logits = pass_programs.put_classes(logits, value, np.int32(start), np.int32(at))
        return ViewLogits(logits, rows, np.tile(np.arange(classes, dtype=np.int32), (views, 1)))
    logits = jnp.zeros((views, _room(keep, classes, chunk), side, side), jnp.float32)
    places = np.full((views, classes), logits.shape[1], np.int32)
    for view, (of_view, kept) in enumerate(_with_kept(model, params, features, text, keep, chunk)):
        places[view, kept] = np.arange(len(kept))
        for at, value in _Passes(model, params, of_view, text[kept], chunk, pooling).run():
            logits = pass_programs.put_classes(logits, value, np.int32(view), np.int32(at))
    return ViewLogits(logits, rows, places)


def _room(keep: Keep, classes: int, chunk: int) -> int:
    """Places for the classes that any view may keep, with the copies that fill up their last chunk."""
    most = keeping.most_kept(keep, classes)
    sizes = [(count, buckets.chunk_size(count, chunk)) for count in (most, *keeping.KEPT_BUCKETS) if count <= most]
    return max(-(-count // size) * size for count, size in sizes)


def _with_kept(
    model: AHSSeg, params: Any, features: Features, text: np.ndarray, keep: Keep, chunk: int
) -> Iterator[tuple[Features, np.ndarray]]:
    """Each view's features, and the indices of the classes that it keeps, ascending: see `keeping.kept`.

    The host reads the correlation, and a device does its work in order: so the next view's is asked for before the
    passes of a view, and nobody waits for these.
    """
    everywhere = isinstance(keep, keeping.Margin)
    program = pass_programs.correlation_map if everywhere else pass_programs.best_correlation
    pieces = list(_chunks(text, chunk))
    asked: collections.deque[tuple[Features, list[jax.Array]]] = collections.deque()
    for view in [*range(len(features["dense"])), None]:
        if view is not None:
            of_view = take_rows(features, np.arange(view, view + 1))
            dense = of_view["dense"]
            asked.append((of_view, [program(model, params, dense, piece) for _, piece, _ in pieces]))
        if view != 0:
            of_view, found = asked.popleft()
            parts = [np.asarray(part)[0, : mask.sum()] for part, (_, _, mask) in zip(found, pieces, strict=True)]
            yield of_view, keeping.kept(np.concatenate(parts).reshape(len(text), -1), keep)


class _Passes:
    """All classes of a group of views on their way through the aggregation and the decoder.

    All classes meet in the sums of each class layer. Between two meetings a class chunk goes its way alone: from one
    class layer through the next spatial layer to the next class layer's sums, or from the last one through the decoder.
    Several chunks run beside each other, one in each lane; the chunks of a lane add up one share of the sums, and
    `_each` starts chunk i only when chunk i - lanes, which is of the same lane, has finished.
    """

    def __init__(
        self, model: AHSSeg, params: Any, features: Features, text: np.ndarray, chunk: int, pooling: int
    ) -> None:
        self._model, self._pooling, self._classes = model, pooling, np.asarray(len(text))
        self._starts, pieces, masks = zip(*_chunks(text, chunk), strict=True)
        self._pieces = [jax.device_put((piece, mask)) for piece, mask in zip(pieces, masks, strict=True)]
        self._lanes = min(len(self._pieces), buckets.passes_at_once(jax.default_backend()))
        self._dense, self._appearance = features["dense"], features["appearance"]
        self._decoder = pass_programs.prepare_decoder(model, params, features["decoder_1"], features["decoder_2"])
        # A call looks at every parameter that it is given; these are all that the later programs need.
        self._params = {"aggregator": params["aggregator"]}
        self._states: list[Any] = [None] * len(self._pieces)
        self._shares: list[Sums] = []  # one for each lane
        self._sums: Any = None  # of the class layer that all chunks have reached

    def run(self) -> Iterator[tuple[int, jax.Array]]:
        """(index of the first class, logits `[b, chunk, g, g]`) of every chunk, in order.

        What fills up the last chunk are copies of its last class.
        """
        settings, views = self._model.config.aggregator, len(self._dense)
        side = self._model.config.grid // self._pooling
        for index in range(settings.layers):
            self._shares = [class_layer.no_sums(settings, views, side) for _ in range(self._lanes)]
            for _ in _each(functools.partial(self._to_sums, index), len(self._pieces)):
                pass
            self._sums = pass_programs.complete_sums(
                self._model, self._params, self._shares, self._classes, index=index
            )
        yield from zip(self._starts, _each(self._decoded, len(self._pieces)), strict=True)

    def _to_sums(self, index: int, i: int) -> Any:
        """Chunk i from where it stands to the sums of class layer `index`."""
        text, mask = self._pieces[i]
        onto = self._shares[i % self._lanes]
        if index == 0:
            self._states[i], share = pass_programs.first_layer(
                self._model, self._params, self._dense, self._appearance, text, mask, onto, pooling=self._pooling
            )
        else:
            self._states[i], share = pass_programs.next_layer(
                self._model,
                self._params,
                self._states[i],
                self._appearance,
                text,
                mask,
                self._sums,
                onto,
                index=index,
                pooling=self._pooling,
            )
        self._shares[i % self._lanes] = share
        return share

    def _decoded(self, i: int) -> jax.Array:
        """Chunk i from the last class layer through the decoder."""
        x, self._states[i] = self._states[i], None  # freed while the later chunks are decoded
        return pass_programs.last_layer(
            self._model, self._params, x, self._pieces[i][0], self._sums, self._decoder, pooling=self._pooling
        )


def _each(function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """`function(i)` for 0, 1, ... in this order.

    On a CPU `passes_at_once` calls run beside each other, and a call starts when the one that many before has finished.
    On other devices calls are only dispatched, and the device works through them in order.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        yield from map(function, range(count))
        return
    together = buckets.passes_at_once(backend)
    with concurrent.futures.ThreadPoolExecutor(together) as threads:
        run = lambda i: jax.block_until_ready(function(i))
        running: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        for index in range(count):
            if len(running) == together:
                yield running.popleft().result()
            running.append(threads.submit(run, index))
        yield from (future.result() for future in running)


def _chunks(text: np.ndarray, chunk: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first class, text `[size, p, e]`, mask `[size]`): the last chunk is filled up with copies of its last class."""
    size = buckets.chunk_size(len(text), chunk)
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        yield start, buckets.padded(piece, size), np.arange(size) < len(piece)


def _groups(views: int, at_once: int, always: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    """(first view, indices of the views) of groups of at most `at_once`; the last view fills up the last group."""
    size = at_once if always else min(at_once, buckets.bucket(views, buckets.VIEW_BUCKETS))
    for start in range(0, views, size):
        yield start, np.minimum(np.arange(start, start + size), views - 1)
