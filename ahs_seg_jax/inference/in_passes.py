"""Any number of classes on any number of views in bounded memory: chunks of classes through the compiled parts.

Axes: b view, t class, p prompt, e joint embedding, g side of the logits.

Exact: the result does not depend on the chunk or on how many views are computed together, beyond float32's rounding.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ahs_seg_jax.inference import buckets, labelling, pass_programs
from ahs_seg_jax.models import aggregator, class_layer
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.class_layer import Sums

LABELLED_AT_ONCE = 32  # classes whose logits become labels in one call

Features = dict[str, np.ndarray]  # what the image says, each [b, ...]; see `AHSSeg.encode_image`


def encode_views(model: AHSSeg, params: Any, views: np.ndarray, at_once: int) -> Features:
    """Features of views `[b, s, s, 3]`, at most `at_once` computed together."""
    groups = list(_groups({"views": views}, at_once))

    def encoded(i: int) -> Features:
        _, count, group = groups[i]
        features = pass_programs.encode_image(model, params, group["views"])
        return {name: np.asarray(value)[:count] for name, value in features.items()}

    parts = list(_each(encoded, len(groups)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def segment_views(
    model: AHSSeg,
    params: Any,
    features: Features,
    text: np.ndarray,
    *,
    keep: int | None,
    chunk: int,
    at_once: int,
    pooling: int = 1,
) -> np.ndarray:
    """Logits float32 `[b, t, g, g]` of features and text `[t, p, e]`, in passes of `chunk` classes.

    With `keep`, each view's classes are cut to those with the largest correlation, and the others' logits are -100,
    as in `AHSSeg.segment`; None takes all.
    """
    classes, views = len(text), len(features["dense"])
    side = model.config.grid * 4
    logits = np.empty((views, classes, side, side), np.float32)
    if keep is None or classes <= keep:
        for start, count, group in _groups(features, at_once):
            for at, value in _all_classes(model, params, group, text, chunk, pooling):
                logits[start : start + count, at : at + value.shape[1]] = value[:count]
        return logits
    logits[...] = aggregator.DROPPED_LOGIT
    for view in range(views):  # each keeps other classes
        part = {name: value[view : view + 1] for name, value in features.items()}
        kept = _best(model, params, part["dense"], text, keep, chunk)
        for at, value in _all_classes(model, params, part, text[kept], chunk, pooling):
            logits[view, kept[at : at + value.shape[1]]] = value[0]
    return logits


def _best(model: AHSSeg, params: Any, dense: np.ndarray, text: np.ndarray, keep: int, chunk: int) -> np.ndarray:
    """Indices of the `keep` classes with the largest correlation, ascending; of equals, the first."""
    parts = [
        np.asarray(pass_programs.best_correlation(model, params, dense, piece))[0, : mask.sum()]
        for _, piece, mask in _chunks(text, chunk)
    ]
    return np.sort(np.argsort(-np.concatenate(parts), kind="stable")[:keep])


def _all_classes(
    model: AHSSeg, params: Any, features: Features, text: np.ndarray, chunk: int, pooling: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first class, logits `[b, t, g, g]`) of every chunk; all take part in the class attention.

    Between two meetings of all classes a chunk goes its way alone: from a class layer through the next spatial layer, or
    through the decoder.
    """
    pieces, layers = list(_chunks(text, chunk)), model.config.aggregator.layers
    lanes = min(len(pieces), buckets.passes_at_once(jax.default_backend()))
    views, side = len(features["dense"]), model.config.grid // pooling
    of_image = pass_programs.prepare_decoder(model, params, features["decoder_1"], features["decoder_2"])
    # A call looks at every parameter that it is given; these are all that the programs below need.
    params = {"aggregator": params["aggregator"]}
    appearance, dense = features["appearance"], features["dense"]
    state: list[Any] = [None] * len(pieces)
    # Of every lane: a chunk adds its own to those of the chunk that has left its place to it.
    shares: list[Sums] = []
    sums: Any = None

    def first(i: int) -> None:
        _, piece, mask = pieces[i]
        state[i], shares[i % lanes] = pass_programs.first_layer(
            model, params, dense, appearance, piece, mask, shares[i % lanes], pooling=pooling
        )

    def following(index: int, i: int) -> None:
        _, piece, mask = pieces[i]
        state[i], shares[i % lanes] = pass_programs.next_layer(
            model, params, state[i], appearance, piece, mask, sums, shares[i % lanes], index=index, pooling=pooling
        )

    def decoded(i: int) -> jax.Array:
        x, state[i] = state[i], None  # freed while the later chunks are decoded
        return pass_programs.last_layer(model, params, x, pieces[i][1], sums, of_image, pooling=pooling)

    for index in range(layers):
        shares[:] = [class_layer.no_sums(model.config.aggregator, views, side) for _ in range(lanes)]
        collections.deque(_each(functools.partial(following, index) if index else first, len(pieces)), maxlen=0)
        sums = pass_programs.complete_sums(model, params, shares, np.asarray(len(text)), index=index)
    for (start, _, mask), logits in zip(pieces, _each(decoded, len(pieces)), strict=True):
        yield start, np.asarray(logits)[:, : mask.sum()]


