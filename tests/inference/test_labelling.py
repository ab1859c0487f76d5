"""Blending and argmax: values by hand, chunks of classes, classes that no view has kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.inference import (
    CAT_SEG,
    PROTOCOLS,
    WHOLE,
    SlidingWindows,
    buckets,
    labelling,
)
from ahs_seg_jax.models import aggregator
from tests.support.logits import stored

SMALL = SlidingWindows(shortest=13, longest=29, size=11, window=7, stride=2)


# As one program: operation by operation, each would be compiled for itself.
probabilities = jax.jit(labelling.probabilities, static_argnums=(1, 2))

EITHER_SMALL = pytest.mark.parametrize("protocol", [WHOLE, SMALL], ids=PROTOCOLS)


@EITHER_SMALL
def test_constant_logits_stay_constant(protocol):
    views = protocol.views_shape(8)[0]
    blended = probabilities(jnp.full((views, 2, 6, 6), 0.7), (23, 17), protocol)
    assert blended.shape == (2, 23, 17)
    np.testing.assert_allclose(blended, 1 / (1 + np.exp(-0.7)), rtol=1e-6)


def test_overlapping_windows_by_hand():
    windows = SlidingWindows(size=5, window=3, stride=2)  # four windows; row and column 2 lie in two of them
    logit = lambda p: np.log(p / (1 - p))
    views = np.stack([np.full((1, 3, 3), logit(p)) for p in (0.1, 0.3, 0.5, 0.7, 0.6)])
    blended = probabilities(jnp.asarray(views, jnp.float32), (5, 5), windows)
    top, bottom = [0.1, 0.1, 0.2, 0.3, 0.3], [0.5, 0.5, 0.6, 0.7, 0.7]
    tiled = np.array([top, top, [0.3, 0.3, 0.4, 0.5, 0.5], bottom, bottom])
    np.testing.assert_allclose(blended[0], (tiled + 0.6) / 2, rtol=1e-5)


def test_whole_takes_the_sigmoid_first_and_windows_resize_first():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 4, (2, 3, 5, 5)), jnp.float32)
    up = functools.partial(jax.image.resize, method="bilinear", antialias=False)
    whole = probabilities(logits[:1], (13, 11), WHOLE)
    np.testing.assert_allclose(whole, up(jax.nn.sigmoid(logits[0]), (3, 13, 11)), atol=1e-6)
    windows = SlidingWindows(size=9, window=9, stride=1)
    both = jax.nn.sigmoid(up(logits, (2, 3, 9, 9))).mean(axis=0)
    blended = probabilities(logits, (13, 11), windows)
    np.testing.assert_allclose(blended, up(both, (3, 13, 11)), atol=1e-6)


@EITHER_SMALL
@pytest.mark.parametrize(("classes", "size"), [(3, (7, 131)), (8, (37, 5)), (19, (41, 53))])
def test_chunked_argmax_is_the_argmax(protocol, classes, size):
    views = protocol.views_shape(8)[0]
    logits = jnp.asarray(np.random.default_rng(classes).normal(0, 3, (views, classes, 6, 6)), jnp.float32)
    labels = np.asarray(labelling.label_map(logits, size, protocol))
    assert labels.dtype == np.int32
    assert labels.shape == tuple(buckets.bucket(extent, buckets.OUTPUT_BUCKETS) for extent in size)
    expected = probabilities(logits, size, protocol).argmax(axis=0)
    np.testing.assert_array_equal(labels[: size[0], : size[1]], expected)


def test_the_first_of_equally_probable_classes_wins():
    labels = labelling.label_map(jnp.full((1, 11, 6, 6), -200.0), (5, 7), WHOLE)
    assert (np.asarray(labels) == 0).all()


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_labels_in_parts_are_the_labels(monkeypatch, protocol):
    views = protocol.views_shape(32)[0]
    logits = np.random.default_rng(0).normal(0, 3, (views, 43, 6, 6)).astype(np.float32)
    expected = np.asarray(probabilities(jnp.asarray(logits), (29, 131), protocol))
    step_of = labelling.step_of
    for at_once, platform in ((8, "cpu"), (64, "cpu"), (32, "cuda")):
        monkeypatch.setattr(labelling, "LABELLED_AT_ONCE", at_once)
        monkeypatch.setattr(labelling, "step_of", lambda rows, columns, _, p=platform: step_of(rows, columns, p))
        labels, confidence = labelling.labels(stored(logits), (29, 131), protocol)
        np.testing.assert_array_equal(labels, expected.argmax(axis=0))
        np.testing.assert_allclose(confidence, expected.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        labelling.all_probabilities(stored(logits), 43, (29, 131), protocol), expected, atol=1e-6
    )


def test_step_by_hand():
    assert labelling.step_of(512, 640, "cpu") == (8, 128)
    assert labelling.step_of(512, 640, "cuda") == (32, 512), "all rows of a small picture"
    assert labelling.step_of(3072, 4096, "cuda") == (32, 512)  # 2**28 / (4 * 32 * 4096)
    assert labelling.step_of(1536, 2048, "tpu") == (32, 768)  # of at most 1024, a divisor of 1536
    assert labelling.step_of(1024, 200_704, "cuda") == (32, 128)
    for rows in buckets.OUTPUT_BUCKETS:
        assert rows % labelling.step_of(rows, 1536, "cuda")[1] == 0


def test_classes_that_no_view_has_kept_cost_no_labels(monkeypatch):
    views = CAT_SEG.views_shape(32)[0]
    logits = np.random.default_rng(0).normal(0, 3, (views, 43, 6, 6)).astype(np.float32)
    logits[:, 2:33] = aggregator.DROPPED_LOGIT
    logits[1, 40] = aggregator.DROPPED_LOGIT  # in one view only
    expected = np.asarray(probabilities(jnp.asarray(logits), (29, 31), CAT_SEG))
    asked = []
    best = labelling.best_classes
    monkeypatch.setattr(
        labelling, "best_classes", lambda part, *a, **k: asked.append(part.shape[1]) or best(part, *a, **k)
    )
    labels, confidence = labelling.labels(stored(logits), (29, 31), CAT_SEG)
    assert asked == [22]  # half of 43, which 12 do not fill, and no other half
    np.testing.assert_array_equal(labels, expected.argmax(axis=0))
    assert labels.max() > 33
    np.testing.assert_allclose(confidence, expected.max(axis=0), atol=1e-6)
