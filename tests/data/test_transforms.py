"""Augmentation, by hand where there is arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.config import AugmentConfig
from ahs_seg_jax.data import transforms
from ahs_seg_jax.models.ops import resize

PLAIN = AugmentConfig(color_jitter=False, flip=False)


def example(h, w, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (h, w, 3), np.uint8), rng.integers(-1, 7, (h, w)).astype(np.int32)


@pytest.mark.parametrize(
    ("shape", "short", "max_edge", "expected"),
    [
        ((480, 640), 384, 1333, (384, 512)),
        ((427, 640), 640, 2560, (640, 959)),  # 640 * 640 / 427 = 959.25
        ((100, 43), 384, 1333, (893, 384)),  # 893.02
        ((100, 1000), 384, 1333, (133, 1333)),  # the longest edge decides
        ((23, 3), 384, 1333, (1333, 174)),
        ((384, 384), 384, 1333, (384, 384)),
        ((768, 1023), 640, 2560, (640, 853)),  # 852.5 is rounded up
        ((1, 5000), 384, 100, (1, 100)),  # never 0
    ],
)
def test_resized_shape(shape, short, max_edge, expected):
    assert transforms.resized_shape(shape, short, max_edge) == expected


def test_resize_image_is_bilinear_at_pixel_centres():
    image = np.repeat(np.uint8([[0, 100]])[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(transforms.resize_image(image, (1, 4))[0, :, 0], [0, 25, 75, 100])
    assert transforms.resize_image(image, (1, 2)) is image


def test_resize_label_reads_the_pixel_below_the_position_as_the_published_programs_do():
    label = np.int32([[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(transforms.resize_label(label, (1, 3)), [[0, 1, 3]])
    np.testing.assert_array_equal(transforms.resize_label(label, (1, 7)), [[0, 0, 1, 2, 2, 3, 4]])
    wide = np.arange(7 * 11, dtype=np.int32).reshape(7, 11)
    parity = resize.nearest(jnp.asarray(wide)[None], (13, 5))[0]
    np.testing.assert_array_equal(transforms.resize_label(wide, (13, 5)), parity)


def test_the_rule_of_labels_is_that_of_the_settings():
    image, label = np.zeros((5, 5, 3), np.uint8), np.arange(25, dtype=np.int32).reshape(5, 5)
    rules = {}
    for rule in ("floor", "centre"):
        settings = AugmentConfig(color_jitter=False, flip=False, label_resize=rule)
        rules[rule] = transforms.augment(image, label, 3, settings, np.random.default_rng(0))[1]
    np.testing.assert_array_equal(rules["floor"], label[[[0], [1], [3]], [[0, 1, 3]]])
    np.testing.assert_array_equal(rules["centre"], label[[[0], [2], [4]], [[0, 2, 4]]])


def test_resize_label_reads_the_pixel_under_the_centre():
    label = np.int32([[0, 1, 2, 3, 4]])
    # Output i of 3 reads (i + 0.5) * 5 / 3 = 0.83, 2.5, 4.17.
    np.testing.assert_array_equal(transforms.resize_label(label, (1, 3), "centre"), [[0, 2, 4]])
    np.testing.assert_array_equal(transforms.resize_label(label[:, :2], (2, 4), "centre"), [[0, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(
        transforms.resize_label(np.int32([[-1], [6]]), (4, 1), "centre"), [[-1], [-1], [6], [6]]
    )


def test_random_crop_takes_the_same_part_and_reaches_every_part():
    h, w, crop = 7, 5, 3
    label = np.arange(h * w, dtype=np.int32).reshape(h, w)
    image = np.repeat(label[:, :, None], 3, axis=2).astype(np.uint8)
    corners = set()
    rng = np.random.default_rng(0)
    for _ in range(300):
        part, part_label = transforms.random_crop(image, label, crop, rng)
        assert part.shape == (3, 3, 3)
        np.testing.assert_array_equal(part[:, :, 1], part_label)
        corners.add(int(part_label[0, 0]))
    assert corners == {y * w + x for y in range(h - crop + 1) for x in range(w - crop + 1)}


def test_random_crop_leaves_a_short_side_whole():
    image, label = example(2, 9)
    part, part_label = transforms.random_crop(image, label, 4, np.random.default_rng(0))
    assert (part.shape, part_label.shape) == ((2, 4, 3), (2, 4))


def test_padding_is_grey_and_unlabelled_and_at_the_end():
    image, label = np.full((2, 3, 3), 7, np.uint8), np.full((2, 3), 4, np.int32)
    rng = np.random.default_rng(0)
    padded, padded_label = transforms.augment(image, label, 3, AugmentConfig((1.0, 1.0), 3, False, False), rng)
    assert (padded.dtype, padded_label.dtype) == (np.uint8, np.int32)
    assert padded[:2].min() == padded[:2].max() == 7
    assert (padded[2] == 128).all()
    np.testing.assert_array_equal(padded_label, [[4, 4, 4], [4, 4, 4], [-1, -1, -1]])


def test_brightness_and_contrast_clip():
    image = np.uint8([[[0, 100, 250]]])
    np.testing.assert_array_equal(transforms.adjust_brightness(image, 10.5), [[[10, 110, 255]]])
    np.testing.assert_array_equal(transforms.adjust_brightness(image, -20), [[[0, 80, 230]]])
    np.testing.assert_array_equal(transforms.adjust_contrast(image, 1.5), [[[0, 150, 255]]])
    assert transforms.adjust_contrast(image, 1.0) is image


def test_saturation_and_hue():
    red = np.uint8([[[200, 0, 0]]])
    np.testing.assert_array_equal(transforms.adjust_saturation_hue(red, 0.5, 0.0), [[[200, 100, 100]]])
    np.testing.assert_array_equal(transforms.adjust_saturation_hue(red, 1.0, 120.0), [[[0, 200, 0]]])
    np.testing.assert_array_equal(transforms.adjust_saturation_hue(red, 1.0, -120.0), [[[0, 0, 200]]])
    grey = np.full((1, 1, 3), 90, np.uint8)
    np.testing.assert_array_equal(transforms.adjust_saturation_hue(grey, 1.4, 30.0), grey)
    assert transforms.adjust_saturation_hue(red, 1.0, 0.0) is red


def test_color_jitter_follows_the_generator_and_varies():
    image, _ = example(11, 13)
    first = [transforms.jitter_colors(image, np.random.default_rng(seed)) for seed in range(24)]
    second = [transforms.jitter_colors(image, np.random.default_rng(seed)) for seed in range(24)]
    np.testing.assert_array_equal(first, second)
    assert len({picture.tobytes() for picture in first}) > 18
    assert {picture.dtype for picture in first} == {np.dtype(np.uint8)}


def test_flip_mirrors_both_about_half_the_time():
    image, label = example(5, 5)
    config = AugmentConfig(color_jitter=False)
    flips = 0
    for seed in range(200):
        new_image, new_label = transforms.augment(image, label, 5, config, np.random.default_rng(seed))
        flipped = not np.array_equal(new_label, label)
        flips += flipped
        np.testing.assert_array_equal(new_label, label[:, ::-1] if flipped else label)
        np.testing.assert_array_equal(new_image, image[:, ::-1] if flipped else image)
        assert new_image.flags.c_contiguous
    assert 70 < flips < 130


def test_without_chance_an_image_of_the_crop_size_is_unchanged():
    image, label = example(17, 17)
    new_image, new_label = transforms.augment(image, label, 17, PLAIN, np.random.default_rng(0))
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_label, label)


def test_scale_sets_the_shortest_edge():
    image, label = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.int32)
    config = AugmentConfig((0.5, 0.5), 1333, False, False)
    _, small = transforms.augment(image, label, 14, config, np.random.default_rng(0))
    assert (small >= 0).sum() == 7 * 7
    shares = set()
    for seed in range(60):
        config = AugmentConfig((0.5, 1.0), 1333, False, False)
        _, jittered = transforms.augment(image, label, 14, config, np.random.default_rng(seed))
        shares.add(int(np.sqrt((jittered >= 0).sum())))
    assert shares == set(range(7, 15))


def test_problems():
    assert AugmentConfig().problems() == []
    assert AugmentConfig(scale=(1.5, 0.5), max_edge=0).problems() == [
        "data.augment.scale is (1.5, 0.5); it must be two positive numbers, the smaller first",
        "data.augment.max_edge is 0; it must be at least 1",
    ]
