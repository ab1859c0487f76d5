"""The drawn scenes: reproducible, exactly labelled, and with combinations of words left out of training."""

import collections
import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest

from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data import scenes, textures
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.vocabulary import hierarchy_pairs

UNSEEN = 3  # toys, of fifteen: one of each pattern
ALL = 4 + 15  # backgrounds and toys
SEEN = ALL - UNSEEN

CONFIG = ScenesConfig(size=67, train_images=40, val_images=60, seed=5)


def test_an_example_is_a_function_of_seed_split_and_index():
    one = ScenesSource(CONFIG, "train")[7]
    again = pickle.loads(pickle.dumps(ScenesSource(CONFIG, "train")))[7]
    for key in ("image", "label"):
        np.testing.assert_array_equal(one[key], again[key])
    others = (
        ScenesSource(CONFIG, "train")[8],
        ScenesSource(CONFIG, "val")[7],
        ScenesSource(dataclasses.replace(CONFIG, seed=6), "train")[7],
    )
    assert all((one["image"] != other["image"]).mean() > 0.5 for other in others)


def test_shapes_types_and_labels():
    source = ScenesSource(CONFIG, "val")
    example = source[11]
    assert example["image"].shape == (67, 67, 3)
    assert example["image"].dtype == np.uint8
    assert example["label"].shape == (67, 67)
    assert example["label"].dtype == np.int32
    assert 0 <= example["label"].min() <= example["label"].max() < len(source.vocabulary)
    assert source.name(11) == "scene 11"
    with pytest.raises(IndexError, match="scene 60 of 60"):
        source[60]


def test_vocabularies_and_what_training_leaves_out():
    train, val = ScenesSource(CONFIG, "train").vocabulary, ScenesSource(CONFIG, "val").vocabulary
    assert (len(train), len(val)) == (SEEN, ALL)
    assert val.names[:SEEN] == train.names  # an index means the same in both
    assert val.seen_by(train).tolist() == [True] * SEEN + [False] * UNSEEN
    assert val.names[SEEN:] == ("red toy", "striped yellow toy", "dotted green toy")


def words_of(name):
    """Pattern and colour of a toy."""
    return tuple(name.split()[:2]) if len(name.split()) == 3 else ("plain", name.split()[0])


def test_every_pattern_and_every_color_occurs_in_several_seen_toys():
    train, val = (ScenesSource(CONFIG, split).vocabulary.names[len(textures.TEXTURES) :] for split in scenes.SPLITS)
    assert all(name.split()[-1] == "toy" for name in val)
    assert {words_of(name) for name in val} == set(itertools.product(scenes.PATTERNS, scenes.COLORS))
    patterns, colors = (collections.Counter(words) for words in zip(*map(words_of, train), strict=True))
    assert patterns == {"plain": 4, "striped": 4, "dotted": 4}
    assert colors == {"red": 2, "yellow": 2, "green": 2, "blue": 3, "purple": 3}


def test_a_toy_may_have_any_shape_and_looks_as_its_name_says():
    source = ScenesSource(CONFIG, "val")
    drawn = [thing for seed in range(400) for thing in source._things(np.random.default_rng(seed))]
    assert {(t.label, t.shape) for t in drawn} == set(itertools.product(range(4, ALL), scenes.SHAPES))
    for t in drawn:
        pattern, color = words_of(source.vocabulary.names[t.label])
        assert t.pattern == pattern
        np.testing.assert_allclose(t.color, scenes.COLORS[color], atol=0.16)  # 12 % of 1, and 0.04


def test_train_draws_no_unseen_name_and_val_draws_both_alike():
    val = ScenesSource(dataclasses.replace(CONFIG, val_images=250), "val")
    occurs = np.zeros(ALL)
    for index in range(len(val)):
        occurs[np.unique(val[index]["label"])] += 1
    assert occurs.min() > 0
    assert 0.8 < occurs[SEEN:].mean() / occurs[4:SEEN].mean() < 1.25
    train = ScenesSource(CONFIG, "train")
    assert max(train[index]["label"].max() for index in range(len(train))) < SEEN


