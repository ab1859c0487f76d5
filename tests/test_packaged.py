"""The packaged model: what is stored, what is drawn anew, damage, and that the shipped file works."""

import importlib.resources

import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax import packaged
from ahs_seg_jax.checkpoints import manifest as manifests
from ahs_seg_jax.checkpoints.convert import Pretrained
from ahs_seg_jax.checkpoints.errors import CheckpointError
from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.vocabulary import Vocabulary
from tests.test_segmenter import random_params, small_config

TRAINED = Vocabulary(("red toy", "sand"), ("{}",))


def pretrained() -> Pretrained:
    return Pretrained(
        small_config(), random_params(small_config()), {"training": {"config": {"eval": {"protocol": "whole"}}}}
    )


def test_trained_rows_survive_and_others_are_drawn(tmp_path):
    size = packaged.save(tmp_path / "a.safetensors", pretrained(), TRAINED, accuracy=0.5)
    assert size == (tmp_path / "a.safetensors").stat().st_size
    loaded = packaged.load(tmp_path / "a.safetensors")
    assert (loaded.config.adaptation, loaded.config.dc_hsp) == ("none", False)
    assert loaded.manifest["training"]["vocabulary"] == {"names": ["red toy", "sand"], "templates": ["{}"]}
    assert loaded.manifest["training"]["config"]["eval"]["protocol"] == "whole"
    assert loaded.manifest["self_test_accuracy"] == 0.5
    before, after = (dict(manifests.flatten(p))[packaged.TABLE] for p in (pretrained().params, loaded.params))
    rows = np.unique(TRAINED.tokens(32))
    np.testing.assert_allclose(after[rows], before[rows], rtol=1e-3, atol=1e-6)
    others = np.delete(after, rows, axis=0)
    assert others.std() == pytest.approx(np.delete(before, rows, axis=0).std(), rel=0.01)
    assert len(np.unique(others[:, 0])) > 0.9 * len(others)


def test_drawn_rows_are_the_same_everywhere():
    drawn = packaged.untrained_rows((2, 2), 1.0)
    np.testing.assert_allclose(drawn, [[0.474449, -0.797482], [-1.590114, -1.674798]], rtol=1e-5)


def test_too_large_a_model_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged, "LIMIT_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"would take .* bytes; the limit is 1000"):
        packaged.save(tmp_path / "a.safetensors", pretrained(), TRAINED)
    assert not (tmp_path / "a.safetensors").exists()


def test_damage_and_other_versions_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read"):
        packaged.load(path)
    path.write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="install the package again"):
        packaged.load(path)
    safetensors.numpy.save_file({"x": np.zeros(1)}, path, {"format": "99"})
    with pytest.raises(CheckpointError, match="has format 99, this program reads 1"):
        packaged.load(path)


def test_the_shipped_file():
    file = importlib.resources.files("ahs_seg_jax.data").joinpath("tiny.safetensors")
    assert len(file.read_bytes()) <= packaged.LIMIT_BYTES
    loaded = packaged.load_tiny()
    assert loaded.is_complete
    assert set(loaded.manifest["training"]["vocabulary"]["names"]) <= set(scenes_vocabulary("val").names)
    assert loaded.manifest["self_test_accuracy"] > 0.5
