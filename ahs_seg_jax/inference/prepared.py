"""An image with all that needs no device: its views, and the key under which its features are kept."""

import functools

import numpy as np

from ahs_seg_jax.inference.feature_cache import content_key
from ahs_seg_jax.inference.protocols import Protocol


class Prepared:
    """An image uint8 `[H, W, 3]` for a protocol.

    Key and views are made when they are asked for; `prepare` makes both, in whatever thread has time for it.
    """

    def __init__(self, image: np.ndarray, protocol: Protocol, side: int) -> None:
        """`side` is that of the model's own square, in pixels."""
        self.image, self.protocol = image, protocol
        self._side = side
        self._views: np.ndarray | None = None

    @functools.cached_property
    def key(self) -> bytes:
        """Hash of the image's content and of the protocol."""
        return content_key(self.image, self.protocol)

    def prepare(self) -> "Prepared":
        """This image, with what it needs. Raises ValueError or TypeError for an image that has no views."""
        _ = self.key
        self._views = self.protocol.views(self.image, self._side)
        return self

    def take_views(self) -> np.ndarray:
        """Views float32 `[v, s, s, 3]`; they are not kept, since the model needs them once."""
        views, self._views = self._views, None
        return self.protocol.views(self.image, self._side) if views is None else views
