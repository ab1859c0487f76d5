"""Which numbers become 0 and 255: by the type, by what is said, by percentiles; what would be a guess is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.data import images, pixel_range
from ahs_seg_jax.data.open_image import open_image
from ahs_seg_jax.data.pixel_range import Rescale
from tests.support.images import photo

RGB = photo(37, 53)
REFLECTANCES = (RGB.astype(np.float64) * 3000 / 255).round().astype(np.uint16)


def test_what_a_range_may_be():
    assert Rescale.of("0,3000") == Rescale.of((0, 3000)) == Rescale(0, 3000)
    assert Rescale.of(" 2% , 98%") == Rescale(2, 98, percent=True)
    assert Rescale.of("-1.5,1e3") == Rescale(-1.5, 1000)
    assert Rescale.of(None) is None
    for text in ("3000", "0,3000,1", "0,98%", "a,b", ""):
        with pytest.raises(ValueError, match="give two values such as '0,3000', or two percentiles such as '2%,98%'"):
            Rescale.of(text)
    for text in ("3000,0", "5,5", "nan,1", "0,inf"):
        with pytest.raises(ValueError, match="give the lower value first, then a higher one"):
            Rescale.of(text)
    with pytest.raises(ValueError, match=r"percentiles lie within 0%\.\.100%"):
        Rescale.of("2%,101%")


def test_bytes_by_hand():
    values = np.array([[-5.0, 0, 1500, 3000, 9000, np.nan], [10, 10, 20, 30, 30, 30]])
    found = pixel_range.to_bytes(values, ((0, 3000), (10, 30)))
    np.testing.assert_array_equal(found, [[0, 0, 128, 255, 255, 0], [0, 0, 128, 255, 255, 255]])
    assert pixel_range.to_bytes(np.array([[0, 255, 256, 65535]], np.uint16), ((0, 65535),)).tolist() == [[0, 0, 1, 255]]


def test_percentiles_of_each_band_by_hand():
    values = np.stack([np.arange(101), 1000 + 2 * np.arange(101)]).astype(np.float32)
    values[0, 0] = np.nan
    assert pixel_range.limits(values, Rescale.of("10%,90%"), "x") == ((11, 90), (1020, 1180))
    assert pixel_range.limits(np.full((1, 9), 7, np.uint16), Rescale.of("2%,98%"), "x")[0][0] == 7


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.linspace(0, 8191, 999).astype(np.uint16), r"x has values 8\.\.8182 of 0\.\.65535, less than an eighth"),
        (np.linspace(0, 0.1, 999), r"of 0\.\.1, less than an eighth of the range"),
        (np.linspace(0, 255, 999), r"real numbers, which are taken as they are within 0\.\.1 only"),
        (np.linspace(-1, 1, 999, dtype=np.float32), r"within 0\.\.1 only.*--rescale 2%,98%.*rescale=\(-"),
        (np.arange(999, dtype=np.int16), "type int16, whose range is not known; say which values become black"),
        (np.arange(9) * 1j, "numbers of type complex128; only integers and real numbers"),
    ],
)
def test_a_guess_is_refused(values, text):
    with pytest.raises(ValueError, match=text):
        pixel_range.limits(values[None], None, "x")


def test_what_is_known_needs_no_word():
    for kind, most in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
        assert pixel_range.limits(np.linspace(0, most / 7, 999).astype(kind)[None], None, "x") == ((0, most),)
    hot = np.append(np.zeros(9999), 65535).astype(np.uint16)  # one hot pixel is no use of the range
    with pytest.raises(ValueError, match="less than an eighth"):
        pixel_range.limits(hot[None], None, "x")
    assert pixel_range.limits(np.zeros((3, 0), np.uint16), None, "x") == ((0, 65535),) * 3


def test_arrays_of_every_kind():
    np.testing.assert_array_equal(open_image(RGB / 255), RGB)
    with pytest.raises(ValueError, match=r"less than an eighth of the range.*rescale=\(\d+, \d+\)"):
        open_image(REFLECTANCES)
    np.testing.assert_array_equal(open_image(REFLECTANCES, rescale=(0, 3000)), RGB)
    np.testing.assert_array_equal(open_image(REFLECTANCES.astype(np.int32) - 77, rescale=(-77, 2923)), RGB)
    infrared = np.dstack([RGB[..., ::-1], RGB[..., 0]])
    with pytest.raises(ValueError, match=r"last of which is no transparency.*bands=\(3, 2, 1\)"):
        open_image(infrared)
    np.testing.assert_array_equal(open_image(infrared, bands=(3, 2, 1)), RGB)
    np.testing.assert_array_equal(open_image(infrared, bands=(4,)), np.repeat(RGB[..., :1], 3, axis=2))
    many = np.dstack([REFLECTANCES, REFLECTANCES])
    np.testing.assert_array_equal(open_image(many, bands=(4, 5, 6), rescale="0,3000"), RGB)
    with pytest.raises(ValueError, match="has 6 channels, and bands names 7; count them from 1"):
        open_image(many, bands=(7, 2, 1))


def test_transparency_of_sixteen_bits_and_of_real_numbers():
    alpha = np.full((37, 53), 65535, np.uint16)
    alpha[:5] = 0
    expected = np.where(alpha[..., None] > 0, RGB, 255)
    deep = np.dstack([RGB.astype(np.uint16) << 8, alpha])
    np.testing.assert_array_equal(open_image(deep), expected)
    np.testing.assert_array_equal(open_image(np.dstack([RGB / 255, alpha / 65535])), expected)


def grey_png(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def test_files_of_sixteen_bits(tmp_path):
    dark = grey_png(REFLECTANCES[..., 0])
    with pytest.raises(ValueError, match=r"^these \d+ bytes has 16 bits and values of about .*--rescale 0,3000"):
        open_image(dark)
    np.testing.assert_array_equal(open_image(dark, rescale=(0, 3000)), np.repeat(RGB[..., :1], 3, axis=2))
    (tmp_path / "a.png").write_bytes(dark)
    with pytest.raises(ValueError, match=r"less than an eighth of the range.*save it with 8 bits and the contrast"):
        images.read_image(tmp_path / "a.png")  # training is not misled either


def test_colours_of_sixteen_bits_in_a_png(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for name, pixels in (("dark", REFLECTANCES), ("full", RGB.astype(np.uint16) << 8)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels[..., ::-1])
    np.testing.assert_array_equal(open_image(tmp_path / "full.png"), RGB)
    with pytest.raises(ValueError, match=r"16 bits and values of about .*save it with 8 bits, or as a TIFF"):
        open_image(tmp_path / "dark.png")
    with pytest.raises(ValueError, match="colours of 16 bits, of which this format's decoder keeps 8"):
        open_image(tmp_path / "dark.png", rescale=(0, 3000))


def test_infrared_in_a_tiff_is_no_transparency(tmp_path):
    pytest.importorskip("rasterio")
    from tests.support.tiffs import write

    infrared = np.dstack([RGB[..., ::-1], RGB[..., 0]])  # GDAL calls the fourth of four bytes transparency
    for options in ({}, {"alpha": "NO"}):
        path = write(tmp_path / "a.tif", infrared, photometric="RGB", **options)
        with pytest.raises(ValueError, match=r"a\.tif has four bands, the last of which is no transparency"):
            open_image(path)
        np.testing.assert_array_equal(open_image(path, bands=(3, 2, 1)), RGB)
