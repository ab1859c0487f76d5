"""Expected scores: the packaged numbers, and the verdict on an evaluation."""

import copy

import pytest

from ahs_seg_jax.evaluation import expected, metrics, published_methods
from ahs_seg_jax.inference import PROTOCOLS
from ahs_seg_jax.models.training_free import METHODS
from ahs_seg_jax.vocabulary import packaged_names

REPORT = {
    **{"protocol": "cat_seg", "incomplete": [], "data": {"problems": []}, "checkpoint": {"sha256": "ab12"}},
    "class_names": None,
}


def compare(miou: float, name: str = "catseg_vitb16", benchmark: str = "ade20k_150", other=None, **changes) -> dict:
    """The verdict on a mIoU, and on the one by the other rule about absent classes (None: the same)."""
    scores = {"mIoU": miou, "mIoU_labelled_or_predicted": miou if other is None else other}
    return expected.compare(benchmark, copy.deepcopy(REPORT) | changes, scores, name)


def test_packaged_numbers():
    found = expected.table()["checkpoints"]
    columns = ("ade20k_847", "pascal_context_459", "ade20k_150", "pascal_context_59", "voc_20", "voc_20b")
    assert [found["catseg_vitb16"]["scores"][name] for name in columns] == [12.0, 19.0, 31.8, 57.5, 94.6, 77.3]
    assert [found["catseg_vitl14"]["scores"][name] for name in columns] == [16.0, 23.8, 37.9, 63.3, 97.0, 82.5]
    for name, facts in found.items():
        assert facts["kind"] in expected.KINDS
        if facts["kind"] != "reported":
            assert facts["protocol"] in PROTOCOLS
        assert facts["source"]
        assert 0 < facts["tolerance"] < 1
        assert facts["absent_classes"] in (*metrics.ABSENT_RULES, "unknown")
        assert set(facts["scores"]) <= set(packaged_names()), name
        assert (facts["kind"] == "published") == name.startswith("catseg")


def test_models_of_the_zoo_are_known_by_their_name():
    for path, verdict in (("catseg-vitb16", "matches"), ("zoo:catseg-vitl14", "differs"), ("clip-vitb16", "unknown")):
        checkpoint = {"sha256": "ab12", "path": path}
        assert compare(31.65, "", checkpoint=checkpoint)["verdict"] == verdict


def test_within_the_tolerance_it_matches():
    verdict = compare(31.65)
    assert (verdict["verdict"], verdict["difference"]) == ("matches", -0.15)
    assert verdict["text"] == "matches 31.8 (CAT-Seg ViT-B/16, published), difference -0.15"
    assert verdict["source"].startswith("CAT-Seg")


def test_scores_of_training_free_methods_are_as_their_sources_report_them():
    found = expected.table()["checkpoints"]
    assert (found["naclip_vitb16"]["scores"]["voc_21"], found["naclip_vitb16"]["scores"]["ade20k_150"]) == (
        64.07,
        19.05,
    )
    assert found["pearl_vitb16"]["scores"]["voc_20"] == 86.9
    assert found["clearclip_vitl14"]["scores"] == {
        **{"voc_20": 80.0, "pascal_context_59": 29.6, "coco_stuff": 19.9, "cityscapes": 27.9, "ade20k_150": 15.0}
    }
    for facts in (facts for facts in found.values() if facts["kind"] == "reported"):
        method = facts["protocol"].removesuffix("_none")
        assert method in METHODS
        assert facts["absent_classes"] == "labelled_or_predicted"
        assert set(facts["scores"]) <= set(published_methods.BENCHMARKS)
        assert facts["queries"].keys() == facts["scores"].keys()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            None,
            "the class file of the published program, 56 names and synonyms, this one of the packaged ones; eval.class",
        ),
        ({"file": "a.txt", "queries": 21}, "56 names and synonyms, this one of 21 of a.txt"),
    ],
)
def test_a_score_of_other_names_does_not_compare(names, words):
    verdict = compare(64.0, "naclip_vitb16", "voc_21", protocol="naclip", class_names=names)
    assert verdict["verdict"] == "unknown"
    assert words in verdict["text"]


def test_a_score_of_a_training_free_method_counts_classes_that_are_only_predicted():
    names = {"file": "a.txt", "queries": 56}
    verdict = compare(66.0, "naclip_vitb16", "voc_21", other=64.0, protocol="naclip", class_names=names)
    assert verdict["verdict"] == "matches"
    assert "64.07 (NACLIP ViT-B/16 with PAMR, as reported by others, not run here)" in verdict["text"]


def test_the_tolerance_says_what_it_covers():
    covered, not_covered = compare(31.65)["tolerance_covers"].split("Not covered: ")
    assert "Rounding of the published number" in covered
    assert "JPEG" in covered
    for words in ("another rule about absent classes", "other class names", "a part of the images"):
        assert words in not_covered


def test_a_score_by_the_other_rule_about_absent_classes_matches_and_is_named():
    verdict = compare(32.9, other=31.7)
    assert (verdict["verdict"], verdict["score"]) == ("matches", "mIoU_labelled_or_predicted")
    assert verdict["text"].endswith("difference -0.10, compared with mIoU_labelled_or_predicted")
    assert compare(31.8, other=31.7)["score"] == "mIoU"  # the default comes first
    assert (compare(33.0, other=31.0)["verdict"], compare(33.0, other=31.0)["difference"]) == ("differs", 1.2)


@pytest.mark.parametrize(("rule", "matches"), [("labelled", "differs"), ("labelled_or_predicted", "matches")])
def test_where_the_rule_is_known_only_its_score_counts(monkeypatch, rule, matches):
    table = expected.table()
    facts = {**table["checkpoints"]["catseg_vitb16"], "absent_classes": rule}
    monkeypatch.setattr(expected, "table", lambda: table | {"checkpoints": {"known": facts}})
    assert compare(32.9, "known", other=31.7)["verdict"] == matches


def test_the_pixels_of_the_published_preparation_have_the_published_scores():
    for name in ("ade20k_847", "ade20k_847_jpeg"):
        assert compare(12.1, benchmark=name)["text"].startswith("matches 12.0 (CAT-Seg ViT-B/16, published)")


def test_outside_it_differs_and_a_claim_is_called_one():
    verdict = compare(40.0, "ahs_seg_vitb16")
    assert (verdict["verdict"], verdict["difference"], verdict["kind"]) == ("differs", -4.9, "claimed")
    assert "claimed by its authors, not reproduced by anybody" in verdict["text"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "no score is known for these weights; eval.expected names what they should be"),
        ({"benchmark": "scenes"}, "none is known for CAT-Seg ViT-B/16 on scenes"),
        ({"protocol": "whole"}, "is of protocol cat_seg, this one of whole"),
        ({"incomplete": ["limited"]}, "is of the whole benchmark; this score is not"),
        ({"data": {"problems": ["shifted"]}}, "is of the whole benchmark; this score is not"),
    ],
)
def test_unknown(changes, words):
    verdict = compare(31.8, **changes)
    assert verdict["verdict"] == "unknown"
    assert words in verdict["text"]


def test_weights_are_recognised_by_their_hash(monkeypatch):
    facts = {**expected.table()["checkpoints"]["catseg_vitb16"], "sha256": ["ab12"]}
    table = expected.table() | {"checkpoints": {"known": facts}}
    monkeypatch.setattr(expected, "table", lambda: table)
    assert compare(31.8, name="")["checkpoint"] == "known"


def test_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"eval\.expected is 'vitb'; choose one of catseg_vitb16, .*, or leave it empty"
    ):
        expected.check_name("vitb")
    expected.check_name("")
