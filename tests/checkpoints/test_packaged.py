"""The packaged model: what is stored, what is drawn anew, damage, and that the shipped file works."""

import dataclasses
import importlib.resources

import jax
import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints import packaged, starting
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.cli import convert
from ahs_seg_jax.config import from_config_dict
from ahs_seg_jax.data.scenes import scenes_vocabulary
from ahs_seg_jax.devices import mesh
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.inference import encoding
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.vocabulary import Vocabulary
from configs import tiny as tiny_config
from tests.support.small import inference_model, random_params

TRAINED = Vocabulary(("red toy", "sand"), ("{}",))


def pretrained() -> Pretrained:
    return Pretrained(
        inference_model(), random_params(inference_model()), {"training": {"config": {"eval": {"protocol": "whole"}}}}
    )


def test_trained_rows_survive_and_others_are_drawn(tmp_path):
    size = packaged.save(tmp_path / "a.safetensors", pretrained(), TRAINED, accuracy=0.5)
    assert size == (tmp_path / "a.safetensors").stat().st_size
    loaded = packaged.load(tmp_path / "a.safetensors")
    assert (loaded.config.adaptation, loaded.config.dc_hsp) == ("none", False)
    assert loaded.manifest["training"]["vocabulary"] == {"names": ["red toy", "sand"], "templates": ["{}"]}
    assert loaded.manifest["training"]["config"]["eval"]["protocol"] == "whole"
    assert loaded.manifest["self_test_accuracy"] == 0.5
    before, after = (dict(parameters.flatten(p))[packaged.TABLE] for p in (pretrained().params, loaded.params))
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
    file = importlib.resources.files("ahs_seg_jax.checkpoints").joinpath("tiny.safetensors")
    assert len(file.read_bytes()) <= packaged.LIMIT_BYTES
    loaded = packaged.load_tiny()
    assert loaded.is_complete
    assert set(loaded.manifest["training"]["vocabulary"]["names"]) <= set(scenes_vocabulary("val").names)
    assert loaded.manifest["self_test_accuracy"] > 0.5


def test_the_shipped_model_is_converted_like_any_other(tmp_path, capsys):
    convert.run("tiny", tmp_path / "tiny", "orbax", False)
    assert "clip/text" in capsys.readouterr().out
    again, shipped = load_pretrained(tmp_path / "tiny"), packaged.load_tiny()
    assert again.config == shipped.config
    assert again.manifest["training"] == shipped.manifest["training"]
    np.testing.assert_array_equal(again.params["clip"]["logit_scale"], shipped.params["clip"]["logit_scale"])


def test_training_may_start_from_the_shipped_model():
    """What it lacks, because inference needs none of it, starts fresh: rotations at the identity, and DC-HSP."""
    experiment = dataclasses.replace(from_config_dict(tiny_config.get_config()), init="tiny")
    params, fresh = starting.starting_params(experiment, mesh.make_mesh(jax.devices()[:1]))
    assert {path.split("/")[0 if path.startswith("dc_hsp") else 1] for path in fresh} == {"adaptation", "dc_hsp"}
    started, shipped = dict(parameters.flatten(params)), dict(parameters.flatten(packaged.load_tiny().params))
    for path, leaf in shipped.items():
        np.testing.assert_array_equal(started[path], leaf)
    # The rotations start at the identity, so the training begins with the model that is shipped.
    _, merged = encoding.merged(AHSSeg(experiment.model), params)
    folded = dict(parameters.flatten(merged))
    for path, leaf in shipped.items():
        np.testing.assert_allclose(folded[path], leaf, atol=1e-6)


def test_words_that_the_shipped_model_never_met():
    assert packaged.strange_words(["Red toy", "cat, red toy", "sand", "sandy sea"]) == ["cat, red toy", "sandy sea"]
