"""The model in FiftyOne itself, with its labels and with its database: masks count from 1, confidence is a heat map."""

import os

import numpy as np
import pytest
from PIL import Image

fiftyone = pytest.importorskip("fiftyone")

from fiftyone.core.config import FiftyOneConfigError

from ahs_seg_jax.segmenter import Segmenter
from integrations.fiftyone_model import OpenVocabularyModel

NAMES = ("grass", "sand", "red toy")
pytestmark = pytest.mark.filterwarnings("ignore")  # of FiftyOne's own libraries


def test_labels_of_arrays():
    model, segmenter = OpenVocabularyModel(NAMES, unknown=0.2), Segmenter.from_pretrained("tiny")
    images = [np.random.default_rng(seed).integers(0, 256, (37, 41, 3), np.uint8) for seed in range(3)]
    every = model.predict_all(images)
    for image, labels in zip(images, every, strict=True):
        result = segmenter(image, NAMES, unknown=0.2)
        assert isinstance(labels["segmentation"], fiftyone.Segmentation)
        assert isinstance(labels["confidence"], fiftyone.Heatmap)
        np.testing.assert_array_equal(labels["segmentation"].mask, result.labels + 1)
        np.testing.assert_allclose(labels["confidence"].map, result.confidence, atol=1e-6)
        assert list(labels["confidence"].range) == [0, 1]
    np.testing.assert_array_equal(model.predict(images[1])["segmentation"].mask, every[1]["segmentation"].mask)


def test_a_dataset_gets_masks_and_confidence(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a", (37, 41)), ("b", (53, 31)), ("c", (20, 20))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    model = OpenVocabularyModel(NAMES, unknown=0.2)
    assert model.mask_targets == {1: "grass", 2: "sand", 3: "red toy"}
    try:
        dataset = fiftyone.Dataset.from_images_dir(str(tmp_path), name=f"ahs_seg_test_{os.getpid()}")
    except FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne's database cannot start here: {error}")
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
