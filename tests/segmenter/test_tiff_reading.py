"""TIFFs as people have them: bands by number and name, values of any range, scales, no data, transparency."""

import logging

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.segmenter import large_tiff, read_tiff, tiff_bands, tiff_reading
from tests.support.images import photo

rasterio = pytest.importorskip("rasterio")

from tests.support.tiffs import PLACE, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RGB = photo(37, 53)
REFLECTANCES = (RGB.astype(np.float64) * 3000 / 255).round().astype(np.uint16)
BLUE_FIRST = np.dstack([REFLECTANCES[..., ::-1], REFLECTANCES[..., :1] // 2])


def meanings(*names):
    return [rasterio.enums.ColorInterp[name] for name in names]


def test_reflectances_are_refused_until_their_range_is_said(tmp_path, caplog):
    path = write(tmp_path / "a.tif", REFLECTANCES, photometric="RGB")
    with pytest.raises(ValueError, match=r"a\.tif has values \d+\.\.\d+ of 0\.\.65535, less than an eighth.*--rescale"):
        read_tiff(path)
    image, has_data = read_tiff(path, rescale=(0, 3000))
    np.testing.assert_array_equal(image, RGB)
    assert has_data.all()
    with caplog.at_level(logging.INFO, "ahs_seg_jax"), tiff_reading.open_tiff(path, rescale="0%,100%") as raster:
        whole = raster.read(0, 0, 37, 53)
        np.testing.assert_array_equal(raster.read(5, 7, 11, 13), whole[5:16, 7:20])  # one range for the whole file
        lowest, highest = REFLECTANCES.reshape(-1, 3).min(0), REFLECTANCES.reshape(-1, 3).max(0)
        assert raster.ranges == tuple(zip(lowest.tolist(), highest.tolist(), strict=True))
    assert caplog.text.count(f"band 1: {lowest[0]}..{highest[0]}, band 2") == 1


def test_four_bands_without_meaning_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", BLUE_FIRST)
    with pytest.raises(ValueError, match=r"has 4 bands \(1 gray, 2 undefined.*does not say which.*--bands 3,2,1"):
        read_tiff(path, rescale=(0, 3000))
    np.testing.assert_array_equal(read_tiff(path, (3, 2, 1), (0, 3000))[0], RGB)
    with pytest.raises(ValueError, match="has 4 bands, and --bands names 5"):
        read_tiff(path, (5, 2, 1), (0, 3000))


def test_bands_by_what_the_file_calls_them(tmp_path):
    path = write(
        tmp_path / "a.tif", BLUE_FIRST, meanings("blue", "green", "red", "undefined"), photometric="MINISBLACK"
    )
    np.testing.assert_array_equal(read_tiff(path, rescale="0,3000")[0], RGB)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B02", "B03", "B04", "B08")
    np.testing.assert_array_equal(read_tiff(path, ("b04", "green", "B02"), (0, 3000))[0], RGB)
    grey = read_tiff(path, ("B08",), (0, 1500))[0]
    assert (grey[..., 0] == grey[..., 2]).all()
    with pytest.raises(ValueError, match=r"has no band 'nir'; it has 1 B02, 2 B03, 3 B04, 4 B08"):
        read_tiff(path, ("nir", "B03", "B02"), (0, 3000))


def test_options_of_bands():
    assert tiff_bands.parse_bands("3, 2,1") == (3, 2, 1)
    assert tiff_bands.parse_bands("nir,red,4") == ("nir", "red", 4)
    assert tiff_bands.parse_bands("") is None
    for text in ("3,2", "1,2,3,4", "0,1,2", "1,,2"):
        with pytest.raises(ValueError, match="give three numbers from 1, or names"):
            tiff_bands.parse_bands(text)


def test_four_bytes_that_gdal_calls_transparent(tmp_path):
    infrared = np.dstack([RGB[..., ::-1], RGB[..., 0]])
    path = write(tmp_path / "a.tif", infrared, photometric="RGB", alpha="YES")
    with pytest.raises(ValueError, match=r"four bands, the last of which is no transparency.*--bands 3,2,1"):
        read_tiff(path)
    image, has_data = read_tiff(path, (3, 2, 1))
    np.testing.assert_array_equal(image, RGB)
    assert has_data.all()  # infrared of 0 is data


def test_scales_and_offsets_make_the_values(tmp_path):
    path = write(tmp_path / "a.tif", REFLECTANCES + np.uint16(1000), photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1 / 3000,) * 3, (-1 / 3,) * 3
    np.testing.assert_array_equal(read_tiff(path)[0], RGB)  # reflectances 0..1 need no range
    half = np.clip(2 * RGB.astype(int), 0, 255)
    assert abs(read_tiff(path, rescale=(0, 0.5))[0].astype(int) - half).max() <= 1


def test_real_numbers_and_no_data(tmp_path):
    values = (RGB / 255).astype(np.float32)
    values[:5] = np.nan
    image, has_data = read_tiff(write(tmp_path / "a.tif", values, photometric="RGB"))
    np.testing.assert_array_equal(image[5:], RGB[5:])
    np.testing.assert_array_equal(has_data, np.arange(37)[:, None].repeat(53, 1) >= 5)
    dark = REFLECTANCES.copy()
    dark[:, :9] = 65535
    path = write(tmp_path / "b.tif", dark, photometric="RGB", nodata=65535)
    with pytest.raises(ValueError, match="less than an eighth"):  # what has no data does not stretch the range
        read_tiff(path)
    with tiff_reading.open_tiff(path, rescale="0%,100%") as raster:
        assert raster.ranges[0][1] < 3001
        assert not raster.has_data(0, 0, 37, 9).any()


def test_files_that_are_maps(tmp_path):
    plain = write(tmp_path / "plain.tif", RGB, photometric="RGB")
    assert not tiff_reading.is_map(plain)
    assert tiff_reading.is_map(write(tmp_path / "a.tif", RGB, photometric="RGB", nodata=0))
    assert tiff_reading.is_map(write(tmp_path / "b.tif", RGB, crs="EPSG:32633", transform=PLACE))
    assert tiff_reading.is_map(write(tmp_path / "c.tif", REFLECTANCES))
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "print.tif")
    assert not tiff_reading.is_map(tmp_path / "print.tif")
    (tmp_path / "d.tif").write_text("no image")
    assert not tiff_reading.is_map(tmp_path / "d.tif")
    assert not tiff_reading.is_map(tmp_path / "missing.tif")
    assert not tiff_reading.is_map("a.png")


def test_overviews_are_rescaled_too(tmp_path):
    path = write(tmp_path / "a.tif", BLUE_FIRST)
    labels = write(tmp_path / "labels.tif", np.zeros((37, 53, 1), np.uint8))
    with rasterio.open(labels, "r+") as file:
        file.update_tags(1, class_names='["roof"]')
    picture = np.asarray(large_tiff.overlay(path, labels, bands=(3, 2, 1), rescale=(0, 3000)))
    assert picture.shape[0] >= 37
    with pytest.raises(ValueError, match="does not say which are red"):
        large_tiff.overlay(path, labels, rescale=(0, 3000))
