"""Image files of anybody: which formats, how much memory, and errors that name the file."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from ahs_seg_jax.cli import image_jobs
from ahs_seg_jax.data import images
from ahs_seg_jax.data import open_image as module
from ahs_seg_jax.data.open_image import image_size, open_image
from ahs_seg_jax.pictures import label_files

MUTATIONS = 300  # of each format
MEGAPIXELS = 12
MOST_BYTES = 3 + 12  # a pixel at the peak: the result, and what decoding it takes


def encoded(kind, size=(41, 37), mode="RGB", **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind", ["ICO", "ICNS", "PPM", "TGA", "SGI", "PCX", "DDS", "JPEG2000", "IM", "MSP", "XBM", "AVIF"]
)
def test_formats_that_are_not_documented_are_refused_before_they_are_opened(tmp_path, kind):
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    mode = "1" if kind in ("MSP", "XBM") else "RGB"
    path = tmp_path / "a.png"
    path.write_bytes(encoded(kind, (32, 32), mode))
    with pytest.raises(
        ValueError, match=r"a\.png is not an image that can be read \(JPEG, PNG, WEBP, TIFF, BMP, GIF\)"
    ):
        open_image(path)
    with pytest.raises(ValueError, match=r"a\.png is not an image that can be read"):
        image_size(path)
    for read in (images.read_image, images.image_size, label_files.read_mask, label_files.mask_size):
        with pytest.raises(UnidentifiedImageError):
            read(path)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_masks_are_png(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(kind, mode="L"))
    assert images.read_image(path).shape == (37, 41, 3)
    for read in (label_files.read_mask, label_files.mask_size, label_files.read_values):
        with pytest.raises(UnidentifiedImageError):
            read(path)


def test_a_home_of_nobody():
    with pytest.raises(ValueError, match=r"there is no ~nobody_of_this_name/a\.png: "):
        open_image("~nobody_of_this_name/a.png")
    with pytest.raises(ValueError, match=r"there is no ~nobody_of_this_name/\*\.png: "):
        image_jobs.find_images(["~nobody_of_this_name/*.png"])


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_documented_formats_under_any_name(tmp_path, kind):
    path = tmp_path / "a.xyz"
    path.write_bytes(encoded(kind))
    assert open_image(path).shape == (37, 41, 3)
    assert image_size(path) == (37, 41)


def test_pillows_limit_is_never_changed(monkeypatch):
    class Watched(type(Image)):
        def __setattr__(self, name, value):
            assert name != "MAX_IMAGE_PIXELS"
            super().__setattr__(name, value)

    monkeypatch.setattr(Image, "__class__", Watched)
    assert open_image(encoded("PNG")).shape == (37, 41, 3)
    with pytest.raises(AssertionError):
        Image.MAX_IMAGE_PIXELS = None


def webp(kind, width, height):
    """The first bytes of a WebP file, as small as they can be, that claim a size."""
    if kind == "VP8X":
        chunk = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        chunk = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        chunk = b"\x10\0\0\x9d\x01\x2a" + width.to_bytes(2, "little") + height.to_bytes(2, "little")
    body = b"WEBP" + kind.ljust(4).encode() + len(chunk).to_bytes(4, "little") + chunk
    return b"RIFF" + len(body).to_bytes(4, "little") + body + bytes(4)


@pytest.mark.parametrize(("kind", "side"), [("VP8X", 2**16 - 1), ("VP8X", 2**24), ("VP8L", 2**14), ("VP8", 16383)])
def test_a_tiny_webp_that_claims_a_huge_size_is_not_opened(monkeypatch, kind, side):
    def opened(*_):
        raise AssertionError("the decoder was asked")

    monkeypatch.setitem(Image.OPEN, "WEBP", (opened, Image.OPEN["WEBP"][1]))
    with pytest.raises(ValueError, match=f"has {side} x {side} = .* megapixels; the limit is 256"):
        open_image(webp(kind, side, side))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"quality": 50, "exif": b"Exif\0\0"}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_a_webp_by_its_header_is_its_size(options, mode):
    assert module._webp_size(encoded("WEBP", (301, 97), mode, **options)[:32]) == (301, 97)


MEASURED = """
import io, pathlib, sys
import numpy as np
from PIL import Image
from ahs_seg_jax.data.open_image import open_image

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

open_image(pathlib.Path(sys.argv[1]).with_suffix(".small"))
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
before = status("VmRSS")
pixels = open_image(sys.argv[1])
print((status("VmHWM") - before) / (pixels.size / 3))
"""
SHAPE = (3000, MEGAPIXELS * 10**6 // 3000)
LARGE = {
    "PNG": ("PNG", "RGB", {}),
    "PNG, transparent": ("PNG", "RGBA", {}),
    "PNG, 16 bits": ("PNG", "I;16", {}),
    "PNG, palette": ("PNG", "P", {"transparency": 3}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, turned": ("JPEG", "RGB", {"orientation": 6}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "TIFF": ("TIFF", "RGB", {}),
    "TIFF, compressed": ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    "BMP": ("BMP", "RGB", {}),
    "GIF": ("GIF", "P", {}),
    "WebP": ("WEBP", "RGB", {"lossless": True, "quality": 0, "method": 0}),
    "WebP, lossy, transparent": ("WEBP", "RGBA", {"quality": 50, "method": 0}),
}


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory from Linux")
@pytest.mark.parametrize("name", LARGE)
def test_memory_a_pixel(tmp_path, name):
    kind, mode, options = LARGE[name]
    options = dict(options)
    if turned := options.pop("orientation", None):
        exif = Image.Exif()
        exif[0x0112] = turned
        options["exif"] = exif
    row = np.random.default_rng(0).integers(0, 256, SHAPE[1], np.uint8)
    grey = Image.fromarray(np.broadcast_to(row, SHAPE))
    image = (
        Image.fromarray(np.broadcast_to(257 * row.astype(np.uint16), SHAPE)) if mode == "I;16" else grey.convert(mode)
    )
    image.save(tmp_path / "a.img", kind, **options)
    image.crop((0, 0, 9, 9)).save(tmp_path / "a.small", kind, **options)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "a.img")]
    found = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{name}: {found:.1f} bytes a pixel")
    assert found < MOST_BYTES


def mutated(data, rng):
    """Some bytes changed, cut off, doubled or taken out."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place, kind = int(rng.integers(min(len(found), 200) if rng.random() < 0.6 else len(found))), rng.integers(5)
        if kind == 0:
            found[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"])
        elif kind == 2:
            del found[place + 1 :]
        elif kind == 3:
            found[place:place] = found[place : place + int(rng.integers(1, 40))]
        else:
            del found[place : place + int(rng.integers(1, 40))]
        if not found:
            return b"\0"
    return bytes(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "tiff_deflate"}),
        ("TIFF", "L", {}),
        ("BMP", "P", {}),
        ("GIF", "P", {}),
        ("MPO", "RGB", {}),
    ],
)
def test_mutated_files_are_images_or_errors_that_name_the_file(tmp_path, kind, mode, options):
    rng, data, path = np.random.default_rng(7), encoded(kind, mode=mode, **options), tmp_path / "given.png"
    reasons = []
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, rng))
        for read in (lambda path: open_image(path, 10**6), image_size):
            try:
                read(path)
            except ValueError as error:
                reasons.append(str(error))
    assert reasons
    known = (
        "; copy or download it again",
        "; save ",
        "is not an image that can be read",
        "the limit is",
        "has no pixels",
    )
    unclear = [text for text in reasons if not text.startswith(str(path)) or not any(part in text for part in known)]
    assert not unclear
