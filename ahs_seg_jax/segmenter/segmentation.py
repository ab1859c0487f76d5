"""`Segmentation`: the labels of one image and what people make of them: masks, areas, pictures, files."""

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ahs_seg_jax.annotations import coco, polygons, vector
from ahs_seg_jax.pictures import label_files, legends, overlays
from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter import snapping
from ahs_seg_jax.vocabulary import IGNORE, first_synonym, plain_name

SHOWN_CLASSES = 4  # in one line
UNKNOWN = "unknown"  # what pictures and summaries call pixels that none of the words fits


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one image. Labels are indices into `names`, -1 where none of the names fits (see `unknown=`)."""

    image: np.ndarray  # uint8 [H, W, 3]
    labels: np.ndarray  # int32 [H, W]
    names: tuple[str, ...]
    confidence: np.ndarray  # float32 [H, W], 0..1: the probability of the most probable name
    probabilities: np.ndarray | None = None  # float32 [t, H, W], 0..1, if they were asked for; they do not sum to 1
    source: str | None = None  # the file, if the image came from one

    def __repr__(self) -> str:
        return f"<Segmentation of {self.source or 'an image'}: {described(self.summary())}>"

    @functools.cached_property
    def colors(self) -> np.ndarray:
        """`uint8 [t, 3]`, by name."""
        return assign_colors(self.names)

    @property
    def areas(self) -> dict[str, int]:
        """Name -> pixels, the largest first; names that do not occur are left out. `UNKNOWN` if any pixel is."""
        return named_areas(count_labels(self.labels, len(self.names)), self.names)

    def index(self, name: str) -> int:
        """The index of a name, or of the name whose first synonym it is. Raises KeyError that lists near names."""
        for names in (self.names, tuple(map(first_synonym, self.names))):
            for form in (name, plain_name(name)):
                if form in names:
                    return names.index(form)
        near = difflib.get_close_matches(name, self.names, n=3) or list(self.names[:8])
        raise KeyError(f"{name!r} is not among the {len(self.names)} names of this result; it has {', '.join(near)}")

    def mask(self, name: str) -> np.ndarray:
        """Bool `[H, W]`: where the image shows `name`."""
        return self.labels == self.index(name)

    def snap(self, masks: snapping.MasksLike, least: float = 0.5, place: vector.Place | None = None) -> "Segmentation":
        """This result with the masks' boundaries: inside each mask the name that most of its pixels have.

        `masks`: bool `[n, H, W]` or a list of bool `[H, W]`; int `[H, W]`, each pixel's mask (superpixels; 0 = none);
        SAM's list of dictionaries; run-length codes of COCO; or a file with one of these (.npy, .png, .json) or with
        polygons (.geojson, in the coordinates of `place`, by default in pixels). A name must have the share `least` of
        a mask's pixels, else the mask is left as it is. Where masks overlap, the smaller one counts. The confidence is
        still that of the pixels' own names. Raises ValueError or TypeError for masks that cannot be used.
        """
        return dataclasses.replace(self, labels=snapping.snapped(self.labels, masks, least, place))

    def overlay(self, alpha: float = 0.6, legend: bool = True) -> Image.Image:
        """The labels in colour over the image, `alpha` in 0..1 the colours' share; the legend stands to the right."""
        picture = overlays.overlay(self.image, self.labels, self.colors, alpha)
        return Image.fromarray(
            legends.with_legend(picture, self.labels, self.names, self.colors) if legend else picture
        )

    def heat_map(self, name: str, alpha: float = 0.7) -> Image.Image:
        """The probability of one name in colour over the image, with its scale. Needs `probabilities=True`."""
        if self.probabilities is None:
            raise ValueError("this result has no probabilities; call the segmenter with probabilities=True")
        return Image.fromarray(legends.heat_map(self.image, self.probabilities[self.index(name)], name, alpha))

    def compare(self, other: "Segmentation", titles: tuple[str, str] = ("first", "second")) -> Image.Image:
        """Both results of one image side by side, each with its legend, and where they differ in their words."""
        return Image.fromarray(
            legends.comparison(
                self.image,
                [(title, r.labels, r.names, r.colors) for title, r in zip(titles, (self, other), strict=True)],
            )
        )

    def summary(self) -> dict[str, Any]:
        """What `ahs-seg segment` writes about an image: JSON values."""
        return summary(self.source, self.labels.shape, float(self.confidence.mean()), self.areas)

    def save_png(self, path: str | os.PathLike[str], first_index: int = 0) -> pathlib.Path:
        """Writes the indices as a PNG; `read_png` reads it back.

        Up to 254 names: 8 bits with a palette of the classes' colours, 255 = unknown. More: 16 bits, 65535 = unknown.
        The names stand in its metadata. Both are what `configs/folder.py` trains on. With another `first_index` the
        classes' numbers begin there, and 0 = unknown. Raises OSError if it cannot be written.
        """
        label_files.write_png(
            path, self.labels, len(self.names), names=self.names, colors=self.colors, first_index=first_index
        )
        return pathlib.Path(path)

    def to_coco(self, image_id: int = 1, *, first_id: int = 1, objects: bool = False) -> list[dict[str, Any]]:
        """COCO annotations with compressed RLE, one for each class present, or for each of its connected `objects`.

        `category_id` is the index of the name + 1, as `annotations.coco.categories` counts them; ids count from
        `first_id`; `score` is the mean confidence.
        """
        found = coco.masks(self.labels, self.confidence, image_id=image_id, first_id=first_id, objects=objects)
        return [{**entry, "category_name": self.names[entry["category_id"] - 1]} for entry in found]

    def polygons(self, name: str) -> list[dict[str, Any]]:
        """GeoJSON polygons of a class in pixels (x, y), along the pixels' edges, holes included; exact.

        Raises ImportError, which says what to install, without rasterio.
        """
        only = np.where(self.mask(name), self.labels, np.int32(IGNORE))
        rings = (polygon.rings for polygon in polygons.polygons(only))
        return [{"type": "Polygon", "coordinates": [ring.tolist() for ring in several]} for several in rings]


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 `[classes + 1]`: pixels without a name, then those of each name."""
    return np.bincount(labels.ravel() - IGNORE, minlength=classes + 1)


def named_areas(counts: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Name -> pixels of what `count_labels` counted, as `Segmentation.areas` has it."""
    named = dict(zip((UNKNOWN, *names), counts.tolist(), strict=True)) if counts[0] else {}
    named = named or dict(zip(names, counts[1:].tolist(), strict=True))
    return {name: pixels for name, pixels in sorted(named.items(), key=lambda item: -item[1]) if pixels}


