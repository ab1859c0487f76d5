"""Models with other towers than CLIP's, and with a tokenizer.json: published, read back, exported."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from ahs_seg_jax import Segmenter
from ahs_seg_jax.checkpoints import manifest, published, starting, store, words
from ahs_seg_jax.checkpoints.converted import save_converted
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.config import Experiment, identity
from ahs_seg_jax.errors import CheckpointError, InputError
from ahs_seg_jax.export import export
from ahs_seg_jax.models.towers.config import ImageTowerConfig
from tests.support.fake_hub import TOKEN
from tests.support.images import photo
from tests.support.small import changed, inference_model, random_params
from tests.support.tokenizer_files import GEMMA, XLM_V, write_tokenizer

# The hub's client hands a file to its HTTP library in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")
TOWERS = {
    "siglip": ("siglip", "siglip", GEMMA),
    "metaclip2": ("clip", "metaclip2", XLM_V),
    "pe": ("pe", "clip", None),
    "eva": ("eva", "clip", None),
}
NAMES = ["cat", "cab"]


def model(kind, folder, **changes):
    """The configuration of a small model with towers of a kind, and random parameters."""
    image, text, special = TOWERS[kind]
    config = changed(inference_model(adaptation="none", **changes), image__tower=image, text__tower=text, embed_dim=32)
    if special:
        folder.mkdir(exist_ok=True)
        path = write_tokenizer(folder / "tokenizer.json", special)
        config = changed(config, text__tokenizer=path, text__vocab_size=33)
    assert config.problems() == []
    return config, random_params(config)


@pytest.fixture
def hub(hub, monkeypatch):
    """The hub, with an account, and without what its client cannot speak here."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.mark.parametrize("kind", TOWERS)
def test_a_whole_model_is_published_and_read_back(kind, hub, assert_same, tmp_path):
    config, params = model(kind, tmp_path / "words")
    segmenter = Segmenter(config, params, ("a {}",), protocol="whole")
    image, own = photo(29, 37, 0), config.text.tokenizer
    expected = segmenter.logits(image, NAMES)
    segmenter.push_to_hub(f"someone/{kind}")
    files = hub.repositories[f"someone/{kind}"].commits[hub.repositories[f"someone/{kind}"].tags["main"]]
    assert ("tokenizer.json" in files) == (own != "clip")
    assert str(tmp_path) not in files["manifest.json"].decode()
    assert str(tmp_path).encode() not in files["model.safetensors"]
    if own != "clip":
        pathlib.Path(own).unlink()
    again = Segmenter.from_pretrained(f"someone/{kind}")
    assert_same(load_pretrained(f"someone/{kind}").params, params)
    np.testing.assert_array_equal(again.logits(image, NAMES), expected)
    assert again.push_to_hub(f"someone/{kind}_again").endswith("_again")


@pytest.mark.parametrize(
    ("kind", "layout"), [("siglip", "siglip"), ("metaclip2", "hf_clip"), ("pe", "pe_core"), ("eva", "eva02_open_clip")]
)
def test_bare_towers_are_published_in_their_publishers_names(kind, layout, hub, assert_same, tmp_path):
    config, params = model(kind, tmp_path / "words")
    bare = Pretrained(config, {"clip": params["clip"]}, {"source": {"path": "x"}})
    published.publish(bare, f"someone/{kind}")
    found = load_pretrained(f"someone/{kind}")
    assert_same(found.params, bare.params)
    assert found.manifest["source"]["layout"] == layout
    assert words.portable(found.config) == words.portable(config)
    assert pathlib.Path(found.config.text.tokenizer).name in ("tokenizer.json", "clip")