SECOND_SHARES = {  # of pixels; only a toy's edge mixes with what lies around it
    "plain": (0, 0.02),
    "dotted": (0.20, 0.37),
    "striped": (0.38, 0.56),
}


def test_object_pixels_have_the_color_and_the_pattern_of_their_name():
    source = ScenesSource(dataclasses.replace(CONFIG, noise=0.0), "val")
    names, examined = source.vocabulary.names, collections.Counter()
    for index in range(40):
        example = source[index]
        for label, count in zip(*np.unique(example["label"], return_counts=True), strict=True):
            if label < len(textures.TEXTURES) or count < 150:  # too little left of it
                continue
            pattern, color = words_of(names[label])
            pixels = example["image"][example["label"] == label].astype(float)
            saturation = 1 - pixels.min(axis=1) / pixels.max(axis=1)
            painted = pixels[saturation > np.quantile(saturation, 0.7)].mean(axis=0)
            hues = painted / painted.mean()
            distances = {c: np.abs(hues - np.array(v) / np.mean(v)).sum() for c, v in scenes.COLORS.items()}
            assert min(distances, key=distances.get) == color
            second = (saturation < 0.3).mean()  # share of the second colour, which is nearly white
            low, high = SECOND_SHARES[pattern]
            assert low <= second < high
            examined[pattern] += 1
    assert set(examined) == set(scenes.PATTERNS)
    assert min(examined.values()) > 5


def thing(shape, **changes):
    values = {
        "label": 9,
        "shape": shape,
        "pattern": "plain",
        "color": np.float32([1, 0, 0]),
        "x": 20.0,
        "y": 30.0,
        "radius": 10.0,
        "angle": 0.0,
        "pattern_angle": 0.0,
        "pattern_period": 6.0,
    }
    return scenes._Thing(**{**values, **changes})


AREAS = {  # of radius 10, from the distance of the corners
    "circle": np.pi * 100,
    "square": 2 * 11.2**2,
    "hexagon": 3 * np.sqrt(3) / 2 * 10.8**2,
}


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_shape_covers_its_area_and_only_itself(shape):
    image, label = np.full((61, 53, 3), 0.5, np.float32), np.zeros((61, 53), np.int32)
    scenes._draw(image[:53], label[:53], thing(shape, angle=0.3))
    assert set(np.unique(label)) == {0, 9}
    assert (label == 9).sum() == pytest.approx(AREAS[shape], rel=0.03)
    inside = image[label == 9]
    assert np.median(inside[:, 0]) > 0.8
    assert np.median(inside[:, 1:]) < 0.1


def test_distance_by_hand():
    x = np.float32([[0, 13, -6.5, 3]])
    np.testing.assert_allclose(scenes._distance(thing("circle"), x, 0 * x), [[-10, 3, -3.5, -7]], atol=1e-5)
    # A corner at angle 0, the centre, and the middle of a side: of a square at 45 degrees, of a hexagon at 90.
    x, y = np.float32([[11.2, 0, 5.6]]), np.float32([[0, 0, 5.6]])
    side = 11.2 / np.sqrt(2)  # its distance from the centre
    np.testing.assert_allclose(scenes._distance(thing("square"), x, y), [[0, -side, 0]], atol=1e-5)
    np.testing.assert_allclose(scenes._distance(thing("square"), 2 * x, 2 * y), [[side, -side, side]], atol=1e-5)
    side = 10.8 * np.sqrt(3) / 2
    x, y = np.float32([[10.8, 0, 0, 0, 0]]), np.float32([[0, 0, side, side + 3, side - 3]])
    np.testing.assert_allclose(scenes._distance(thing("hexagon"), x, y), [[0, -side, 0, 3, -3]], atol=1e-5)


def test_no_outline_reaches_beyond_the_drawn_patch():
    angles = np.linspace(0, 2 * np.pi, 361, dtype=np.float32)[None]
    for shape in scenes.SHAPES:
        distance = scenes._distance(thing(shape), 11.21 * np.cos(angles), 11.21 * np.sin(angles))
        assert distance.min() > 0


