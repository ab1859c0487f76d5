"""Files of labels: every writer against every reader around 256 classes, kinds of PNG, and COCO's codes."""

import io
import itertools
import json
import struct
import zlib

import numpy as np
import pytest
from etils import epath
from PIL import Image
from pycocotools import mask as coco

from ahs_seg_jax.data.prepared.example import encode_label
from ahs_seg_jax.errors import NotAnIndexMask
from ahs_seg_jax.evaluation.predictions import PredictionWriter
from ahs_seg_jax.pictures import label_files
from ahs_seg_jax.segmenter import Segmentation, geotiff, tiff_reading

CLASSES = (254, 255, 256, 257)


def labels_of(classes: int, lowest: int = -1) -> np.ndarray:
    """Every index once, and -1 where `lowest` allows it."""
    return np.resize(np.arange(lowest, classes, dtype=np.int32), (23, 13))


def segmentation(classes: int) -> Segmentation:
    labels = labels_of(classes)
    names = tuple(f"thing {index}" for index in range(classes))
    return Segmentation(np.zeros((*labels.shape, 3), np.uint8), labels, names, np.ones(labels.shape, np.float32))


@pytest.mark.parametrize("classes", CLASSES)
def test_index_pngs_of_every_writer_are_read_back(tmp_path, classes):
    """A result's PNG, the label of a prepared example, and an evaluation's prediction, which has a class everywhere."""
    segmentation(classes).save_png(tmp_path / "result.png")
    (tmp_path / "prepared.png").write_bytes(encode_label(labels_of(classes), classes))
    writer = PredictionWriter("png", epath.Path(tmp_path / "p"), segmentation(classes).names, ["a.jpg"])
    writer.write(0, "a.jpg", labels_of(classes, lowest=0))
    files = {"result.png": -1, "prepared.png": -1, "p/a.png": 0}
    for name, lowest in files.items():
        np.testing.assert_array_equal(label_files.read_mask(tmp_path / name), labels_of(classes, lowest), name)
        stored = label_files.read_values(tmp_path / name)
        assert stored.dtype == (np.uint8 if classes < 255 else np.uint16), name
        np.testing.assert_array_equal(label_files.to_labels(stored), labels_of(classes, lowest), name)
    labels, names = label_files.read_png(tmp_path / "result.png")
    np.testing.assert_array_equal(labels, labels_of(classes))
    assert names == segmentation(classes).names


@pytest.mark.parametrize("classes", CLASSES)
def test_geotiffs_are_read_back(tmp_path, classes):
    rasterio = pytest.importorskip("rasterio")
    found = segmentation(classes)
    Image.fromarray(found.image).save(tmp_path / "image.tif")
    geotiff.save_geotiff(found, tmp_path / "labels.tif", tmp_path / "image.tif")
    labels, names = geotiff.read_geotiff(tmp_path / "labels.tif")
    np.testing.assert_array_equal(labels, found.labels)
    assert names == found.names
    with tiff_reading.open_tiff(tmp_path / "labels.tif") as raster:
        assert raster.dataset.nodata == (255 if classes < 255 else 65535)
        assert raster.dataset.dtypes == (rasterio.uint8 if classes < 255 else rasterio.uint16,)


@pytest.mark.parametrize("classes", CLASSES)
def test_coco_codes_of_every_writer_are_read_back(tmp_path, classes):
    writer = PredictionWriter("coco", epath.Path(tmp_path), segmentation(classes).names, ["a.jpg"])
    writer.write(0, "a.jpg", labels_of(classes, lowest=0))
    predicted = json.loads(epath.Path(writer.finish([0])).read_text())
    of_result = json.loads(json.dumps(segmentation(classes).to_coco()))
    for segments, lowest, first in ((predicted, 0, 0), (of_result, -1, 1)):
        restored = np.full((23, 13), -1)
        for segment in segments:
            restored[label_files.decode_mask(segment["segmentation"])] = segment["category_id"] - first
        np.testing.assert_array_equal(restored, labels_of(classes, lowest))


def test_eight_bits_written_for_255_names_are_still_read(tmp_path):
    """Earlier versions wrote 8 bits for 255 names: their indices 0 to 254 leave 255 free."""
    Image.fromarray(np.uint8([[0, 254, 255]])).save(tmp_path / "m.png")
    assert label_files.read_mask(tmp_path / "m.png").tolist() == [[0, 254, -1]]


# ------------------------------------------------------------------------------------------------ kinds of PNG


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [(np.uint8([[0, 7, 254, 255]]), [[0, 7, 254, -1]]), (np.uint16([[0, 255, 846, 65535]]), [[0, 255, 846, -1]])],
)
def test_masks_of_8_and_16_bits(tmp_path, numbers, labels):
    Image.fromarray(numbers).save(tmp_path / "m.png")
    found = label_files.read_mask(tmp_path / "m.png")
    assert (found.dtype, found.tolist()) == (np.int32, labels)
    assert label_files.mask_size(tmp_path / "m.png") == (1, 4)
    np.testing.assert_array_equal(label_files.read_values(tmp_path / "m.png"), numbers)


