"""The settings with which training-free methods were published: the table of their programs, cell by cell."""

import pytest

from ahs_seg_jax.data.benchmarks.registry import BENCHMARKS
from ahs_seg_jax.evaluation import published_methods
from ahs_seg_jax.evaluation.published_methods import published
from ahs_seg_jax.models.training_free import METHODS


def sizes(method: str, benchmark: str) -> tuple[int, int, int]:
    return published(method, benchmark).settings.sizes(224)


@pytest.mark.parametrize("method", ["sclip", "naclip", "sc_clip", "pearl"])
def test_windows_of_224_every_112_over_a_short_side_of_336(method):
    own = {"sclip": {"coco_stuff"}, "naclip": {"voc_20", "voc_21"}, "pearl": {"voc_20", "voc_21"}, "sc_clip": set()}
    for benchmark in set(published_methods.BENCHMARKS) - own[method] - {"cityscapes"}:
        assert sizes(method, benchmark) == (336, 224, 112)
    assert sizes(method, "cityscapes") == (560, 224, 112)


def test_sizes_that_differ():
    assert sizes("sclip", "coco_stuff") == (448, 224, 112)
    for method in ("naclip", "pearl"):
        for benchmark in ("voc_20", "voc_21"):
            assert sizes(method, benchmark)[:2] == (336, 0)  # the whole image
    assert sizes("clearclip", "voc_21") == sizes("maskclip", "ade20k_150") == (448, 448, 224)
    assert sizes("clearclip", "cityscapes") == (448, 224, 224)


def test_logit_scales():
    scale = lambda method, benchmark: published(method, benchmark).settings.logit_scale
    names = ("voc_20", "voc_21", "pascal_context_60", "coco_object")
    assert [scale("sclip", name) for name in names] == [40, 65, 50, 50]
    assert [scale("sc_clip", name) for name in ("ade20k_150", "voc_21", "coco_object")] == [40, 50, 55]
    for name in published_methods.BENCHMARKS:
        assert (scale("naclip", name), scale("pearl", name), scale("clearclip", name)) == (40, 40, 50)


def test_the_background_has_a_least_probability_and_a_least_area():
    rows = {
        method: [published(method, name).probability for name in ("voc_21", "pascal_context_60", "coco_object")]
        for method in METHODS
    }
    for method in ("sclip", "naclip", "pearl"):
        assert rows[method] == [0.1, 0.1, 0.1]
    assert rows["clearclip"] == [0.5, 0.15, 0.4]
    assert rows["sc_clip"] == [0.15, 0.15, 0.35]
    for method in METHODS:
        for name in published_methods.BENCHMARKS:
            found = published(method, name)
            assert found.known
            assert (found.probability > 0) == (BENCHMARKS[name].background_index == 0)
            assert found.area == (0.1 if name == "voc_21" and method in ("sclip", "sc_clip") else 0)


def test_refinements_and_what_pearl_alone_has():
    found = {method: published(method, "voc_21").settings for method in METHODS}
    assert {method: settings.refine for method, settings in found.items() if settings.refine != "none"} == {
        **{"naclip": "pamr", "pearl": "propagation"}
    }
    assert (found["naclip"].pamr_steps, found["naclip"].pamr_dilations) == (10, (8, 16))
    pearl = {name: published("pearl", name).settings for name in published_methods.BENCHMARKS}
    assert [(pearl[name].pearl_alpha, pearl[name].pearl_grid) for name in ("voc_21", "ade20k_150", "cityscapes")] == [
        *((0.08, 80), (0.3, 80), (0.3, 224))
    ]


def test_another_benchmark_has_the_settings_of_most_and_says_so():
    found = published("sclip", "ade20k_847")
    assert (found.known, found.probability, found.area) == (False, 0.0, 0.0)
    assert found.settings.sizes(224) == (336, 224, 112)
    with pytest.raises(ValueError, match="unknown training-free method 'dino'; choose one of maskclip, "):
        published("dino", "voc_21")
