"""Which classes a view keeps, by hand; and that aggregating the kept ones is aggregating these alone."""

import numpy as np
import pytest

from ahs_seg_jax.inference import WHOLE, buckets, in_passes, keeping, plan
from ahs_seg_jax.inference.keeping import Margin
from tests.support.images import photo
from tests.support.logits import every_logit
from tests.support.small import plain_model


@pytest.fixture
def fine(monkeypatch):
    """A margin keeps any number of classes."""
    monkeypatch.setattr(keeping, "KEPT_BUCKETS", tuple(range(1, 100)))


def test_how_near_a_class_comes():
    correlation = np.float32([[5, 0, 1], [3, 1, 1], [1, 2, 4]])
    spread = correlation.std(axis=0)
    behind = np.float32([[0, 2, 3], [2, 1, 3], [4, 0, 0]]) / spread
    np.testing.assert_allclose(keeping.nearest(correlation), behind.min(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(keeping.nearest(np.ones((3, 2), np.float32)), np.zeros(3))


def test_a_number_keeps_the_largest_anywhere():
    correlation = np.float32([[5, 0], [3, 1], [1, 4], [0, 4]])
    assert keeping.kept(correlation, 2).tolist() == [0, 2]
    assert keeping.kept(correlation, 3).tolist() == [0, 2, 3]
    assert keeping.kept(correlation, 9).tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("fine")
def test_a_margin_keeps_as_many_as_the_view_needs():
    correlation = np.float32([[9, 0], [8, 0], [2, 6], [1, 5.9], [0, 1]])
    near = keeping.nearest(correlation)
    assert keeping.kept(correlation, Margin(0)).tolist() == [0, 2]
    assert keeping.kept(correlation, Margin(float(near[3]))).tolist() == [0, 2, 3]
    assert keeping.kept(correlation, Margin(float(near[1]))).tolist() == [0, 1, 2, 3]
    assert keeping.kept(correlation, Margin(9.0)).tolist() == [0, 1, 2, 3, 4]
    assert keeping.kept(correlation, Margin(9.0, most=3)).tolist() == keeping.kept(correlation, 3).tolist()
    scaled = 0.03 * correlation + np.float32([0.2, 0.25])  # the cosines of another model
    for width in (0.0, 0.5, 1.0):
        assert keeping.kept(scaled, Margin(width)).tolist() == keeping.kept(correlation, Margin(width)).tolist()


def test_sizes_are_few():
    correlation = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    assert {len(keeping.kept(correlation, Margin(width))) for width in np.linspace(0, 3, 40)} <= {16, 32, 64, 128, 200}


def test_where_nothing_is_cut():
    assert not keeping.cuts(None, 5000)
    assert not keeping.cuts(256, 256)
    assert keeping.cuts(256, 257)
    assert not keeping.cuts(Margin(1.0), 16)
    assert keeping.cuts(Margin(1.0), 17)
    assert [keeping.most_kept(keep, 300) for keep in (None, 256, Margin(1.0), Margin(1.0, 256))] == [300, 256, 300, 256]
    with pytest.raises(ValueError, match="the margin is -1; give a number of standard deviations, 0 or more"):
        Margin(-1)
    with pytest.raises(ValueError, match="a margin keeps at most 0 classes; give a number from 1 on, or None"):
        Margin(1.0, 0)


@pytest.mark.usefixtures("fine")
def test_the_kept_classes_are_aggregated_as_if_they_were_all():
    model, params = plain_model()
    text = np.random.default_rng(0).normal(size=(29, 1, 16)).astype(np.float32)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    views = np.stack([WHOLE.views(photo(29, 37, seed), 32)[0] for seed in range(3)])
    features = in_passes.encode_views(model, params, views, 4)
    segment = lambda text, features, keep: every_logit(
        in_passes.segment_views(model, params, features, text, keep=keep, chunk=8, at_once=4)
    )
    cut = segment(text, features, Margin(0.4))
    numbers = set()
    for view in range(3):
        alone = in_passes.take_rows(features, np.array([view]))
        kept = np.flatnonzero((cut[view] > -99).all(axis=(1, 2)))
        numbers.add(len(kept))
        np.testing.assert_allclose(cut[view, kept], segment(text[kept], alone, None)[0], atol=1e-5)
    assert 1 < max(numbers) < 29
    wide = segment(text, features, Margin(99.0, 16))
    np.testing.assert_allclose(wide, segment(text, features, 16), atol=1e-5)


def test_a_plan_knows_of_the_margin():
    model, params = plain_model()
    config = model.config
    request = plan.Request((29, 37), 300, WHOLE, Margin(1.5, 256))
    made = plan.make_plan(config, params, request)
    assert (made.kept, made.at_once) == (256, 1)
    assert "300 classes, of which each view keeps as many as a margin of 1.5 asks for, at most 256" in str(made)
    few = plan.make_plan(config, params, plan.Request((29, 37), 9, WHOLE, Margin(1.5, 256)))
    assert few.margin is None
    assert "9 classes, in" in str(few)
    assert buckets.bucket(17, keeping.KEPT_BUCKETS) == 32
