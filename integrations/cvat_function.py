"""CVAT: an auto-annotation function of its SDK, which proposes a mask (or polygons) for each name in each image.

    pip install cvat-cli
    cvat-cli --server-host https://cvat.example.org task auto-annotate 137 \\
        --function-file integrations/cvat_function.py -p classes=str:"cat; sofa, couch" -p model=str:runs/vitb \\
        --allow-unmatched-labels --conf-threshold 0.3

The task's labels must have the same names: of `sofa, couch` the first synonym, `sofa`. Pixels whose probability is
below `--conf-threshold` get no name. `--conv-mask-to-poly` asks for polygons. CVAT's polygons have no holes: each is
drawn over the larger ones, so that what lies in a hole is seen.
"""

from collections.abc import Iterator

import cvat_sdk.auto_annotation as cvataa
import numpy as np
import PIL.Image
from cvat_sdk.masks import encode_mask

from ahs_seg_jax.cli.options import split_names
from ahs_seg_jax.segmenter import Segmentation, Segmenter
from ahs_seg_jax.vocabulary import first_synonym


def create(classes: str, model: str = "tiny") -> "Function":
    """What `cvat-cli --function-file` calls with the values of `-p`."""
    return Function(Segmenter.from_pretrained(model), split_names(classes))


class Function:
    """A detection function of CVAT's SDK; label k is name k - 1."""

    def __init__(self, segmenter: Segmenter, names: tuple[str, ...]):
        self._segmenter = segmenter.set_vocabulary(names)
        labels = [cvataa.label_spec(first_synonym(name), number, type="mask") for number, name in enumerate(names, 1)]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image
    ) -> list[cvataa.DetectionAnnotation]:
        """The shapes of one image."""
        # CVAT annotates the pixels as they are stored; its own frames are turned upright already.
        result = self._segmenter(np.asarray(image.convert("RGB")), unknown=context.conf_threshold or "none")
        if context.conv_mask_to_poly:
            return list(_polygons(result))
        return [
            cvataa.mask(result.index(name) + 1, encode_mask(result.mask(name)))
            for name in result.areas
            if name in result.names
        ]


def _polygons(result: Segmentation) -> Iterator[cvataa.DetectionAnnotation]:
    """The outlines, the largest first, each over those before it."""
    outlines = []
    for name in result.areas:
        if name in result.names:
            for polygon in result.polygons(name):
                ring = np.array(polygon["coordinates"][0])[:-1]
                outlines.append((_area(ring), result.index(name) + 1, ring))
    for order, (_, number, ring) in enumerate(sorted(outlines, key=lambda outline: -outline[0])):
        yield cvataa.polygon(number, ring.ravel().tolist(), z_order=order)


def _area(ring: np.ndarray) -> float:
    """Of a ring of corners (x, y), in pixels."""
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
