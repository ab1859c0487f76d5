"""TIFF in by windows and GeoTIFF out: georeferencing, names, colours, no data, kinds of pixels, and what is refused."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.pictures.colors import assign_colors
from ahs_seg_jax.segmenter import Segmentation, geotiff, tiff_reading
from tests.support.images import photo

rasterio = pytest.importorskip("rasterio")

from tests.support.tiffs import PLACE, write

NAMES = ("water", "sand, beach", "крыша")


def result(names=NAMES, size=(37, 53)):
    labels = np.random.default_rng(0).integers(-1, len(names), size).astype(np.int32)
    return Segmentation(np.zeros((*size, 3), np.uint8), labels, names, np.ones(size, np.float32))


def test_labels_and_georeferencing_round_trip(tmp_path):
    source = write(tmp_path / "a.tif", photo(37, 53), crs="EPSG:32633", transform=PLACE, photometric="RGB")
    geotiff.save_geotiff(result(), tmp_path / "labels.tif", source)
    labels, names = geotiff.read_geotiff(tmp_path / "labels.tif")
    np.testing.assert_array_equal(labels, result().labels)
    assert names == NAMES
    with rasterio.open(tmp_path / "labels.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, PLACE)
        assert (file.nodata, file.dtypes) == (255, ("uint8",))
        found = [file.colormap(1)[index][:3] for index in range(3)]
    np.testing.assert_array_equal(found, assign_colors(NAMES))
    found = ElementTree.parse(tmp_path / "labels.tif.aux.xml").findall("PAMRasterBand/CategoryNames/Category")
    assert tuple(category.text for category in found) == NAMES


def test_ground_control_points_are_kept(tmp_path):
    points = [rasterio.control.GroundControlPoint(row, col, col / 7, row / 3) for row, col in ((0, 0), (0, 9), (9, 0))]
    source = write(tmp_path / "a.tif", photo(37, 53), gcps=points, crs="EPSG:4326")
    geotiff.save_geotiff(result(), tmp_path / "labels.tif", source)
    with rasterio.open(tmp_path / "labels.tif") as file:
        found, crs = file.gcps
    assert [(point.row, point.col, point.x, point.y) for point in found] == [
        (point.row, point.col, point.x, point.y) for point in points
    ]
    assert crs.to_epsg() == 4326


def test_many_names_take_sixteen_bits_and_no_reference_is_fine(tmp_path):
    source = write(tmp_path / "a.tif", photo(37, 53))
    names = tuple(f"thing {index}" for index in range(300))
    geotiff.save_geotiff(result(names), tmp_path / "labels.tif", source)
    labels, found = geotiff.read_geotiff(tmp_path / "labels.tif")
    np.testing.assert_array_equal(labels, result(names).labels)
    assert found == names


@pytest.mark.parametrize("kind", ["rgb", "grey", "palette", "rgba", "sixteen bits", "blue first"])
def test_windows_of_every_kind_of_pixels(tmp_path, kind):
    path, rgb = tmp_path / "a.tif", photo(37, 53)
    expected = rgb
    if kind == "grey":
        expected = np.repeat(rgb[..., :1], 3, 2)
        write(path, rgb[..., :1])
    elif kind == "palette":
        image = Image.fromarray(rgb).quantize(64)
        image.save(path)
        expected = np.asarray(image.convert("RGB"))
    elif kind == "rgba":
        write(path, np.dstack([rgb, 255 * (rgb[..., 0] > 99).astype(np.uint8)]), photometric="RGB", alpha="YES")
    elif kind == "sixteen bits":
        write(path, (rgb.astype(np.uint16) << 8) + 77, photometric="RGB")
    elif kind == "blue first":
        meanings = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
        write(path, rgb[..., ::-1], meanings, photometric="MINISBLACK")
    else:
        write(path, rgb, tiled=True, blockxsize=16, blockysize=16)
    with tiff_reading.open_tiff(path) as raster:
        assert raster.size == (37, 53)
        np.testing.assert_array_equal(raster.read(5, 11, 13, 17), expected[5:18, 11:28])


def test_pixels_without_data(tmp_path):
    image = photo(37, 53) | 1
    image[3:9, 5:7] = 0
    with tiff_reading.open_tiff(write(tmp_path / "a.tif", image, nodata=0)) as raster:
        np.testing.assert_array_equal(raster.has_data(2, 3, 11, 13), (image[2:13, 3:16] > 0).all(2))


def test_what_cannot_be_used_is_explained(tmp_path, monkeypatch):
    floats = write(tmp_path / "floats.tif", photo(5, 7).astype(np.float32))
    with (
        tiff_reading.open_tiff(floats) as raster,
        pytest.raises(
            ValueError, match=r"floats\.tif has values .* real numbers, which are taken as they are within 0"
        ),
    ):
        raster.read(0, 0, 5, 7)
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.tif is not a TIFF that can be read"):
        tiff_reading.open_tiff(tmp_path / "text.tif").__enter__()
    with pytest.raises(FileNotFoundError, match="no image at "):
        tiff_reading.open_tiff(tmp_path / "missing.tif").__enter__()
    source = write(tmp_path / "a.tif", photo(5, 7))
    with pytest.raises(ValueError, match=r"has 7 x 5 pixels, the result 53 x 37; give the file that was segmented"):
        geotiff.save_geotiff(result(), tmp_path / "b.tif", source)
    with pytest.raises(ValueError, match=r"a\.tif does not name its classes; it was not written by this program"):
        geotiff.read_geotiff(source)
    data = (tmp_path / "a.tif").read_bytes()
    write(tmp_path / "long.tif", photo(97, 89))
    data = (tmp_path / "long.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    with (
        pytest.raises(ValueError, match=r"cut\.tif is (damaged or cut off|not a TIFF)"),
        tiff_reading.open_tiff(tmp_path / "cut.tif") as raster,
    ):
        raster.read(0, 0, 97, 89)
    monkeypatch.setattr(tiff_reading, "MOST_BLOCK_BYTES", 3 * 35 - 1)
    with pytest.raises(ValueError, match=r"blocks of 7 x 5, each of which must be decoded as a whole; rewrite it in"):
        tiff_reading.open_tiff(source).__enter__()
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"need rasterio, which is not installed: pip install 'ahs_seg_jax\[geo\]'"):
        tiff_reading.open_tiff(source).__enter__()