def test_a_tokenizer_that_is_gone_is_named_before_anything_is_uploaded(hub, tmp_path):
    config, params = model("siglip", tmp_path / "words")
    (tmp_path / "words/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"words need the tokenizer .*tokenizer\.json, which cannot be read"):
        published.publish(Pretrained(config, params, {"source": {"path": "x"}}), "someone/gone")
    assert "someone/gone" not in hub.repositories


@pytest.mark.parametrize("kind", ["siglip", "metaclip2"])
def test_an_export_brings_the_tokenizer(kind, tmp_path):
    pytest.importorskip("flatbuffers")
    config, params = model(kind, tmp_path / "words")
    export.export(Segmenter(config, params), tmp_path / "out", None)
    written = (tmp_path / "out/tokenizer.json").read_bytes()
    assert written == (tmp_path / "words/tokenizer.json").read_bytes()
    about = json.loads((tmp_path / "out/manifest.json").read_text())
    assert about["config"]["text"]["tokenizer"] == "tokenizer.json"
    assert str(tmp_path) not in json.dumps(about)


@pytest.mark.parametrize("tower", ["pe", "eva"])
def test_an_aggregator_on_rotated_towers_keeps_its_rotations(tower, assert_same, tmp_path):
    """Written in AHS-Seg's layout, rotations unmerged, by the tower's own names."""
    image = ImageTowerConfig(tower=tower, layers=3, width=32, heads=2, patch_size=8, crop=32, pretrained_grid=4)
    config = changed(inference_model(), image=image, embed_dim=32, mh_fpn=True, dc_hsp=True)
    params = random_params(config)
    (tmp_path / "out").mkdir()
    published.write(tmp_path / "out", Pretrained(config, params, {"source": {"path": "x"}}), [], "someone/pe")
    found = load_pretrained(tmp_path / "out")
    assert found.config == config
    assert_same(found.params, params)


def test_a_training_finds_its_words_beside_its_weights_and_keeps_them(tmp_path):
    config, params = model("siglip", tmp_path / "words")
    save_converted(tmp_path / "weights", Pretrained(config, params, {"source": {"path": "x"}, "format_version": 1}))
    preset = changed(config, text__tokenizer="tokenizer.json")
    found = starting.with_words(Experiment(model=preset, init=str(tmp_path / "weights")), tmp_path / "run")
    assert found.model.text.tokenizer == str(tmp_path / "weights/tokenizer.json")
    assert not (tmp_path / "run").exists()
    kept = starting.keep_words(found, tmp_path / "run")
    assert kept.model.text.tokenizer == str(tmp_path / "run/tokenizer.json")
    resumed = starting.with_words(Experiment(model=preset), tmp_path / "run")  # without weights
    assert resumed.model == kept.model
    assert identity.fingerprint(kept) == identity.fingerprint(dataclasses.replace(found, init=found.init))
    with pytest.raises(InputError, match=r"'siglip' are read by a tokenizer\.json, and there is none in .*nowhere or"):
        starting.with_words(Experiment(model=preset, init="random"), tmp_path / "nowhere")
    (tmp_path / "run/tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"run/tokenizer\.json is another tokenizer than"):
        starting.keep_words(found, tmp_path / "run")
    plain = Experiment(model=inference_model())
    assert starting.keep_words(plain, tmp_path / "run") is plain


def test_a_run_that_was_moved_reads_its_own_words(tmp_path):
    config, params = model("metaclip2", tmp_path / "words")
    learned = {name: tree for name, tree in params.items() if name != "clip"}
    state = {"trainable": learned, "frozen": {"clip": params["clip"]}, "opt_state": {}, "ema": None}
    meta = {"step": 1, "config": {"model": manifest.config_to_json(config)}}
    checkpoints = store.CheckpointStore(tmp_path / "run", keep=1)
    checkpoints.save(1, state | {"step": np.int32(1)}, meta)
    checkpoints.finish()
    checkpoints.close()
    (tmp_path / "words/tokenizer.json").rename(tmp_path / "run/tokenizer.json")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert load_pretrained(moved).config.text.tokenizer == str(moved / "tokenizer.json")
