"""Features that are kept, by content and size."""

import numpy as np

from ahs_seg_jax.inference import (
    CAT_SEG,
    WHOLE,
    feature_cache,
)
from tests.support.images import photo


def test_features_are_forgotten_by_size():
    cache = feature_cache.FeatureCache(limit_bytes=100)
    for key in (b"a", b"b", b"c"):
        cache.put(key, {"dense": np.zeros(10, np.float32)})
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [False, True, True]
    cache.put(b"large", {"dense": np.zeros(1000, np.float32)})
    assert cache.get(b"large") is not None
    for _ in range(3):  # the same again counts once
        cache.put(b"small", {"dense": np.zeros(20, np.float32)})
    assert cache.get(b"large") is None
    cache.put(b"other", {"dense": np.zeros(5, np.float32)})
    assert [cache.get(key) is not None for key in (b"small", b"other")] == [True, True], "100 bytes"


def test_features_are_forgotten_by_number():
    cache = feature_cache.FeatureCache(limit_images=3)
    for key in range(5):
        cache.put(bytes([key]), {"dense": np.zeros(1, np.float32)})
        assert cache.get(b"\0") is not None, "it is asked for all the time"
    assert [cache.get(bytes([key])) is not None for key in range(5)] == [True, False, False, True, True]


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