def summary(source: str | None, size: tuple[int, int], mean_confidence: float, areas: dict[str, int]) -> dict[str, Any]:
    """What `ahs-seg segment` writes about an image of `size` (h, w): JSON values."""
    height, width = size
    shares = {name: {"pixels": count, "share": round(count / (height * width), 6)} for name, count in areas.items()}
    return {
        "image": source,
        "height": height,
        "width": width,
        "mean_confidence": round(mean_confidence, 4),
        "classes": shares,
    }


def described(summary: dict[str, Any]) -> str:
    """A summary in one line: size, and the shares of the largest classes."""
    shares = [f"{name} {100 * found['share']:.0f} %" for name, found in summary["classes"].items()]
    more = f", and {len(shares) - SHOWN_CLASSES} more" if len(shares) > SHOWN_CLASSES else ""
    return f"{summary['width']} x {summary['height']}, {', '.join(shares[:SHOWN_CLASSES])}{more}"


def calibrate_unknown(results: Sequence[Segmentation], truths: Sequence[np.ndarray], kept: float = 0.95) -> float:
    """The threshold for `unknown=` that leaves the share `kept` of the correctly labelled pixels as they are.

    `truths` are int `[H, W]` in the indices of the results' names, -1 = no label. Use images of your own kind: how
    sure a model is differs from one kind of image to another. Raises ValueError if no pixel is labelled correctly.
    """
    if not 0 < kept < 1:
        raise ValueError(f"kept is {kept}; it must lie strictly between 0 and 1")
    right = [r.confidence[(r.labels == truth) & (truth != IGNORE)] for r, truth in zip(results, truths, strict=True)]
    values = np.concatenate([np.zeros(0, np.float32), *right])
    if not values.size:
        raise ValueError("no pixel of these results is labelled correctly; check that the truths use the same indices")
    return float(np.quantile(values, 1 - kept))
