"""Colours of classes."""

import numpy as np
import pytest

from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.pictures import colors
from ahs_seg_jax.vocabulary import Vocabulary


def as_dict(names):
    return dict(zip(names, map(tuple, colors.assign_colors(tuple(names)).tolist()), strict=True))


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


# Linear RGB as people without long-wave or medium-wave cones see it, by Vienot, Brettel and Mollon (1999): another
# simulation than the one that colours are chosen with.
SIMULATIONS = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


def least_distance(names, vision):
    """Between any two colours, in OKLab, where about 0.02 is just noticeable."""
    encoded = colors.assign_colors(tuple(names)) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = colors._oklab(np.clip(linear @ SIMULATIONS[vision].T, 0, 1))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return distances[~np.eye(len(seen), dtype=bool)].min()


@pytest.mark.parametrize(("vision", "least"), [("normal", 0.07), ("protanopia", 0.045), ("deuteranopia", 0.045)])
def test_colors_of_small_vocabularies_keep_apart_for_everyone(vision, least):
    """All pairs, so neighbours in legends too: twice what is just noticeable, with and without colour blindness."""
    every, rng = Vocabulary.named("ade20k_847").names, np.random.default_rng(0)
    drawn = [[every[i] for i in rng.choice(len(every), count, replace=False)] for count in (2, 3, 7, 13, 19, 24) * 5]
    for names in (*drawn, Vocabulary.named("voc_20").names, scenes_vocabulary("val").names):
        assert least_distance(names, vision) > least, names


def test_another_word_leaves_most_colors_of_a_small_vocabulary():
    every, rng = Vocabulary.named("ade20k_847").names, np.random.default_rng(1)
    kept = []
    for count in (3, 8, 9, 13, 20) * 4:
        names = [every[i] for i in rng.choice(len(every), count + 1, replace=False)]
        with_it, without = as_dict(names), as_dict(names[:-1])
        kept.append(np.mean([with_it[name] == color for name, color in without.items()]))
    assert np.mean(kept) > 0.85


def test_known_colors_never_change():
    # Pictures of different versions should be comparable.
    assert colors.assign_colors(("tree", "sky")).tolist() == [[180, 180, 30], [195, 60, 135]]
