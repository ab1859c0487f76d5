"""Images in every form a person may have them, and those that cannot be used."""

import io

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.data.open_image import _scans, image_size, open_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (97, 89, 3), np.uint8)


def png(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def test_the_same_image_in_every_form(tmp_path):
    image = Image.fromarray(RGB)
    image.save(tmp_path / "a.png")
    for form in (RGB, image, png(image), bytearray(png(image)), tmp_path / "a.png", str(tmp_path / "a.png")):
        opened = open_image(form)
        assert opened.dtype == np.uint8
        np.testing.assert_array_equal(opened, RGB)
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_grey_palette_and_two_bits():
    grey = RGB[..., 0]
    for form in (grey, grey[..., None], Image.fromarray(grey), png(Image.fromarray(grey))):
        np.testing.assert_array_equal(open_image(form), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    np.testing.assert_array_equal(open_image(bits)[..., 1], np.where(grey > 100, 255, 0))
    palette = Image.fromarray(RGB).quantize(256)
    np.testing.assert_array_equal(open_image(png(palette)), np.asarray(palette.convert("RGB")))


def test_transparency_lies_on_white():
    rgba = np.dstack([RGB, np.full((5, 7), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    for form in (rgba, Image.fromarray(rgba), png(Image.fromarray(rgba))):
        opened = open_image(form)
        np.testing.assert_array_equal(opened[0, 0], [255, 255, 255])
        np.testing.assert_array_equal(opened[1:], RGB[1:])


def test_sixteen_bits_keep_their_high_byte():
    wide = (RGB.astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(open_image(wide), RGB)
    grey = png(Image.fromarray(wide[..., 0]))
    np.testing.assert_array_equal(open_image(grey), np.repeat(RGB[..., :1], 3, axis=2))


def test_the_camera_s_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(open_image(tmp_path / "turned.png"), np.rot90(RGB, -1))
    assert image_size(tmp_path / "turned.png") == (7, 5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (9_999, 1)])
def test_strange_shapes_are_fine(shape):
    assert open_image(np.zeros((*shape, 3), np.uint8)).shape == (*shape, 3)


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.fromarray(np.full((5, 7), value, np.uint8)) for value in (0, 200)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        ("nowhere.png", FileNotFoundError, r"no image at nowhere\.png"),
        ("https://example.org/a.png", ValueError, "is an address; download the image first"),
        (b"", ValueError, "these 0 bytes: the file is empty"),
        (b"GIF87 or so", ValueError, "these 11 bytes is not an image that can be read"),
        (png(Image.fromarray(NOISE))[:9000], ValueError, "is damaged or cut off"),
        (animation(), ValueError, "an animation of 2 frames; save the frame you mean"),
        (np.zeros((5, 7, 3), bool), TypeError, "numbers are bool; pass integers, or real numbers in 0..1"),
        (np.zeros((5, 7, 3)), ValueError, r"values 0\.\.0 of 0\.\.1, less than an eighth of the range"),
        (np.zeros((3, 5, 7), np.uint8), ValueError, r"shape \[3, 5, 7\]; .* the channels last.*bands=\(3, 2, 1\)"),
        (np.zeros((0, 7, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((50_000, 40_000), np.uint8), ValueError, "40000 x 50000 = 2000 megapixels; the limit is 256"),
        (Image.new("1", (40_000, 50_000)), ValueError, "save it as a tiled TIFF and segment that with --windows"),
        (Image.fromarray(np.zeros((5, 7), np.float32)), ValueError, "less than an eighth of the range"),
        (17, TypeError, "an image cannot be a int; pass a path"),
    ],
)
def test_what_cannot_be_used_is_explained(image, error, text):
    with pytest.raises(error, match=text):
        open_image(image)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder; pass one image"):
        open_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png: the file is empty"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"empty\.png is not an image that can be read"):
        image_size(tmp_path / "empty.png")


def test_a_gigapixel_file_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (30_011, 30_013)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge\.png has 30011 x 30013 = 901 megapixels"):
        open_image(tmp_path / "huge.png")
    assert image_size(tmp_path / "huge.png") == (30_013, 30_011)


def test_a_jpeg_of_very_many_scans_is_refused():
    file = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert open_image(data).shape == (40, 40, 3)
    assert _scans(data) == data.count(b"\xff\xda")
    start = data.rindex(b"\xff\xda")  # the last scan again and again
    many = data[:start] + data[start:-2] * 200 + data[-2:]
    with pytest.raises(ValueError, match=r"is a JPEG of 20\d scans, which takes very long to decode; the limit is 100"):
        open_image(many)
    assert _scans(data + b"\xff\xda" * 500) == _scans(data)  # what other programs put behind the image does not count
