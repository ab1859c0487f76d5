"""The model in FiftyOne itself, with its database: masks count from 1, and confidence is a heat map."""

import os

import numpy as np
import pytest
from PIL import Image

fiftyone = pytest.importorskip("fiftyone")

from ahs_seg_jax.segmenter import Segmenter
from integrations.fiftyone_model import OpenVocabularyModel

NAMES = ("grass", "sand", "red toy")
pytestmark = pytest.mark.filterwarnings("ignore")  # of FiftyOne's own libraries


def test_a_dataset_gets_masks_and_confidence(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a", (37, 41)), ("b", (53, 31)), ("c", (20, 20))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    model = OpenVocabularyModel(NAMES, unknown=0.2)
    assert model.mask_targets == {1: "grass", 2: "sand", 3: "red toy"}
    dataset = fiftyone.Dataset.from_images_dir(str(tmp_path), name=f"ahs_seg_test_{os.getpid()}")
    try:
        dataset.apply_model(model, label_field="words", batch_size=2, progress=False)
        dataset.mask_targets["words_segmentation"] = model.mask_targets
        dataset.save()
        segmenter = Segmenter.from_pretrained("tiny")
        assert len(dataset) == 3
        for sample in dataset:
            result = segmenter(sample.filepath, NAMES, unknown=0.2)
            np.testing.assert_array_equal(sample.words_segmentation.mask, result.labels + 1)
            np.testing.assert_allclose(sample.words_confidence.map, result.confidence, atol=1e-6)
        assert dataset.mask_targets["words_segmentation"][3] == "red toy"
    finally:
        dataset.delete()