def _each(function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """`function(i)` of 0, 1, ... in this order, `passes_at_once` beside each other and never more ahead."""
    together = buckets.passes_at_once(jax.default_backend())
    with concurrent.futures.ThreadPoolExecutor(together) as threads:
        run = lambda i: jax.block_until_ready(function(i))
        running: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        for index in range(count):
            if len(running) == together:
                yield running.popleft().result()
            running.append(threads.submit(run, index))
        yield from (future.result() for future in running)


def labels(logits: np.ndarray, size: tuple[int, int], protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Label int32 and probability float32 `[H, W]` of the most probable class; logits `[v, t, g, g]` of one image."""
    best, shown = None, _shown(logits)
    at_once = buckets.chunk_size(
        logits.shape[1], LABELLED_AT_ONCE
    )  # the same for every picture, however many are shown
    for start in range(0, len(shown), at_once):
        # What fills up the last piece is copies of its last class: equal, and later, so never the best.
        classes = buckets.padded(shown[start : start + at_once], at_once)
        best = labelling.best_classes(logits[:, classes], size, protocol, before=best, first=start)
    label, value = (np.asarray(array)[: size[0], : size[1]] for array in best or ())
    return shown.astype(np.int32)[label], value


def _shown(logits: np.ndarray) -> np.ndarray:
    """Indices of the classes that a view has kept; and the first class, the label where all probabilities are 0."""
    kept = (logits[:, :, 0, 0] != aggregator.DROPPED_LOGIT).any(axis=0)
    kept[:1] = True
    return np.flatnonzero(kept)


def probabilities(logits: np.ndarray, size: tuple[int, int], protocol: str) -> np.ndarray:
    """Probabilities float32 `[t, H, W]` of logits `[v, t, g, g]` of one image."""
    result = np.empty((logits.shape[1], *size), np.float32)
    for start, piece, mask in _chunks(logits.swapaxes(0, 1), labelling.CLASSES_AT_ONCE):
        part = labelling.padded_probabilities(piece.swapaxes(0, 1), size, protocol)
        result[start : start + mask.sum()] = np.asarray(part)[: mask.sum(), : size[0], : size[1]]
    return result


def _chunks(text: np.ndarray, chunk: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first class, text `[size, p, e]`, mask `[size]`): the last piece is filled up with copies of its last class."""
    size = buckets.chunk_size(len(text), chunk)
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        count = len(piece)
        yield start, buckets.padded(piece, size), np.arange(size) < count


def _groups(arrays: Features, at_once: int) -> Iterator[tuple[int, int, Features]]:
    """(first view, views, their rows of the arrays): at most `at_once`, filled up with copies of the last."""
    views = len(next(iter(arrays.values())))
    size = min(at_once, buckets.bucket(views, buckets.VIEW_BUCKETS))
    for start in range(0, views, size):
        rows = slice(start, start + size)
        yield (
            start,
            min(size, views - start),
            {name: buckets.padded(value[rows], size) for name, value in arrays.items()},
        )
