"""Chunks of classes and groups of views against the model at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.inference import (
    WHOLE,
    buckets,
    in_passes,
    pass_programs,
)
from ahs_seg_jax.models import aggregator, arrangement
from tests.support.images import photo
from tests.support.logits import every_logit
from tests.support.small import plain_model

CLASSES = 19  # the small model keeps 16


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(CLASSES, 1, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def features() -> in_passes.Features:
    views = np.stack([WHOLE.views(photo(29, 37, seed), 32)[0] for seed in range(3)])
    return in_passes.encode_views(*plain_model(), views, 4)


def segment(features, text, **options):
    defaults = {"keep": None, "chunk": 32, "at_once": 4, "pooling": 1}
    return every_logit(in_passes.segment_views(*plain_model(), features, text, **(defaults | options)))


def close(actual, expected):
    shown = expected > -99
    np.testing.assert_array_equal(actual > -99, shown)
    np.testing.assert_allclose(actual[shown], expected[shown], atol=1e-5 * np.abs(expected[shown]).max())


@pytest.mark.parametrize("count", [7, CLASSES])
def test_it_is_what_the_model_computes(features, text, count):
    """Below and above the classes that the model keeps: padding tokens, and the cut. Also as a TPU would do it."""
    module, params = plain_model()
    at_once = jax.jit(functools.partial(module.apply, method="segment"))
    expected, _ = at_once({"params": params}, features, text[:count])
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
    module, params = plain_model()
    correlation = module.apply({"params": params}, features["dense"], jnp.asarray(text), method="correlate")
    expected = np.asarray(aggregator.keep_best(correlation, 5, None).indices)
    cut = segment(features, text, keep=5, chunk=8)
    np.testing.assert_array_equal([np.flatnonzero((view > -99).all(axis=(1, 2))) for view in cut], expected)


def test_the_host_never_waits_for_passes_to_choose_classes(monkeypatch, features, text):
    """The next view's correlation is asked for before the passes of a view are."""
    order, best, passes = [], pass_programs.best_correlation, in_passes._Passes

    def started(*arguments):
        order.append("passes")
        return passes(*arguments)

    monkeypatch.setattr(pass_programs, "best_correlation", lambda *a: order.append("choose") or best(*a))
    monkeypatch.setattr(in_passes, "_Passes", started)
    segment(features, text, keep=5, chunk=64)
    views = len(features["dense"])
    assert views > 1
    assert order == ["choose", *["choose", "passes"] * (views - 1), "passes"]


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
