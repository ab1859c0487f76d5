"""Every model of the zoo by its name, from a hub on the loopback that has stand-ins in their true formats."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax import Segmenter
from ahs_seg_jax.checkpoints import starting, words
from ahs_seg_jax.checkpoints.formats.stated import in_pixels
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.config import Experiment
from ahs_seg_jax.devices.mesh import make_mesh
from ahs_seg_jax.vocabulary import Vocabulary
from scripts import pin_zoo
from tests.support import ROOT, zoo_models
from tests.support.torch_files import hide_torch

PUBLISHED = zoo._packaged()


@pytest.fixture
def stand_in(hub, torch, tmp_path, monkeypatch):
    """Puts the stand-in of a model on the hub, and its pins into the table; from then on there is no torch."""
    path = tmp_path / "zoo.toml"
    path.write_text(pin_zoo.TABLE.read_text("utf-8"), "utf-8")

    def add(name: str) -> zoo.Entry:
        zoo_models.add_to(hub, PUBLISHED[name], tmp_path)
        assert pin_zoo.main(["--table", str(path), "--again", name]) == 0
        monkeypatch.setenv(zoo.VARIABLE, str(path))
        hide_torch(monkeypatch)
        return zoo.table()[name]

    return add


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_is_read_by_its_name_without_torch(hub, stand_in, assert_same, name):
    entry = stand_in(name)
    found = load_pretrained(name)
    layout = zoo_models.layout_of(PUBLISHED[name])
    assert_same(found.params, zoo_models.params_of(entry))
    assert words.portable(found.config) == words.portable(zoo_models.config_of(entry))
    own_words = found.config.text.tokenizer != "clip"
    assert own_words == (zoo_models.kind_of(entry) in ("siglip", "metaclip2"))
    assert not own_words or Vocabulary(("cat",)).tokens(77, found.config.text.tokenizer).any()
    gates = zoo_models.kind_of(entry) == "eva02"  # of which the table says nothing
    expected = "silu" if gates else entry.activation
    assert (found.config.image.activation, found.config.text.activation) == (expected, entry.activation)
    assert found.config.image.pixel_mean == in_pixels("pixel_mean", entry.pixel_mean)
    assert found.templates == entry.prompts
    source = found.manifest["source"]
    assert (source["layout"], source["sha256"]) == (layout, entry.sha256)
    assert source["hub"]["revision"] == entry.revision
    assert len(hub.downloads()) == 1
    assert not any(path.endswith(".msgpack") for _, path, _ in hub.asked)
    assert any(path.endswith("tokenizer.json") for _, path, _ in hub.asked) == own_words


def test_a_photograph_is_segmented_by_the_name_of_the_model(hub, stand_in):
    entry = stand_in("catseg-vitb16")
    segmenter = Segmenter.from_pretrained("catseg-vitb16")
    assert (segmenter.protocol.name, segmenter.templates) == ("cat_seg", entry.prompts)
    image = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
    result = segmenter(image, ["cat", "sofa"], protocol="whole")
    assert result.labels.shape == (60, 83)
    assert set(np.unique(result.labels)) <= {0, 1}


@pytest.mark.slow
def test_one_command_segments_a_photograph(hub, stand_in, tmp_path):
    stand_in("catseg-vitb16")
    image = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    program = "import sys; sys.modules['torch'] = None; from ahs_seg_jax.cli.app import run; run()"
    words = ["segment", str(tmp_path / "photo.png"), "--classes", "cat; sofa", "--model", "catseg-vitb16"]
    command = [sys.executable, "-c", program, *words, "--protocol", "whole", "--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "downloading spaces/hamacojr/CAT-Seg-weights, model_base.pth: " in done.stderr
    with Image.open(tmp_path / "out/labels/photo.png") as labels:
        assert labels.size == (83, 60)


def test_a_training_starts_from_the_name_of_a_clip(hub, stand_in, assert_same):
    stand_in("clip-vitb16")
    experiment = Experiment(model=zoo_models.MODEL, init="clip-vitb16")
    params, fresh = starting.starting_params(experiment, make_mesh(jax.devices()[:1]))
    assert_same(params["clip"], zoo_models.params_of(PUBLISHED["clip-vitb16"])["clip"])
    assert all(not path.startswith("clip/") for path in fresh)
