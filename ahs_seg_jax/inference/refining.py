"""The logits of training-free methods, refined by the picture itself at its own size: PAMR, and PEARL's propagation.

Axes: q query, h w a small grid, H W pixels of the image, H' W' padded to a bucket.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from ahs_seg_jax.inference import cosine_labels
from ahs_seg_jax.inference.compiled import Compiled
from ahs_seg_jax.inference.cosine_labels import Picture, Refine
from ahs_seg_jax.inference.in_passes import ViewLogits
from ahs_seg_jax.inference.mosaic import Mosaic, pooled
from ahs_seg_jax.inference.views import bilinear_taps
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.towers.config import ImageTowerConfig
from ahs_seg_jax.models.training_free import pamr, propagation
from ahs_seg_jax.models.training_free.settings import Refine as Kind
from ahs_seg_jax.models.training_free.settings import TrainingFree

AUTO_PIXELS = 4_000_000  # larger images are refined only if it is asked for: PAMR takes 10 passes over 16 neighbours


def refinement(settings: TrainingFree, size: tuple[int, int]) -> Kind:
    """What refines the logits of an image of `size` (H, W): none | pamr | propagation."""
    too_large = settings.refine == "auto" and size[0] * size[1] > AUTO_PIXELS
    return "none" if too_large else settings.refinement


def refined(
    settings: TrainingFree,
    tower: ImageTowerConfig,
    logits: ViewLogits,
    mosaic: Mosaic,
    see: Callable[[], np.ndarray],
    text: np.ndarray,
) -> Picture:
    """The picture of an image's logits, for text `[q, p, e]`. `see` gives the uint8 `[h, w, 3]` that its views saw."""
    kind = refinement(settings, mosaic.size)
    if kind == "pamr":
        margin = pamr.reach(settings.pamr_steps, settings.pamr_dilations)
        return Picture(logits, mosaic, Pamr(settings, tower, see(), mosaic.size), margin)
    if kind == "propagation":
        return _propagated(settings, tower, Picture(logits, mosaic), see(), text)
    return Picture(logits, mosaic)


@dataclasses.dataclass(frozen=True, eq=False)
class Pamr:
    """PAMR by an image: a `cosine_labels.Refiner`."""

    settings: TrainingFree
    tower: ImageTowerConfig
    seen: np.ndarray  # uint8 [h, w, 3]
    size: tuple[int, int]

    def __call__(self, rows: slice, columns: slice, padded: tuple[int, int]) -> Refine:
        """What refines the logits of this rectangle of the image, padded to a size."""
        dilations, margin = self.settings.pamr_dilations, max(self.settings.pamr_dilations)
        taps, index = [], []
        for part, extent, before, after in zip((rows, columns), padded, self.seen.shape, self.size, strict=False):
            taps.append(
                tuple(np.pad(tap[part], (0, extent - (part.stop - part.start))) for tap in bilinear_taps(before, after))
            )
            index.append(pamr.extended_index(part.stop - part.start, extent, margin))
        shares = _shares(_standardised(self.seen, self.tower), *taps, *index, dilations=dilations)
        steps = self.settings.pamr_steps
        return lambda logits: _pamr(logits, shares, *index, steps=steps, dilations=dilations)


def _standardised(image: np.ndarray, tower: ImageTowerConfig) -> np.ndarray:
    """Float32 `[3, h, w]` of uint8 `[h, w, 3]`, as the tower takes it."""
    mean, std = (np.asarray(values, np.float32) for values in (tower.pixel_mean, tower.pixel_std))
    return np.ascontiguousarray(((image.astype(np.float32) - mean) / std).transpose(2, 0, 1))


def _weights_of_region(
    image: jax.Array,
    row_taps: resize.Taps,
    column_taps: resize.Taps,
    rows: jax.Array,
    columns: jax.Array,
    *,
    dilations: tuple[int, ...],
) -> jax.Array:
    return pamr.weights(resize.interpolated(image, row_taps, column_taps), rows, columns, dilations)


def _propagated(
    settings: TrainingFree, tower: ImageTowerConfig, picture: Picture, seen: np.ndarray, text: np.ndarray
) -> Picture:
    """The picture whose only view is the small grid on which the logits were propagated.

    The pooling comes before the resize to the image's size is carried out: together they are one small matrix.
    """
    size = picture.mosaic.size
    sides = [propagation.pooling(extent, settings.pearl_grid) for extent in size]
    means = [pooled(extent, side) for extent, side in zip(size, sides, strict=True)]
    small = dataclasses.replace(picture, mosaic=picture.mosaic.before(*means))
    logits = cosine_labels.every_map(small)
    to_size = (
        mean @ resize.bilinear_matrix(before, after)
        for mean, before, after in zip(means, seen.shape[:2], size, strict=True)
    )
    image = np.einsum("chw,Hh,Ww->cHW", _standardised(seen, tower), *to_size, optimize=True)
    count, extra = picture.queries, len(logits) - picture.queries
    rows = np.pad(text.mean(1), ((0, extra), (0, 0)))
    values = _propagate(logits, image, rows, np.arange(len(logits)) < count)[None]
    back = (resize.bilinear_matrix(len(mean), extent)[:, None] for mean, extent in zip(means, size, strict=True))
    places = np.arange(count, dtype=np.int32)[None]
    return Picture(ViewLogits(values, np.zeros(1, np.int32), places), Mosaic(*back))


_shares = Compiled(_weights_of_region, "pamr_weights", static=("dilations",))
_pamr = Compiled(pamr.refined, "pamr", static=("steps", "dilations"), donate=("logits",))
_propagate = Compiled(propagation.propagated, "propagate")
