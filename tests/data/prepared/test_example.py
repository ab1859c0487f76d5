"""What is stored of a pair: the photograph's own bytes where they serve, exact pixels otherwise, and plain labels."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.data import images
from ahs_seg_jax.data.benchmarks.benchmark import Pair
from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared.example import encode_label, make_example, reduce_image, reduce_label, resized
from ahs_seg_jax.errors import CorruptExample
from ahs_seg_jax.inference.views import resized_8_bit
from ahs_seg_jax.pictures import label_files
from tests.support import trees
from tests.support.trees import rows

ADE = BENCHMARKS["ade20k_150"]


def made(tmp_path, label=None, known=ADE, **photograph):
    label = rows([0, 1, 2, 150, 7, 8, 9]) if label is None else label
    trees.photograph(tmp_path / "a.jpg", **photograph)
    trees.png(tmp_path / "a.png", label)
    return make_example(known, Pair("a", tmp_path / "a.jpg", tmp_path / "a.png"))


def pixels(example):
    return images.read_image(io.BytesIO(example.image))


def test_a_plain_jpeg_keeps_its_bytes(tmp_path):
    example = made(tmp_path)
    assert example.image == (tmp_path / "a.jpg").read_bytes()
    assert example.name == "a"


def test_a_plain_png_keeps_its_bytes_and_one_with_a_transparent_colour_does_not(tmp_path):
    path = trees.photograph(tmp_path / "a.png", (5, 4))
    label = trees.png(tmp_path / "label.png", rows([1, 2, 3, 4]))
    assert make_example(ADE, Pair("a", path, label)).image == path.read_bytes()
    with Image.open(path) as image:
        image.save(tmp_path / "b.png", transparency=image.getpixel((1, 2)))
    example = make_example(ADE, Pair("b", tmp_path / "b.png", label))
    assert pixels(example)[2, 1].tolist() == [255, 255, 255]


def test_the_label_is_a_plain_png_of_classes(tmp_path):
    example = made(tmp_path)
    with Image.open(io.BytesIO(example.label)) as label:
        assert (label.format, label.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(label), rows([255, 0, 1, 149, 6, 7, 8]))
    assert example.classes[[0, 1, 149]].tolist() == [5, 5, 5]
    assert example.classes.sum() == 30
    assert (example.pixels, example.values[150], example.values[0], example.strange) == (35, 5, 5, ())


def test_sixteen_bits(tmp_path):
    with Image.open(io.BytesIO(encode_label(np.int32([[-1, 0, 846]]), 847))) as label:
        assert label.mode == "I;16"
        assert np.asarray(label).tolist() == [[65535, 0, 846]]


def test_values_that_the_data_set_never_uses_have_no_class(tmp_path):
    example = made(tmp_path, rows([151, 255, 1, 1, 1, 1, 200]))
    assert example.strange == (151, 200, 255)
    assert label_files.read_mask(io.BytesIO(example.label))[0].tolist() == [-1, -1, 0, 0, 0, 0, -1]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photographs_become_exact_rgb(tmp_path, mode):
    example = made(tmp_path, mode=mode)
    with Image.open(io.BytesIO(example.image)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(pixels(example), images.read_image(tmp_path / "a.jpg"))


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_exif_orientation_is_applied_where_the_labels_fit_the_turned_photograph(tmp_path, orientation):
    size = (7, 5) if orientation in (6, 8) else (5, 7)
    example = made(tmp_path, size=size, orientation=orientation)
    with Image.open(io.BytesIO(example.image)) as image:
        assert images.orientation(image) == 1
    np.testing.assert_array_equal(pixels(example), images.read_image(tmp_path / "a.jpg"))


def test_exif_orientation_is_dropped_where_the_labels_cover_the_stored_pixels(tmp_path):
    example = made(tmp_path, size=(5, 7), orientation=6)
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(pixels(example), np.asarray(image))


def test_other_sizes_are_refused(tmp_path):
    with pytest.raises(CorruptExample, match=r"sizes differ: .*a\.jpg is 8x5, its label 7x5"):
        made(tmp_path, size=(5, 8))


def test_unreadable_files_are_named(tmp_path):
    made(tmp_path, size=(61, 67), label=np.zeros((61, 67), np.uint8))
    content = (tmp_path / "a.jpg").read_bytes()
    pair = Pair("a", tmp_path / "a.jpg", tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptExample, match=r"a\.jpg cannot be read: OSError: image file is truncated"):
        make_example(ADE, pair)
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(CorruptExample, match=r"a\.png cannot be read: UnidentifiedImageError"):
        make_example(ADE, pair)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 900), (512, 900)), ((1024, 1365), (512, 682)), ((1365, 1024), (682, 512)), ((600, 600), (512, 512))],
)
def test_the_shortest_edge_is_reduced(size, expected):
    assert resized(size, 512) == expected
    assert resized(size, None) == size


def test_labels_are_reduced_by_the_pixel_at_the_floor():
    label = np.arange(7)[None] + np.arange(5)[:, None] * 10
    expected = np.array([0, 2, 4])[None] + np.array([0, 2])[:, None] * 10  # floor of k * 7/3 and of k * 5/2
    np.testing.assert_array_equal(reduce_label(label, (2, 3)), expected)


def test_images_are_reduced_without_antialiasing():
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 4, axis=0)
    image = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    reduced = np.asarray(reduce_image(image, (4, 8)))[..., 0]  # centres at 1, 4, 7, ...: every third pixel
    np.testing.assert_array_equal(reduced[0], ramp[0, 1::3])
    halved = np.asarray(reduce_image(image, (2, 12)))[..., 0]  # centres between two pixels: their mean
    np.testing.assert_array_equal(halved[0], ramp[0, ::2] + 5)


def test_the_full_data_set_is_reduced_with_its_labels(tmp_path):
    known = dataclasses.replace(BENCHMARKS["ade20k_847"], short_edge=4)
    trees.ade20k_847(tmp_path, {"a/ADE_val_1": rows([0, 2978, 312, 2420, 2855, 2131, 976], int)})
    pair = known.find(tmp_path, "val").pairs[0]
    example = make_example(known, pair)
    assert pixels(example).shape == (4, 6, 3)
    label = label_files.read_mask(io.BytesIO(example.label))
    assert label[0].tolist() == [-1, 0, 1, 2, 3, 4]
    assert example.pixels == 24
    with Image.open(io.BytesIO(example.label)) as stored:
        assert stored.mode == "I;16"


@pytest.mark.parametrize(("short_edge", "size"), [(512, (23, 29)), (16, (16, 20))])
def test_photographs_of_the_published_preparation_are_jpeg_of_quality_75_resized_or_not(tmp_path, short_edge, size):
    own, published = (
        dataclasses.replace(BENCHMARKS[name], short_edge=short_edge) for name in ("ade20k_847", "ade20k_847_jpeg")
    )
    trees.ade20k_847(tmp_path, {"a/ADE_val_1": np.full((23, 29), 2978)})
    pair = own.find(tmp_path, "val").pairs[0]
    before, after = make_example(own, pair), make_example(published, pair)
    seen = images.read_image(pair.image)
    seen = seen if size == seen.shape[:2] else resized_8_bit(seen, size)
    expected = io.BytesIO()
    Image.fromarray(seen).save(expected, "JPEG", quality=75)
    np.testing.assert_array_equal(pixels(after), images.read_image(io.BytesIO(expected.getvalue())))
    assert (pixels(before).shape, before.label) == (pixels(after).shape, after.label)
    assert np.abs(pixels(before).astype(int) - pixels(after)).max() > 3  # noise does not survive