def test_pattern_shares_by_hand():
    def share(pattern, x, y, **changes):
        made = thing("circle", pattern=pattern, **changes)
        return scenes._pattern(made, np.float32([[x]]), np.float32([[y]])).item()

    # Stripes of period 6 across x: the second colour at the centre, the first half a period on,
    # 0.1 * 6 / 4 below a half
    # at the quarter; y does not matter, and turned by 90 degrees x does not.
    for y in (0, 1.5, 3):
        assert [share("striped", x, y) for x in (0, 1.5, 3, 6)] == pytest.approx([1, 0.35, 0, 1], abs=1e-5)
        assert share("striped", y, 1.5, pattern_angle=np.pi / 2) == pytest.approx(0.35, abs=1e-5)
    # Dots have the period 1.3 * 6 = 7.8 along both axes; half of it away along one, 0.25 * 7.8 / 4 below a half.
    third, half = 7.8 / 3, 7.8 / 2
    dots = [share("dotted", x, y) for x, y in ((0, 0), (third, 0), (0, third), (half, 0), (half, half), (7.8, 7.8))]
    assert dots == pytest.approx([1, 0.5, 0.5, 0.0125, 0, 1], abs=1e-5)


@pytest.mark.parametrize("pattern", scenes.PATTERNS)
def test_a_pattern_changes_the_paint_and_not_the_label(pattern):
    drawn = []
    for changes in ({}, {"pattern": pattern}):
        image, label = np.full((53, 53, 3), 0.5, np.float32), np.zeros((53, 53), np.int32)
        scenes._draw(image, label, thing("square", **changes))
        drawn.append((image, label))
    (plain, label), (image, same) = drawn
    np.testing.assert_array_equal(same, label)
    assert image[30, 20] == pytest.approx(plain[30, 20] if pattern == "plain" else scenes.SECOND_COLOR, abs=0.02)


def test_later_objects_lie_over_earlier_ones():
    image, label = np.full((50, 50, 3), 0.5, np.float32), np.zeros((50, 50), np.int32)
    scenes._draw(image, label, thing("circle", label=1))
    scenes._draw(image, label, thing("hexagon", label=2))
    assert label[30, 20] == 2


def test_siblings_share_their_color():
    vocabulary = ScenesSource(CONFIG, "val").vocabulary
    parents, siblings = hierarchy_pairs(vocabulary)
    assert len(parents) == 0
    assert len(siblings) == 5 * 3  # the pairs of three patterns, for each of five colours
    assert all(words_of(vocabulary.names[a])[1] == words_of(vocabulary.names[b])[1] for a, b in siblings)


def test_textures_differ_and_do_not_follow_the_seed():
    tiles = textures._tiles(32)
    assert [tile.shape for tile in tiles] == [(128, 128, 3)] * 4
    means = np.array([tile.mean(axis=(0, 1)) for tile in tiles])
    apart = np.abs(means[:, None] - means[None]).sum(axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 30


def test_noise_has_unit_variance_and_tiles():
    noise = textures._noise(np.random.default_rng(0), 64, 3.0, 2.0)
    assert noise.std() == pytest.approx(1.0)
    assert np.abs(noise[0] - noise[-1]).mean() < 0.6  # neighbours across the seam are as alike as any others


def test_fingerprint_tells_settings_apart():
    prints = [
        json.dumps(ScenesSource(config, split).fingerprint(), sort_keys=True)
        for config in (CONFIG, dataclasses.replace(CONFIG, noise=0.1))
        for split in ("train", "val")
    ]
    assert len(set(prints)) == 4


def test_errors():
    with pytest.raises(ValueError, match="no split 'test'; choose one of train, val"):
        ScenesSource(CONFIG, "test")
    bad = ScenesConfig(size=8, min_objects=6, max_objects=5, min_radius=0.5, noise=2.0)
    assert len(bad.problems()) == 4
    with pytest.raises(ValueError, match=r"data\.scenes\.max_objects is 13; there are 12 toys, and none twice"):
        ScenesSource(dataclasses.replace(CONFIG, max_objects=13), "train")
    with pytest.raises(ValueError, match=r"data\.scenes\.size is 8; it must be at least 32"):
        ScenesSource(bad, "train")