def test_palette_mask_gives_indices_not_colors(tmp_path):
    mask = Image.fromarray(np.uint8([[0, 1, 2, 255]]))
    mask.putpalette([128, 0, 0, 0, 128, 0, 255, 255, 255] + [0] * 756 + [224, 224, 192])
    mask.save(tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as file:
        assert file.mode == "P"
    np.testing.assert_array_equal(label_files.read_mask(tmp_path / "m.png"), [[0, 1, 2, -1]])


def test_one_bit_mask(tmp_path):
    Image.fromarray(np.uint8([[0, 255]])).convert("1").save(tmp_path / "m.png")
    np.testing.assert_array_equal(label_files.read_mask(tmp_path / "m.png"), [[0, 1]])


@pytest.mark.parametrize(("bits", "row", "values"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])])
def test_packed_grey_mask_keeps_its_values(tmp_path, bits, row, values):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(png)
    np.testing.assert_array_equal(label_files.read_mask(tmp_path / "m.png"), [values])
    np.testing.assert_array_equal(label_files.read_values(tmp_path / "m.png"), [values])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_mask_of_colors_is_refused_with_a_remedy(tmp_path, mode):
    path = tmp_path / "m.png"
    Image.new("RGB", (7, 5)).convert(mode).save(path)
    for read in (label_files.read_mask, label_files.mask_size):
        with pytest.raises(NotAnIndexMask, match=rf"its pixels are {mode}, not class indices; save one 8-bit"):
            read(path)
    with pytest.raises(NotAnIndexMask, match=rf"its pixels are {mode}, not one number each: palette files"):
        label_files.read_values(path)


def test_png_without_names_is_refused(tmp_path):
    label_files.write_png(tmp_path / "other.png", labels_of(3), 3)
    with pytest.raises(ValueError, match=r"other\.png does not name its classes; it was not written by Segm"):
        label_files.read_png(tmp_path / "other.png")


# ------------------------------------------------------------------------------------------------ COCO's codes


def test_codes_are_those_of_coco_itself():
    labels = np.random.default_rng(0).integers(-1, 3, (13, 17)).astype(np.int32)
    found = list(label_files.coco_masks(labels))
    assert [index for index, _, _ in found] == [0, 1, 2]
    for index, mask, code in found:
        np.testing.assert_array_equal(mask, labels == index)
        expected = coco.encode(np.asfortranarray(labels == index, np.uint8))
        assert code == {"size": [13, 17], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (211, 23)])
def test_decoding_by_hand(size):
    """Compressed text and a list of numbers, of masks that are empty, full and mixed."""
    mixed = np.random.default_rng(0).random(size) < 0.3
    for mask in (np.zeros(size, bool), np.ones(size, bool), mixed):
        column = mask.ravel(order="F")
        runs = [(value, len(list(run))) for value, run in itertools.groupby(column.tolist())]
        counts = [length for _, length in runs]
        counts = [0, *counts] if runs[0][0] else counts
        text = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        for form in (counts, text):
            np.testing.assert_array_equal(label_files.decode_mask({"size": list(size), "counts": form}), mask)


@pytest.mark.parametrize("counts", [[3, 4, 20], [3, 4, 40], "34", "34l0l0", "~~", ""])
def test_codes_of_other_lengths_are_refused(counts):
    assert label_files.decode_mask({"size": [7, 5], "counts": [3, 4, 28]}).sum() == 4
    with pytest.raises(ValueError, match="a run-length code does not cover its 7 x 5 pixels: it is cut off or damaged"):
        label_files.decode_mask({"size": [7, 5], "counts": counts})


@pytest.mark.parametrize(
    "code",
    [
        *({"size": size, "counts": [35]} for size in ([7], [7, 5, 1], [7, "5"], [-7, -5], 35, None, [7.0, 5], [0, 35])),
        *({"size": [7, 5], "counts": counts} for counts in (None, 35, [35.0], [-1, 36], ["a"], [2**40], {"a": 1})),
        *({"size": [10**6, 10**6], "counts": counts} for counts in ("0", [10**12])),  # the decoder would crash
        *([], "x", None, {}),
    ],
)
def test_what_is_no_run_length_code_is_refused_before_it_is_decoded(code):
    with pytest.raises(ValueError, match=r"a run-length code (has a size|of \d+ x \d+ pixels; it may have 1 to)"):
        label_files.decode_mask(code)


@pytest.mark.parametrize("text", ["34o", "34\0", "34l0l0o", "\xff", "34 ", "p"])
def test_texts_that_announce_another_letter_at_their_end_are_refused(text):
    for counts in (text, text.encode("latin-1")):
        with pytest.raises(ValueError, match="it is cut off or damaged"):
            label_files.decode_mask({"size": [7, 5], "counts": counts})


def test_compression_changes_no_pixel():
    buffers = {level: io.BytesIO() for level in (0, 9)}
    for level, buffer in buffers.items():
        label_files.write_png(buffer, labels_of(300), 300, compress_level=level)
        np.testing.assert_array_equal(label_files.read_mask(buffer), labels_of(300))
    assert len(buffers[9].getvalue()) < len(buffers[0].getvalue())
