"""Labels that take the boundaries of masks: by hand, every form of masks, files, and what cannot be used."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.annotations import coco, vector
from ahs_seg_jax.segmenter import Segmentation

LABELS = np.array([[0, 0, 1, 1, 2], [0, 1, 1, -1, 2], [0, 0, -1, -1, 2]], np.int32)
LEFT = np.array([[1, 1, 0, 0, 0]] * 3, bool)  # five of six pixels are 0
RIGHT = np.array([[0, 0, 1, 1, 0]] * 3, bool)  # three of six are 1, three are nothing
EXPECTED = np.array([[0, 0, 1, 1, 2]] * 3, np.int32)


def result(labels=LABELS):
    size = labels.shape
    return Segmentation(np.zeros((*size, 3), np.uint8), labels, ("a", "b", "c"), np.ones(size, np.float32))


def test_the_majority_by_hand():
    found = result().snap([LEFT, RIGHT])
    np.testing.assert_array_equal(found.labels, EXPECTED)
    np.testing.assert_array_equal(result().snap([LEFT, RIGHT], least=0.6).labels[:, 2:], LABELS[:, 2:])
    np.testing.assert_array_equal(result().snap([LEFT], least=0.9).labels, LABELS)
    np.testing.assert_array_equal(result().snap([np.zeros((3, 5), bool)]).labels, LABELS)
    np.testing.assert_array_equal(result(np.full((3, 5), -1, np.int32)).snap([LEFT]).labels, -1)
    np.testing.assert_array_equal(result(np.full((3, 5), -1, np.int32)).snap(LEFT.astype(int)).labels, -1)
    assert (result().labels == LABELS).all()  # the result itself is unchanged


def test_where_masks_overlap_the_smaller_one_counts():
    whole, corner = np.ones((3, 5), bool), np.zeros((3, 5), bool)
    corner[:2, 4] = True
    for masks in ([whole, corner], [corner, whole]):
        found = result().snap(masks, least=0.3).labels
        np.testing.assert_array_equal(found, np.where(corner, 2, 0))


def forms():
    numbers = 7 * LEFT.astype(np.int32) + 9 * RIGHT
    annotations = coco.masks(LEFT + 2 * RIGHT.astype(np.int32) - 1)
    return {
        "stack": np.stack([LEFT, RIGHT]),
        "numbers": numbers,
        "sam": [{"segmentation": LEFT, "area": 6}, {"segmentation": RIGHT, "area": 6}],
        "coco": annotations,
        "codes": [entry["segmentation"] for entry in annotations],
    }


@pytest.mark.parametrize("form", forms())
def test_every_form_of_masks(form):
    np.testing.assert_array_equal(result().snap(forms()[form]).labels, EXPECTED)


def test_files(tmp_path):
    np.save(tmp_path / "a.npy", forms()["stack"])
    Image.fromarray(forms()["numbers"].astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(forms()["coco"]))
    (tmp_path / "b.json").write_text(json.dumps({"images": [{}], "annotations": forms()["coco"]}))
    for name in ("a.npy", "a.png", "a.json", "b.json"):
        np.testing.assert_array_equal(result().snap(tmp_path / name).labels, EXPECTED, name)
    Image.new("RGB", (5, 3)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png has pixels of RGB; save one number a pixel"):
        result().snap(tmp_path / "c.png")
    (tmp_path / "c.json").write_text(json.dumps([{"image_id": 1}, {"image_id": 2}]))
    with pytest.raises(ValueError, match="holds masks of 2 images; give those of one image"):
        result().snap(tmp_path / "c.json")
    with pytest.raises(ValueError, match=r"no file of masks that is known; give one of \.png, \.npy, \.json"):
        result().snap("a.shp")


def test_parcels_in_the_coordinates_of_a_map(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = vector.Place((2, 0, 1000, 0, -2, 500), rasterio.crs.CRS.from_epsg(32633))
    parcel = [[[1000, 500], [1004.5, 500], [1004.5, 490], [1000, 490], [1000, 500]]]  # the middles of two columns
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": parcel}}
    content = {"type": "FeatureCollection", "features": [feature]}
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    np.testing.assert_array_equal(result().snap(tmp_path / "a.geojson", place=place).labels[:, :2], EXPECTED[:, :2])
    np.testing.assert_array_equal(result().snap(tmp_path / "a.geojson", place=place).labels[:, 2:], LABELS[:, 2:])
    content["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}
    (tmp_path / "b.geojson").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the image in EPSG:32633; bring it there: ogr2ogr -t_srs EPSG:32633"):
        result().snap(tmp_path / "b.geojson", place=place)


def claiming(shape):
    """A .npy file that holds nothing but what it claims to be."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.json", b"[" * 100_000, "is not JSON"),
        (
            "a.json",
            b'[{"size": [1000000, 1000000], "counts": "0"}]',
            r"a mask has shape \[1000000, 1000000\], the labels",
        ),
        ("a.json", b'[{"size": [3, 5], "counts": "0o"}]', "it is cut off or damaged"),
        ("a.json", b'[{"segmentation": {"counts": [15]}}]', "a mask has shape None"),
        ("a.geojson", b"[1]", "holds no GeoJSON of polygons"),
        ("a.geojson", b'{"features": [{}]}', "holds no GeoJSON of polygons"),
        ("a.npy", claiming((10**6, 10**6)), "mmap length is greater"),
        ("a.png", b"GIF89a", "cannot identify"),
    ],
)
def test_files_of_masks_that_are_damaged(name, content, text, tmp_path):
    pytest.importorskip("rasterio")
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match=text):
        result().snap(tmp_path / name)


def test_what_cannot_be_used_is_explained():
    with pytest.raises(ValueError, match=r"a mask has shape \[5, 3\], the labels \[3, 5\]; both must agree"):
        result().snap([LEFT.T])
    with pytest.raises(ValueError, match=r"a mask has shape \[5, 3\]"):
        result().snap(forms()["numbers"].T)
    with pytest.raises(TypeError, match=r"mask 0 is a list; pass bool arrays \[H, W\], run-length codes"):
        result().snap([[1, 2]])
    with pytest.raises(ValueError, match="least is 0; it is a share of a mask's pixels"):
        result().snap([LEFT], least=0)
