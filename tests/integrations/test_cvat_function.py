"""The CVAT function, checked by the SDK's own rules for what a function returns."""

import logging

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cvat_sdk")

import cvat_sdk.auto_annotation.driver as driver
import cvat_sdk.models as models
from cvat_sdk.masks import decode_mask

from integrations import cvat_function
from tests.support.halves import HalvesSegmenter


def remapped(function, image, **context):
    """What the SDK would send to a task whose labels have the ids 101, 102 and 103."""
    polygons = context.get("conv_mask_to_poly", False)
    kind = "polygon" if polygons else "mask"
    labels = [
        models.Label(id=100 + n, name=name, type=kind, attributes=[], sublabels=[])
        for n, name in enumerate(("grass", "red toy", "sand"), 1)
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger(), function.spec.labels, labels, allow_unmatched_labels=False, conv_mask_to_poly=polygons
    )
    found = function.detect(driver._DetectionFunctionContextImpl(frame_name="a.png", **context), image)
    tags, shapes = mapper.validate_and_remap(found, 7)
    assert not tags
    assert {shape.frame for shape in shapes} <= {7}
    return shapes


@pytest.fixture
def function():
    return cvat_function.Function(HalvesSegmenter(), ("grass", "red toy, ball", "sand"))


@pytest.fixture
def image():
    return Image.new("RGB", (6, 4))


def labels_of(shapes):
    labels = np.full((4, 6), -1)
    for shape in shapes:
        mask = decode_mask(shape.points, image_width=6, image_height=4)
        assert (labels[mask] == -1).all()
        labels[mask] = shape.label_id - 101
    return labels


def test_masks(function, image):
    np.testing.assert_array_equal(labels_of(remapped(function, image)), [[0, 0, 0, 2, 2, 2]] * 4)
    found = labels_of(remapped(function, image, conf_threshold=0.5))
    np.testing.assert_array_equal(found, [[-1, -1, -1, 2, 2, 2]] * 4)


def test_polygons_are_drawn_over_larger_ones(function):
    pytest.importorskip("rasterio")
    shapes = remapped(function, Image.new("RGB", (7, 4)), conv_mask_to_poly=True)
    assert [(shape.label_id, shape.z_order) for shape in shapes] == [(103, 0), (101, 1)]  # 16 pixels, then 12
    corners = [set(zip(shape.points[::2], shape.points[1::2], strict=True)) for shape in shapes]
    assert corners == [{(3, 0), (7, 0), (7, 4), (3, 4)}, {(0, 0), (3, 0), (3, 4), (0, 4)}]


def test_an_outline_has_an_area():
    assert cvat_function._area(np.array([[0, 0], [4, 0], [4, 3], [0, 3]])) == 12
