"""Last blocks where a value can be told by hand; the published numbers are checked in tests/inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.training_free import TrainingFree, sc_clip
from ahs_seg_jax.models.training_free.last_blocks import neighbourhood
from ahs_seg_jax.models.training_free.model import TrainingFreeCLIP
from tests.support.training_free import SMALL, small_clip


def dense(settings: TrainingFree, images: np.ndarray, dtype: str = "float32") -> np.ndarray:
    model = TrainingFreeCLIP(SMALL.replace(dtype=dtype), settings)
    encode = jax.jit(lambda params, views: model.apply({"params": params}, views, method="encode_image")["dense"])
    return np.asarray(encode(small_clip(), images))


def test_the_neighbourhood_by_hand():
    found = neighbourhood((2, 3), 5.0)
    assert found.shape == (7, 7)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_allclose(found[1, 1:], np.exp(-np.array([0, 1, 4, 1, 2, 5]) / 50), rtol=1e-6)


def test_positions_step_by_a_tenth_less_except_at_the_pretrained_size():
    step = 6 / 7.1
    matrix = resize.bicubic_matrix(6, 7, step)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert np.abs(matrix - resize.bicubic_matrix(6, 7)).max() > 0.01
    np.testing.assert_array_equal(resize.bicubic_matrix(6, 7, 6 / 7), resize.bicubic_matrix(6, 7))


def test_what_is_left_of_a_patch_is_not_seen():
    views = np.random.default_rng(0).integers(0, 256, (2, 29, 43, 3)).astype(np.float32)
    found = dense(TrainingFree(), views)
    assert found.shape == (2, 3, 5, 32)
    views[:, 24:], views[:, :, 40:] = 0, 255
    np.testing.assert_array_equal(dense(TrainingFree(), views), found)


@pytest.mark.parametrize("method", ["naclip", "sc_clip", "pearl"])
def test_views_do_not_see_each_other(method):
    views = np.random.default_rng(1).integers(0, 256, (3, 48, 56, 3)).astype(np.float32)
    settings = TrainingFree(method, sc_clip_blocks=(0, 0, 0, 1))
    together = dense(settings, views)
    alone = dense(settings, views[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4 * np.abs(alone).max())


def test_an_outlier_is_found_and_takes_its_neighbours_mean():
    rng = np.random.default_rng(2)
    tokens = rng.normal(size=(42, 5)).astype(np.float32)
    tokens[17] += 50
    wrong = np.asarray(sc_clip.outliers(jnp.asarray(tokens)))
    assert wrong[17]
    assert 1 <= wrong.sum() <= 3  # 5 % of 42, by linear interpolation
    repaired = np.asarray(sc_clip.repaired(jnp.asarray(tokens), jnp.arange(42) == 17, (6, 7)))
    around = [9, 10, 11, 16, 18, 23, 24, 25]  # 17 is row 2, column 3 of 7
    np.testing.assert_allclose(repaired[17], tokens[around].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(np.delete(repaired, 17, 0), np.delete(tokens, 17, 0))
    everything_wrong = sc_clip.repaired(jnp.asarray(tokens), jnp.ones(42, bool), (6, 7))
    np.testing.assert_array_equal(everything_wrong, tokens)


def test_bfloat16_runs():
    views = np.random.default_rng(3).integers(0, 256, (1, 48, 48, 3)).astype(np.float32)
    wide, narrow = (dense(TrainingFree(), views, dtype) for dtype in ("float32", "bfloat16"))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), wide, atol=0.1 * np.abs(wide).max())
