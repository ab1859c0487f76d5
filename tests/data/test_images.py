"""Decoding: every kind of file that people have becomes what a viewer shows, or an error that says why not."""

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.data import images


def save(path, array, mode=None, **settings):
    Image.fromarray(array).convert(mode).save(path, **settings) if mode else Image.fromarray(array).save(
        path, **settings
    )
    return path


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_rgb_png_is_exact(tmp_path, picture):
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", picture)), picture)


def test_grey_is_repeated(tmp_path, picture):
    grey = picture[:, :, 0]
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=-1))


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    deep = np.uint16([[0, 255, 256, 65535]])
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", deep))[0, :, 1], [0, 0, 1, 255])


def test_transparent_pixels_lie_on_white(tmp_path):
    rgba = np.uint8([[[10, 20, 30, 255], [10, 20, 30, 0]]])
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", rgba)), [[[10, 20, 30], [255, 255, 255]]])


def test_palette_image_gives_its_colors(tmp_path):
    image = Image.fromarray(np.uint8([[0, 1]]))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), [[[9, 8, 7], [200, 100, 50]]])


def test_cmyk_jpeg(tmp_path):
    red = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    pixel = images.read_image(save(tmp_path / "a.jpg", red, "CMYK", quality=95))[8, 8].astype(int)
    assert np.abs(pixel - [255, 0, 0]).max() < 8


def test_exif_orientation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to view
    path = save(tmp_path / "a.png", picture, exif=exif)
    np.testing.assert_array_equal(images.read_image(path), np.rot90(picture, -1))
    assert images.image_size(path) == (7, 5)


def test_float_image_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="32-bit pixels have no defined range"):
        images.read_image(path)
