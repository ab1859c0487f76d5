"""The work of a plain CLIP: what is counted, what is encoded again, and a large picture in tiles."""

import numpy as np
import pytest

from ahs_seg_jax.inference import compiled
from ahs_seg_jax.models import architecture
from benchmarks.counting import flops
from benchmarks.settings import Settings, complete
from benchmarks.work import training_free
from tests.support.training_free import SMALL


@pytest.fixture
def settings(monkeypatch) -> Settings:
    """The smallest CLIP."""
    monkeypatch.setitem(architecture.PRESETS, "tiny", lambda: SMALL)
    return complete(Settings(classes=5, image=(37, 53), repetitions=2), "cpu")


def test_a_new_picture_is_encoded_and_its_matrix_work_is_counted(settings):
    action = training_free.new_picture(settings)
    assert action.call(0).shape == (37, 53)
    function, (params, views, text) = action.reference
    # The short side becomes 72 and the long one 103: two rows of four windows of 48, each of 36 tokens and one.
    assert (views.shape, text.shape) == ((8, 48, 48, 3), (5, 1, 32))
    tokens, width = 37, 48
    block = 2 * tokens * width * width * 12 + 2 * 2 * tokens * tokens * width
    last = 2 * tokens * width * width * 3 + 2 * 2 * tokens * tokens * width  # keys, values and output alone
    patches, projected = 2 * 36 * width * 8 * 8 * 3, 2 * 36 * width * 32
    per_view = patches + block + last + projected + 2 * 36 * 32 * 5
    assert flops.count(function, params, views, text).flops == pytest.approx(8 * per_view, rel=0.02)


@pytest.mark.parametrize("work", [training_free.other_words, training_free.refined])
def test_a_known_picture_is_not_encoded_again(settings, work):
    action = work(settings)
    first, other = action.call(0), action.call(1)
    before = compiled.traces.copy()
    np.testing.assert_array_equal(action.call(2), first)
    np.testing.assert_array_equal(action.call(3), other)
    assert not compiled.traces - before


def test_a_large_picture_comes_in_tiles(settings, monkeypatch):
    monkeypatch.setattr(training_free, "LARGE_WINDOW", 48)
    record = training_free.large_picture(complete(Settings(classes=5, image=(530, 61)), "cpu"))
    assert record["tiles"] == 2
    assert 0 < record["planned_bytes"] <= training_free.LARGE_GB * 1e9
