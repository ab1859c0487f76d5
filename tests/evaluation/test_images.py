"""Which images are scored and pictured: subsets that are always the same ones."""

from ahs_seg_jax.evaluation import images
from tests.support.color_model import evaluate, one_device, random_source


def test_quick_mode_takes_a_fixed_subset_and_says_so(monkeypatch):
    monkeypatch.setattr(images, "QUICK_IMAGES", 3)
    source = random_source(7)
    result = evaluate(source, quick=True, mesh=one_device())
    taken = images.chosen(source, quick=True)
    assert taken == sorted(images.by_hash(source)[:3])
    expected = sum(int((source.labels[index] >= 0).sum()) for index in taken)
    assert int(result.scores.pixels.sum()) == expected
    assert result.report["quick"] is True
    assert result.report["incomplete"] == ["quick mode: 3 of 7 images, chosen by the hashes of their names"]


def test_quick_subset_of_a_small_source_is_all_of_it():
    source = random_source(7)
    assert images.chosen(source, quick=True) == list(range(7))
    assert images.incomplete(source, range(7), quick=True) == []


def test_limit_within_the_quick_subset(monkeypatch):
    monkeypatch.setattr(images, "QUICK_IMAGES", 4)
    source = random_source(7)
    taken = images.chosen(source, quick=True, limit=3)
    assert taken == sorted(images.by_hash(source)[:4])[:3]
    assert images.incomplete(source, taken, quick=True) == [
        "quick mode: 4 of 7 images, chosen by the hashes of their names",
        "limited to the first 3 of 4 images",
    ]


def test_order_of_the_hashes_depends_on_names_alone():
    few, many = random_source(5), random_source(7)
    assert [i for i in images.by_hash(many) if i < 5] == images.by_hash(few)


def test_pictured_are_the_worst_the_best_and_others_without_repetition():
    source = random_source(7)
    found = images.pictured(source, range(7), worst=[3, 5], best=[5, 1], failed={"image_0.png"}, count=5)
    assert sorted(found.values()) == ["best_1", "random_1", "random_2", "worst_1", "worst_2"]
    assert [index for index, label in found.items() if label == "best_1"] == [1]
    assert 0 not in found
    assert len(images.pictured(source, [2], worst=[2], best=[2], failed=set(), count=8)) == 1
