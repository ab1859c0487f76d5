"""Our PNG files, opened by Pillow, which checks their checksums, and read as the specification says."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.pictures import png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (37, 53), (421, 653)])
@pytest.mark.parametrize("kind", ["colours", "grey"])
def test_pillow_reads_what_was_written(shape, kind):
    random = np.random.default_rng(0)
    full = (*shape, 3) if kind == "colours" else shape
    pixels = random.integers(0, 256 if kind == "colours" else 65536, full, np.uint16)
    pixels = pixels.astype(np.uint8) if kind == "colours" else pixels
    with Image.open(io.BytesIO(png.encode(pixels)), formats=["PNG"]) as image:
        assert (image.mode, image.size) == ("RGB" if kind == "colours" else "I;16", shape[::-1])
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_file_by_hand():
    data = png.encode(np.array([[[1, 2, 3]], [[4, 4, 255]]], np.uint8))
    assert data[:33] == b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x02\x08\x02\0\0\0" + data[29:33]
    length = int.from_bytes(data[33:37], "big")
    assert data[37:41] == b"IDAT"
    assert zlib.decompress(data[41 : 41 + length]) == bytes([2, 1, 2, 3, 2, 3, 2, 252])
    assert data.endswith(b"\0\0\0\0IEND\xaeB`\x82")


def test_pictures_that_are_views_of_others():
    pixels = np.arange(11 * 13 * 3, dtype=np.uint8).reshape(11, 13, 3)
    turned = pixels[::-1, 2::3].transpose(1, 0, 2)
    with Image.open(io.BytesIO(png.encode(turned))) as image:
        np.testing.assert_array_equal(np.asarray(image), turned)
