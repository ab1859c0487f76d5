"""Segmenters by the name or folder of their model."""

import dataclasses

import numpy as np
import pytest

from ahs_seg_jax.checkpoints import converted, pretrained
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.config import ScenesConfig
from ahs_seg_jax.data.scenes import ScenesSource
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.inference import WHOLE
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.images import photo
from tests.support.small import inference_model, random_params

CONFIG = inference_model(aggregator__pad_len=0)  # like the packaged model, it keeps all classes
NAMES = ("sky", "road", "old oak tree", "car", "cat, kitten")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(CONFIG, random_params(CONFIG))


def test_from_pretrained_reads_a_converted_directory(segmenter, tmp_path):
    config, params = CONFIG, random_params(CONFIG)
    manifest = {"format_version": 1, "config": dataclasses.asdict(config), "source": {"path": "random"}}
    converted.save_converted(tmp_path / "model", Pretrained(config, params, manifest))
    loaded = Segmenter.from_pretrained(tmp_path / "model")
    assert loaded.engine.model == segmenter.engine.model
    assert loaded.templates == segmenter.templates == ("A photo of a {} in the scene",)
    np.testing.assert_array_equal(loaded.logits(photo(41, 67), NAMES), segmenter.logits(photo(41, 67), NAMES))


def test_the_templates_of_the_training_are_used(segmenter, monkeypatch):
    manifest = {"training": {"vocabulary": {"names": ["sky"], "templates": ["{}"]}}}
    found = Pretrained(CONFIG, random_params(CONFIG), manifest)
    monkeypatch.setattr(pretrained, "load_pretrained", lambda path, **_: found)
    loaded = Segmenter.from_pretrained("runs/small")
    expected = segmenter.logits(photo(41, 67), Vocabulary(NAMES, templates=("{}",)))
    np.testing.assert_array_equal(loaded.logits(photo(41, 67), NAMES), expected)


def test_a_bare_clip_has_no_aggregator(monkeypatch):
    clip = Pretrained(CONFIG, {"clip": {}}, {})
    monkeypatch.setattr(pretrained, "load_pretrained", lambda path, **_: clip)
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt holds CLIP's weights only; the method 'aggregator' needs"):
        Segmenter.from_pretrained("ViT-B-16.pt", method="aggregator")


def test_the_shipped_model_finds_toys():
    source = ScenesSource(ScenesConfig(val_images=8), "val")
    tiny = Segmenter.from_pretrained("tiny")
    assert tiny.protocol is WHOLE
    scenes = [source[index] for index in range(8)]
    results = tiny([scene["image"] for scene in scenes], source.vocabulary.names)
    right = [(result.labels == scene["label"]).mean() for result, scene in zip(results, scenes, strict=True)]
    assert np.mean(right) > 0.75
