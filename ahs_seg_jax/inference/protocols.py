"""Protocols: which views of an image the model sees, and how the logits of these views become one map of probabilities.

Axes: v view, t class, s side of a view, g side of the logits (4 h), n side of the blended map.

A protocol is a value. Another resize, window or blending rule is another value (or class) here, and one more name in
`PROTOCOLS`; nothing else asks which protocol it is.
"""

import abc
import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ahs_seg_jax.inference.views import bilinear_taps, check_image, shortest_edge_size, squash
from ahs_seg_jax.models.ops import resize


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """What an image becomes for the model."""

    name: str

    @abc.abstractmethod
    def views(self, image: np.ndarray, crop: int) -> np.ndarray:
        """Views float32 `[v, s, s, 3]`, RGB 0..255, of an image uint8 `[H, W, 3]`; `crop` is the model's own side.

        Raises ValueError or TypeError for an image of another type or shape.
        """

    @abc.abstractmethod
    def views_shape(self, crop: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Shape (v, s, s, 3) of what `views` returns for an image of `size` (H, W)."""


@dataclasses.dataclass(frozen=True)
class Blended(Protocol):
    """The same views of every image, and what a trained model's logits of them become for the image."""

    @abc.abstractmethod
    def views_shape(self, crop: int, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """See `Protocol`; the size makes no difference."""

    @abc.abstractmethod
    def blended_side(self, side: int) -> int:
        """Side n of what `blend` returns for logits of side `side`."""

    @abc.abstractmethod
    def blend(self, logits: jax.Array) -> jax.Array:
        """Probabilities `[t, n, n]` of the views' logits `[v, t, g, g]`, over the whole image."""


@dataclasses.dataclass(frozen=True)
class WholeImage(Blended):
    """One view: the image squashed to the crop; the sigmoid of its logits."""

    name: str = "whole"

    def views(self, image: np.ndarray, crop: int) -> np.ndarray:
        """See `Protocol`."""
        check_image(image)
        return squash(image, crop)[None]

    def views_shape(self, crop: int, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """See `Protocol`."""
        return 1, crop, crop, 3

    def blended_side(self, side: int) -> int:
        """See `Protocol`."""
        return side

    def blend(self, logits: jax.Array) -> jax.Array:
        """See `Protocol`."""
        return jax.nn.sigmoid(logits[0])


@dataclasses.dataclass(frozen=True)
class SlidingWindows(Blended):
    """Windows over the squashed image, row by row, and one view of the whole image.

    Logits are resized to the window, and their sigmoid is averaged where windows overlap; the result is the mean with
    the view of the whole image. Sizes are in pixels; the defaults are CAT-Seg's, with which its scores are published.
    """

    name: str = "cat_seg"
    shortest: int = 640  # the image's shortest edge after the first resize
    longest: int = 2560  # bound of its longest edge
    size: int = 640  # side of the square it is squashed to
    window: int = 384
    stride: int = 256

    def __post_init__(self) -> None:
        if self.window > self.size or (self.size - self.window) % self.stride:
            raise ValueError(
                f"windows of {self.window} at stride {self.stride} do not cover {self.size} pixels exactly; "
                "size - window must be a multiple of stride, 0 included"
            )

    @property
    def starts(self) -> range:
        """Where windows begin along each axis."""
        return range(0, self.size - self.window + 1, self.stride)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corner (y, x) of every window, row by row."""
        return [(y, x) for y in self.starts for x in self.starts]

    def views(self, image: np.ndarray, crop: int) -> np.ndarray:
        """See `Protocol`; the windows are of the protocol's own side whatever the crop."""
        check_image(image)
        height, width = shortest_edge_size(image.shape[0], image.shape[1], self.shortest, self.longest)
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        squashed, side = squash(resized, self.size), self.window
        return np.stack([*(squashed[y : y + side, x : x + side] for y, x in self.corners), squash(resized, side)])

    def views_shape(self, crop: int, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """See `Protocol`."""
        return len(self.corners) + 1, self.window, self.window, 3

    def blended_side(self, side: int) -> int:
        """See `Protocol`."""
        return self.size

    def blend(self, logits: jax.Array) -> jax.Array:
        """See `Protocol`."""
        across = len(self.starts)
        # Columns stand before rows from here to the sum, so that no step gathers across rows.
        probabilities = jax.nn.sigmoid(_resized_turned(logits, self.window))
        rows = [self._overlapped(list(probabilities[i * across : (i + 1) * across]), -2) for i in range(across)]
        whole = _resized_turned(probabilities[-1], self.size)
        return (jnp.swapaxes(self._overlapped(rows, -1), -1, -2) + whole) / 2

    def _overlapped(self, parts: Sequence[jax.Array], axis: int) -> jax.Array:
        """Joins neighbouring windows along an axis into one array, their mean where they overlap."""
        edges = sorted({edge for start in self.starts for edge in (start, start + self.window)})
        pieces = []
        for low, high in itertools.pairwise(edges):
            covering = [
                jax.lax.slice_in_dim(part, low - start, high - start, axis=axis)
                for part, start in zip(parts, self.starts, strict=True)
                if start <= low and high <= start + self.window
            ]
            pieces.append(functools.reduce(operator.add, covering) / len(covering))
        return jnp.concatenate(pieces, axis)


def _resized_turned(x: jax.Array, side: int) -> jax.Array:
    """`[..., h, w]` -> bilinear to `side`, columns before rows."""
    return resize.turned(x, bilinear_taps(x.shape[-2], side), bilinear_taps(x.shape[-1], side))


WHOLE = WholeImage()
CAT_SEG = SlidingWindows()
PROTOCOLS: dict[str, Blended] = {protocol.name: protocol for protocol in (WHOLE, CAT_SEG)}


def find_protocol(protocol: str | Protocol) -> Blended:
    """The protocol of a name, or the value itself. Raises ValueError for an unknown name, or one of another model."""
    if isinstance(protocol, Blended):
        return protocol
    if isinstance(protocol, Protocol):
        raise ValueError(
            f"the protocol {protocol.name!r} is for training-free methods; a trained aggregator takes one of "
            f"{', '.join(PROTOCOLS)}"
        )
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
