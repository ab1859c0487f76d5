"""Colours of classes."""

import numpy as np

from ahs_seg_jax import colors
from ahs_seg_jax.vocabulary import Vocabulary


def as_dict(names):
    return dict(zip(names, map(tuple, colors.assign_colors(names).tolist()), strict=True))


def test_colors_are_distinct_and_bright_enough():
    names = Vocabulary.named("ade20k_847").names
    chosen = colors.assign_colors(names)
    assert chosen.dtype == np.uint8
    assert chosen.shape == (847, 3)
    assert len(set(map(tuple, chosen.tolist()))) == 847
    assert chosen.max(axis=1).min() > 70


def test_colors_follow_the_name_not_the_index():
    names = Vocabulary.named("coco_stuff").names
    assert as_dict(names) == as_dict(names[::-1])


def test_most_colors_survive_a_change_of_the_vocabulary():
    names = Vocabulary.named("coco_stuff").names
    full, without = as_dict(names), as_dict(names[:40] + names[41:])
    assert np.mean([full[name] == color for name, color in without.items()]) > 0.9


def test_case_and_space_do_not_change_a_color():
    assert as_dict(("Tree ",))["Tree "] == as_dict(("tree",))["tree"]


def test_small_vocabularies_keep_apart_in_both_kinds_of_vision():
    names = Vocabulary.named("voc_20").names
    palette, features = colors._palette()
    rows = [int(np.flatnonzero((palette == color).all(axis=1))[0]) for color in colors.assign_colors(names)]
    for row in rows:
        others = [other for other in rows if other != row]
        assert colors._distance(features[others], features[row]).min() > 0.08


def test_known_colors_never_change():
    # Pictures of different versions should be comparable.
    assert colors.assign_colors(("tree", "sky")).tolist() == [[180, 180, 30], [195, 60, 135]]
