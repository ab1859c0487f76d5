"""The drawn scenes: reproducible, exactly labelled, and with combinations of words left out of training."""

import collections
import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest

from ahs_seg_jax.data import scenes, textures
from ahs_seg_jax.data.scenes import ScenesConfig, ScenesSource
from ahs_seg_jax.vocabulary import hierarchy_pairs

OBJECTS = len(scenes.PATTERNS) * len(scenes.COLORS) * len(scenes.SHAPES)
UNSEEN = 2 * len(scenes.COLORS)  # two shapes of each colour
ALL = len(textures.TEXTURES) + OBJECTS
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
    assert "striped blue star" in val.names


def test_every_word_and_every_pair_of_words_is_seen():
    words = collections.Counter()
    for name in ScenesSource(CONFIG, "train").vocabulary.names[len(textures.TEXTURES) :]:
        parts = name.split() if name.startswith("striped") else ["plain", *name.split()]
        words.update(itertools.combinations(parts, 2))
    values = [scenes.PATTERNS, tuple(scenes.COLORS), scenes.SHAPES]
    for first, second in itertools.combinations(values, 2):
        assert min(words[pair] for pair in itertools.product(first, second)) >= 1


def test_train_draws_no_unseen_name_and_val_draws_both_alike():
    val = ScenesSource(dataclasses.replace(CONFIG, val_images=250), "val")
    occurs = np.zeros(ALL)
    for index in range(len(val)):
        occurs[np.unique(val[index]["label"])] += 1
    assert occurs.min() > 0
    assert 0.8 < occurs[SEEN:].mean() / occurs[4:SEEN].mean() < 1.25
    train = ScenesSource(CONFIG, "train")
    assert max(train[index]["label"].max() for index in range(len(train))) < SEEN


def test_object_pixels_have_the_color_of_their_name():
    source = ScenesSource(dataclasses.replace(CONFIG, noise=0.0), "val")
    names = source.vocabulary.names
    checked = 0
    for index in range(20):
        example = source[index]
        for label in np.unique(example["label"]):
            words = names[label].split()
            if words[-1] in scenes.SHAPES and words[0] != "striped":
                pixels = example["image"][example["label"] == label].astype(float)
                hues = pixels.mean(axis=0) / pixels.mean()
                distances = {c: np.abs(hues - np.array(v) / np.mean(v)).sum() for c, v in scenes.COLORS.items()}
                assert min(distances, key=distances.get) == words[0]
                checked += 1
    assert checked > 10


def thing(shape, **changes):
    values = {
        "label": 9,
        "shape": shape,
        "striped": False,
        "color": np.float32([1, 0, 0]),
        "x": 20.0,
        "y": 30.0,
        "radius": 10.0,
        "angle": 0.0,
        "stripe_angle": 0.0,
        "stripe_period": 6.0,
    }
    return scenes._Thing(**{**values, **changes})


AREAS = {  # of radius 10
    "circle": np.pi * 100,
    "ring": np.pi * (11**2 - 5**2),
    "star": 5 * 12.8 * 5.6 * np.sin(np.pi / 5),
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
    np.testing.assert_allclose(scenes._distance(thing("ring"), x, 0 * x), [[5, 2, -1.5, 2]], atol=1e-5)
    # A star with a corner at angle 0: opposite to it lies a point between two corners.
    x = np.float32([[12.8, -5.6]])
    np.testing.assert_allclose(scenes._distance(thing("star"), x, 0 * x), [[0, 0]], atol=1e-5)


def test_later_objects_lie_over_earlier_ones():
    image, label = np.full((50, 50, 3), 0.5, np.float32), np.zeros((50, 50), np.int32)
    scenes._draw(image, label, thing("circle", label=1))
    scenes._draw(image, label, thing("star", label=2))
    assert label[30, 20] == 2


def test_siblings_share_their_shape():
    vocabulary = ScenesSource(CONFIG, "val").vocabulary
    parents, siblings = hierarchy_pairs(vocabulary)
    assert len(parents) == 0
    alike = OBJECTS // len(scenes.SHAPES)
    assert len(siblings) == len(scenes.SHAPES) * alike * (alike - 1) // 2
    assert all(vocabulary.names[a].split()[-1] == vocabulary.names[b].split()[-1] for a, b in siblings)


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
    with pytest.raises(ValueError, match=r"data\.scenes\.size is 8; it must be at least 32"):
        ScenesSource(bad, "train")
