"""Mistakes with labels, made on purpose: each must be found, and named; and the right labels must pass."""

import numpy as np
import pytest

from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.data.prepared.diagnosis import Statistics, diagnose, misplaced
from ahs_seg_jax.pictures import label_files

NAMES = tuple(BENCHMARKS)


def statistics(known, values, images=2000, strange=None):
    """Of labels with `values` (value: pixels), mapped as preparation maps them."""
    table = np.zeros(known.classes, np.int64)
    for value, count in values.items():
        index = int(known.classes_of(np.array([value]))[0])
        if index >= 0:
            table[index] += count
    found = known.strange(np.array(sorted(values)))
    examples = [{"name": "a", "values": found.tolist()}] if len(found) else []
    return Statistics(images, sum(values.values()), table, values, examples, len(examples))


def typical(known):
    """Pixels of each value in the right labels: frequent classes have most, the others fewer and fewer."""
    names = [name.split(", ")[0].strip() for name in known.scored_names]
    order = [names.index(name) for name in known.frequent]
    order += [k for k in range(known.classes) if k not in order]
    values = known.values()
    counts = {int(values[k]): int(1e9 / (rank + 4)) for rank, k in enumerate(order)}
    if known.shares is not None:
        counts = {int(value): int(1e9 * share) for value, share in zip(values, known.shares(), strict=True)}
        return counts | {0: int(1e9) - sum(counts.values())}
    low, high = known.ignored_share
    share = (low + min(high, 0.9)) / 2 if low else 0.1
    unlabelled = 0 if known.unlabelled is None else min(known.unlabelled)
    return counts | {unlabelled: int(sum(counts.values()) * share / (1 - share))}


@pytest.mark.parametrize("name", NAMES)
def test_the_right_labels_pass(name):
    known = BENCHMARKS[name]
    found = diagnose(known, statistics(known, typical(known)))
    assert (found.problems, found.warnings) == ((), ())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offset", [1, -1])
def test_values_shifted_by_one_are_refused(name, offset):
    """As published codes store them that count from 0 where the data set counts from 1, or the reverse."""
    known = BENCHMARKS[name]
    void = label_files.no_class(known.classes)
    shifted = {value + offset if 0 <= value + offset <= void else void: n for value, n in typical(known).items()}
    found = diagnose(known, statistics(known, shifted))
    assert found.problems
    assert any("shifted by one" in text or "another data set" in text for text in found.problems)


@pytest.mark.parametrize(
    ("name", "offset"),
    [("ade20k_150", 1), ("ade20k_150", -1), ("voc_20", -1), ("pascal_context_459", 1), ("pascal_context_459", -1)],
)
def test_a_shift_that_no_value_betrays_is_named(name, offset):
    known = BENCHMARKS[name]
    right = statistics(known, typical(known)).classes
    classes = np.roll(right, offset)
    classes[0 if offset > 0 else -1] = 0
    pixels = int(right.sum() / (1 - np.mean(known.ignored_share))) if known.shares is None else int(1e9)
    found = diagnose(known, Statistics(2000, pixels, classes, {}, ()))
    assert any(f"the labels are shifted by one ({offset:+d})" in text for text in found.problems)


def test_coco_stuff_mapped_before():
    known = BENCHMARKS["coco_stuff"]
    values = {int(known.classes_of(np.array([value]))[0]): count for value, count in typical(known).items()}
    values[255] = values.pop(-1)
    found = diagnose(known, statistics(known, values))
    assert "values that the data set never uses (11, 25, 28, 29, 44 and " in found.problems[0]
    assert "mapped to class indices before" in found.problems[0]


def test_ade20k_counted_from_zero():
    known = BENCHMARKS["ade20k_150"]
    values = {value - 1 if value else 255: count for value, count in typical(known).items()}
    found = diagnose(known, statistics(known, values, images=3))
    (text,) = found.problems
    assert text.startswith(
        "1 labels hold values that the data set never uses (255), as a: they are shifted by one (-1)"
    )


def test_colours_turned_to_grey_were_never_mapped():
    known = BENCHMARKS["voc_20"]
    found = diagnose(known, statistics(known, {0: 700, 38: 100, 75: 200, 220: 7}, images=3))
    assert "(38, 75, 220)" in found.problems[0]
    assert "never were mapped" in found.problems[0]


def test_no_class_at_all():
    known = BENCHMARKS["ade20k_847"]
    found = diagnose(known, statistics(known, {0: 700, 1: 20}))
    assert found.problems == ("no pixel has a class: these are not the labels of this data set",)


def test_frequent_classes_that_never_occur():
    known = BENCHMARKS["ade20k_847"]
    values = {value: count for value, count in typical(known).items() if value not in (2978, 2420)}
    found = diagnose(known, statistics(known, values))
    assert found.problems[0].startswith("wall, sky should be among the commonest classes and never occur")


@pytest.mark.parametrize(("name", "value"), [("voc_20", 1), ("ade20k_150", 0), ("coco_stuff", 255)])
def test_an_implausible_share_of_unlabelled_pixels(name, value):
    known = BENCHMARKS[name]
    values = typical(known)
    values[value] = 40 * sum(values.values()) if name != "ade20k_150" else 0
    found = diagnose(known, statistics(known, values))
    assert any("of the pixels have no class, where" in text for text in found.problems)


def test_few_images_are_not_judged_by_frequency():
    known = BENCHMARKS["ade20k_150"]
    found = diagnose(known, statistics(known, {149: 10, 0: 1}, images=199))
    assert (found.problems, found.warnings) == ((), ("199 images are too few to judge how often classes occur",))


def test_few_classes_are_worth_a_look():
    known = BENCHMARKS["ade20k_150"]
    values = {value: count for value, count in typical(known).items() if value < 30}
    assert "only 29 of 150 classes occur" in diagnose(known, statistics(known, values)).warnings


def test_another_order_of_the_classes_is_far_from_the_published_histogram():
    known = BENCHMARKS["ade20k_150"]
    values = {value: 1000 for value in range(151)}
    found = diagnose(known, statistics(known, values))
    assert "of the pixels lie in other classes than in the published histogram" in found.problems[0]


def test_a_histogram_that_differs_somewhat_is_worth_a_look():
    known = BENCHMARKS["ade20k_150"]
    values = typical(known)
    values[0], values[1] = values[0] + values[1] - 1000, 1000  # nearly all walls have lost their label
    found = diagnose(known, statistics(known, values))
    assert found.problems == ()
    assert found.warnings == ("16% of the pixels lie in other classes than in the published histogram",)


def test_misplaced_pixels_by_hand():
    found = Statistics(2000, 10, np.array([0, 5, 3]), {}, ())  # two pixels without a class
    assert misplaced(np.array([0.5, 0.3, 0.2]), found) == pytest.approx((0.5 + 0.2 + 0.1 + 0.2) / 2)


def test_the_published_shares_are_of_the_sorted_classes():
    shares = BENCHMARKS["ade20k_150"].shares()
    assert (len(shares), shares[0], shares[-1]) == (150, 0.1576, 0.0002)
    assert (np.diff(shares) <= 0).all()
    assert 0.89 < shares.sum() < 0.93
