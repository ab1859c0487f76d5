"""HA-HEM's strengths and DC-HSP's complexities: the numbers of the model itself, and what is said without them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.checkpoints import pretrained as checkpoints
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.cli import components as command
from ahs_seg_jax.cli import strengths
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.ahs_seg import AHSSeg, mean_text
from ahs_seg_jax.models.dc_hsp import DCHSP
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.small import inference_model, random_params

NAMES, TEMPLATES = ("sky", "old oak tree", "cat, kitten"), ("one {} there",)


@pytest.fixture(scope="module")
def whole() -> Pretrained:
    config = inference_model().replace(dc_hsp=True, mh_fpn=True, mh_fpn_taps=(0, 1, 1))
    trained = {"vocabulary": {"names": list(NAMES), "templates": list(TEMPLATES)}}
    return Pretrained(config, random_params(config), {"training": trained})


def test_strengths_are_those_of_the_adaptation(whole):
    text, image = strengths.strengths(whole)
    stored = whole.params["clip"]["adaptation"]
    assert (text.tower, image.tower) == ("text", "image")
    assert (len(text.alpha), len(image.alpha)) == (1, 2)
    np.testing.assert_allclose(image.alpha, 1 / (1 + np.exp(-stored["alpha_image"])), rtol=1e-6)
    assert text.beta == pytest.approx(1 / (1 + np.exp(-stored["beta_text"])))
    np.testing.assert_allclose(image.applied, image.alpha * image.beta)


def test_complexities_are_those_of_training(whole):
    """There the rotations are not merged, and DC-HSP is applied as a whole."""
    config, tokens = whole.config, jnp.asarray(Vocabulary(NAMES, TEMPLATES).tokens())
    text = mean_text(jax.jit(encode_text, static_argnums=0)(config, whole.params, tokens))
    module = DCHSP(config.embed_dim, config.dc_hsp_rank)
    image = jnp.zeros((1, 2, 2, config.embed_dim))
    expected = module.apply({"params": whole.params["dc_hsp"]}, image, text)["complexity"]
    found = strengths.complexities(whole, NAMES, TEMPLATES)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 1e-3


def encode_text(config, params, tokens):
    return AHSSeg(config).apply({"params": params}, tokens, method="encode_text")


def test_command_writes_what_there_is(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "load_pretrained", lambda path, **_: whole)
    command.run("run", None, tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "components.json").read_text())
    assert list(numbers["complexity"]) == list(NAMES)
    assert len(numbers["image"]["alpha"]) == 2
    for name in ("ha_hem.png", "dc_hsp.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.verify()

    monkeypatch.setattr(checkpoints, "load_pretrained", lambda path, **_: Pretrained(whole.config, whole.params, {}))
    with pytest.raises(ValueError, match="names of this model's training are not known: give --classes"):
        command.run("run", None, tmp_path / "none")
    plain = inference_model()
    only = Pretrained(plain, {name: part for name, part in whole.params.items() if name != "dc_hsp"}, {})
    monkeypatch.setattr(checkpoints, "load_pretrained", lambda path, **_: only)
    capsys.readouterr()
    command.run("run", None, tmp_path / "only")
    assert "left out: this model has no DC-HSP" in capsys.readouterr().err
    assert not (tmp_path / "only" / "dc_hsp.png").exists()


def test_an_image_s_pyramid_is_what_guides_the_model(whole):
    image = np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8)
    found = strengths.pyramid(whole, image)
    stored = whole.params["mh_fpn"]
    np.testing.assert_allclose(found.weights, jax.nn.softmax(stored["fusion_weights"]), rtol=1e-6)
    assert found.weights.sum() == pytest.approx(1)
    assert found.blocks == (0, 1, 1)
    grid = (whole.config.grid, whole.config.grid, whole.config.embed_dim)
    assert {level.shape for level in (*found.levels, found.fused)} == {grid}
    titles = [title for title, _ in found.shown()]
    assert titles[0] == f"block 0, weight {found.weights[0]:.3f}"
    assert titles[-1] == "fused"


def test_command_draws_the_way_of_an_image(whole, tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 41, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(checkpoints, "load_pretrained", lambda path, **_: whole)
    command.run("run", None, tmp_path / "out", str(tmp_path / "a.png"))
    numbers = json.loads((tmp_path / "out" / "components.json").read_text())
    assert sum(numbers["pyramid"]["weights"]) == pytest.approx(1)
    widths = {}
    for name in ("way.png", "mh_fpn.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            widths[name] = picture.width
    assert widths == {"way.png": 3 * 224 + 8, "mh_fpn.png": 5 * 224 + 8}
    bare = Pretrained(whole.config, {"clip": whole.params["clip"]}, {})
    monkeypatch.setattr(checkpoints, "load_pretrained", lambda path, **_: bare)
    with pytest.raises(CheckpointError, match="run holds CLIP's weights only"):
        command.run("run", NAMES, tmp_path / "bare", str(tmp_path / "a.png"))


def test_a_model_without_components_says_where_to_find_one(tmp_path):
    with pytest.raises(ValueError, match=r"no HA-HEM .*fold the rotations in") as raised:
        command.run("tiny", None, tmp_path / "out")
    assert "no DC-HSP: give the workdir of a training" in str(raised.value)
    assert not (tmp_path / "out").exists()
