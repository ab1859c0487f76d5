"""Features of the last images, by their content."""

import collections
import hashlib
from collections.abc import Mapping

import jax
import numpy as np

from ahs_seg_jax.inference.in_passes import Features
from ahs_seg_jax.inference.protocols import Protocol

CACHED_FEATURES = 256 * 2**20  # bytes of image features that are kept
CACHED_IMAGES = 256  # whose features are kept at most: nobody comes back to more, and a small model's are small


class FeatureCache:
    """Features of images by `content_key`, on the device. Those used longest ago are forgotten first."""

    def __init__(self, limit_bytes: int = CACHED_FEATURES, limit_images: int = CACHED_IMAGES):
        self._limit_bytes, self._limit_images, self._bytes = limit_bytes, limit_images, 0
        self._kept: collections.OrderedDict[bytes, Features] = collections.OrderedDict()

    def get(self, key: bytes) -> Features | None:
        """The features under `key`, or None."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, features: Features) -> None:
        """Keeps features, and forgets the ones used longest ago that exceed a limit."""
        self._bytes += _size(features) - _size(self._kept.pop(key, {}))
        self._kept[key] = features
        while len(self._kept) > 1 and (self._bytes > self._limit_bytes or len(self._kept) > self._limit_images):
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def content_key(image: np.ndarray, protocol: Protocol) -> bytes:
    """Hash of an image's pixels and size, and of the protocol that makes views of it."""
    digest = hashlib.sha256(f"{protocol} {image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _size(features: Mapping[str, jax.Array]) -> int:
    return sum(value.nbytes for value in features.values())
