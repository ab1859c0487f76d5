"""Chunks of classes and groups of views against the model at once; the cache of features; what programs log."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.inference import CAT_SEG, PROTOCOLS, WHOLE, buckets, compiled, feature_cache, in_passes, labelling
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.models import aggregator, arrangement
from ahs_seg_jax.models.ahs_seg import AHSSeg
from tests.test_inference import photo, real_model

CLASSES = 19  # the small model keeps 16


@functools.cache
def model() -> tuple[AHSSeg, dict]:
    """Norms that keep what they are given, so that classes make a difference to one another."""
    module, params = real_model()
    centred = lambda path, leaf: leaf + 1 if path[-1].key == "scale" else leaf
    return module, jax.tree_util.tree_map_with_path(centred, params)


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(CLASSES, 1, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def features() -> in_passes.Features:
    views = np.stack([WHOLE.views(photo(29, 37, seed), 32)[0] for seed in range(3)])
    return in_passes.encode_views(*model(), views, 4)


def segment(features, text, **options):
    defaults = {"keep": None, "chunk": 32, "at_once": 4, "pooling": 1}
    return every_logit(in_passes.segment_views(*model(), features, text, **(defaults | options)))


def every_logit(logits: ViewLogits) -> np.ndarray:
    return np.asarray(logits.of(np.arange(logits.places.shape[1])))


def stored(logits: np.ndarray) -> ViewLogits:
    """Logits `[v, t, g, g]` as the passes give them: a class whose logits are -100 is absent."""
    views, classes = logits.shape[:2]
    kept = (logits != aggregator.DROPPED_LOGIT).all(axis=(2, 3))
    places = np.where(kept, np.arange(classes), classes).astype(np.int32)
    return ViewLogits(jnp.asarray(logits), np.arange(views, dtype=np.int32), places)


def close(actual, expected):
    shown = expected > -99
    np.testing.assert_array_equal(actual > -99, shown)
    np.testing.assert_allclose(actual[shown], expected[shown], atol=1e-5 * np.abs(expected[shown]).max())


@pytest.mark.parametrize("count", [7, CLASSES])
def test_it_is_what_the_model_computes(features, text, count):
    """Below and above the classes that the model keeps: padding tokens, and the cut. Also as a TPU would do it."""
    module, params = model()
    expected, _ = module.apply({"params": params}, features, text[:count], method="segment")
    close(segment(features, text[:count], keep=16), np.asarray(expected))
    tpu, options = module.clone(arrangement=arrangement.TPU), {"keep": 16, "chunk": 32, "at_once": 4}
    close(every_logit(in_passes.segment_views(tpu, params, features, text[:count], **options)), np.asarray(expected))


@pytest.mark.parametrize(
    "options", [{"chunk": 8}, {"at_once": 1}, {"at_once": 2, "chunk": 16}, {"chunk": 8, "pooling": 2}]
)
@pytest.mark.parametrize("keep", [None, 11])
def test_chunks_and_groups_change_nothing(features, text, options, keep):
    whole = segment(features, text, keep=keep, pooling=options.get("pooling", 1))
    assert whole.std() > 0.01
    close(segment(features, text, keep=keep, **options), whole)


def test_all_classes_influence_one_another_unless_cut(features, text):
    everything = segment(features, text)
    without_last = segment(features, text[:-1])
    assert np.abs(everything[:, :-1] - without_last).max() > 1e-4 * np.abs(everything).max()
    cut = segment(features, text, keep=5)
    assert ((cut > -99).all(axis=(2, 3)).sum(axis=1) == 5).all()


def test_the_best_classes_are_those_of_the_model(features, text):
    module, params = model()
    correlation = module.apply({"params": params}, features["dense"], jnp.asarray(text), method="correlate")
    expected = np.asarray(aggregator.keep_best(correlation, 5, None).indices)
    cut = segment(features, text, keep=5, chunk=8)
    np.testing.assert_array_equal([np.flatnonzero((view > -99).all(axis=(1, 2))) for view in cut], expected)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_labels_in_parts_are_the_labels(monkeypatch, protocol):
    views = protocol.views_shape(32)[0]
    logits = np.random.default_rng(0).normal(0, 3, (views, 43, 6, 6)).astype(np.float32)
    expected = np.asarray(labelling.probabilities(jnp.asarray(logits), (29, 131), protocol))
    for at_once in (8, 64):
        monkeypatch.setattr(labelling, "LABELLED_AT_ONCE", at_once)
        labels, confidence = labelling.labels(stored(logits), (29, 131), protocol)
        np.testing.assert_array_equal(labels, expected.argmax(axis=0))
        np.testing.assert_allclose(confidence, expected.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        labelling.all_probabilities(stored(logits), 43, (29, 131), protocol), expected, atol=1e-6
    )


def test_classes_that_no_view_has_kept_cost_no_labels(monkeypatch):
    views = CAT_SEG.views_shape(32)[0]
    logits = np.random.default_rng(0).normal(0, 3, (views, 43, 6, 6)).astype(np.float32)
    logits[:, 2:33] = aggregator.DROPPED_LOGIT
    logits[1, 40] = aggregator.DROPPED_LOGIT  # in one view only
    expected = np.asarray(labelling.probabilities(jnp.asarray(logits), (29, 31), CAT_SEG))
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


def test_features_are_forgotten_by_size():
    cache = feature_cache.FeatureCache(limit_bytes=100)
    for key in (b"a", b"b", b"c"):
        cache.put(key, {"dense": np.zeros(10, np.float32)})
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [False, True, True]
    cache.put(b"large", {"dense": np.zeros(1000, np.float32)})
    assert cache.get(b"large") is not None


def test_the_key_follows_content_shape_and_protocol():
    image = photo(4, 6)
    keys = [
        feature_cache.content_key(image, WHOLE),
        feature_cache.content_key(image, CAT_SEG),
        feature_cache.content_key(image.reshape(6, 4, 3), WHOLE),
        feature_cache.content_key(255 - image, WHOLE),
    ]
    assert len(set(keys)) == 4
    assert feature_cache.content_key(image.copy(), WHOLE) == keys[0]


def test_compiling_is_logged_with_the_reason(caplog):
    double = compiled.Compiled(lambda params, x, by: x * by, "double", static=("by",))
    with caplog.at_level(logging.DEBUG, "ahs_seg_jax"):
        for size in (3, 3, 5):
            double({}, np.zeros((2, size)), by=2)
    first, second = caplog.messages
    assert first.startswith("compiled double for 2x3 by=2 in ")
    assert first.endswith(": its first use")
    assert "for 2x5" in second
    assert second.endswith("bucket of sizes not used before")


@pytest.mark.parametrize(
    ("classes", "chunk", "together", "size"),
    [
        (150, 6, 1, 6),
        (150, 6, 2, 6),
        (171, 6, 2, 6),
        (150, 6, 8, 5),
        (1000, 256, 1, 250),
        (300, 64, 1, 60),
        (997, 32, 2, 32),
    ],
)
def test_passes_come_out_even(classes, chunk, together, size):
    assert buckets.chunk_size(classes, chunk, together) == size
    assert buckets.chunk_size(classes, size) == size  # what a plan has chosen stays


@pytest.mark.parametrize("together", [1, 2, 3])
def test_passes_run_beside_each_other_in_order_and_never_far_ahead(monkeypatch, together):
    monkeypatch.setattr(buckets, "passes_at_once", lambda platform: together)
    begun, taken = [], []

    def work(index: int) -> int:
        assert index - len(taken) <= together
        begun.append(index)
        return index * index

    for value in in_passes._each(work, 7):
        taken.append(value)
    assert taken == [0, 1, 4, 9, 16, 25, 36]
    assert sorted(begun) == list(range(7))


def test_a_failing_pass_is_heard_of():
    def work(index: int) -> int:
        return 1 // (2 - index)

    with pytest.raises(ZeroDivisionError):
        list(in_passes._each(work, 5))
