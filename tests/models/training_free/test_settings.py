"""Settings of training-free methods: defaults by method and tower, and what is refused."""

import pytest

from ahs_seg_jax.models.training_free import METHODS, TrainingFree
from ahs_seg_jax.models.training_free.last_blocks import LAST_BLOCKS


def test_every_method_has_a_last_block():
    assert list(LAST_BLOCKS) == list(METHODS)


def test_defaults_are_the_published_ones():
    assert TrainingFree() == TrainingFree("naclip", gaussian_std=5.0, logit_scale=40.0)
    assert TrainingFree().refinement == "pamr"
    assert TrainingFree("clearclip").logit_scale == 50.0
    assert TrainingFree("pearl").refinement == "propagation"
    assert TrainingFree("sclip", refine="pamr").refinement == "pamr"


def test_sizes_follow_the_tower():
    assert TrainingFree().sizes(224) == (336, 224, 112)
    assert TrainingFree().sizes(336) == (504, 336, 168)
    assert TrainingFree(window=100).sizes(224) == (336, 100, 50)
    assert TrainingFree(short_side=560, window=224, stride=224).sizes(336) == (560, 224, 224)
    assert TrainingFree(window=0).sizes(224)[1] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": "dino"}, "unknown training-free method 'dino'; choose one of maskclip, maskclip_residual, clip"),
        ({"refine": "crf"}, "refine is 'crf'; choose one of auto, none, pamr, propagation"),
        ({"gaussian_std": 0.0}, r"gaussian_std is 0\.0; it must be positive"),
        ({"logit_scale": float("nan")}, "logit_scale is nan; it must be positive"),
        ({"short_side": 0}, "short_side is 0; it must be at least 1"),
        ({"pamr_dilations": ()}, r"pamr_dilations is \(\); give one or more distances"),
        ({"window": 20, "stride": 21}, "the stride is 21; it must lie within 1 and the window's 20 pixels"),
    ],
)
def test_what_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        TrainingFree(**changes)


def test_sc_clip_has_constants_for_12_blocks_only():
    assert TrainingFree("naclip").taps(24) == ()
    assert TrainingFree("sc_clip").taps(12) == (3, 4, 5, 6, 7, 8, 9)
    with pytest.raises(ValueError, match="published constants for towers of 12 blocks, and this one has 24"):
        TrainingFree("sc_clip").taps(24)
    own = TrainingFree("sc_clip", sc_clip_blocks=(16, 6, 6, 20))
    assert own.taps(24) == (*range(6, 20),)
    with pytest.raises(ValueError, match=r"sc_clip_blocks is \(16, 6, 6, 20\); blocks before the last one of 12"):
        own.taps(12)
