"""What the name of weights may be, and what is known of weights that came by a name."""

import json
import pathlib

import numpy as np
import pytest

from ahs_seg_jax.checkpoints import sources
from ahs_seg_jax.checkpoints.formats import writers
from ahs_seg_jax.checkpoints.pretrained import load_pretrained, training_meta
from ahs_seg_jax.checkpoints.zoo import records
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.errors import CheckpointError
from tests.support.zoo_models import without_our_configuration

TOWERS = ("vision_config", "text_config")
ROW = """
[tiny-clip]
title = "A small CLIP"
repo = "group/clip"
activation = "gelu"
pixel_mean = [0.5, 0.5, 0.5]
pixel_std = [0.25, 0.25, 0.25]
templates = "imagenet"
protocol = "whole"
licence = "MIT"
"""


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """Writes rows of a table that takes the place of the packaged one."""
    path = tmp_path / "zoo.toml"
    monkeypatch.setenv("AHS_SEG_ZOO", str(path))
    path.write_text(ROW)
    return path


@pytest.fixture
def clip(visible, random_params, tmp_path):
    """The bytes of a small CLIP as open_clip writes it, and its parameters."""
    params = random_params("openai_clip", visible)
    return without_our_configuration(writers.write(tmp_path / "c.safetensors", "openai_clip", visible, params)), params


def test_a_model_of_the_zoo_brings_along_what_its_tensors_do_not_show(hub, own_zoo, clip, assert_same):
    data, params = clip
    commit = hub.add("group/clip", {"open_clip_model.safetensors": data}).tags["main"]
    for name in ("tiny-clip", "zoo:tiny-clip", "group/clip", "hf://group/clip/open_clip_model.safetensors"):
        found = load_pretrained(name)
        assert_same(found.params, params)
        assert (found.config.image.activation, found.config.text.activation) == ("gelu", "gelu")
        np.testing.assert_allclose(found.config.image.pixel_std, 63.75)
        assert (found.protocol, len(found.templates)) == ("whole", 80)
        hub_says = {"repository": "group/clip", "revision": commit, "file": "open_clip_model.safetensors"}
        assert found.manifest["source"]["hub"] == hub_says
        assert found.manifest["zoo"]["licence"] == "MIT"
        assert found.manifest["source"]["stated"]["activation"] == {"value": "gelu", "by": "the model zoo"}
    assert len(hub.downloads()) == 1
    assert training_meta("tiny-clip") is None


def test_the_first_use_is_recorded_and_later_ones_are_compared(hub, own_zoo, clip):
    data, _ = clip
    first = hub.add("group/clip", {"a.safetensors": data}).tags["main"]
    load_pretrained("tiny-clip")
    entry = zoo.table()["tiny-clip"]
    recorded = records.pinned(entry)
    assert (recorded.revision, recorded.file, recorded.bytes) == (first, "a.safetensors", len(data))
    hub.add("group/clip", {"a.safetensors": b"another"})  # the branch goes on, the name means what it meant
    asked = len(hub.asked)
    assert load_pretrained("tiny-clip").manifest["source"]["hub"]["revision"] == first
    assert len(hub.asked) == asked
    path = sources.locate("tiny-clip").path
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"is not what the hub has as group/clip@{first}/a\.safetensors"):
        load_pretrained("tiny-clip")
    records.path_of(entry).write_text('{"revision": 3}')
    with pytest.raises(CheckpointError, match=r"tiny-clip\.json is damaged; remove it, and tiny-clip is recorded anew"):
        load_pretrained("tiny-clip")


def test_a_record_gives_way_to_a_table_that_was_changed(hub, own_zoo, clip):
    hub.add("group/clip", {"a.safetensors": clip[0]})
    hub.add("other/clip", {"b.safetensors": clip[0]})
    load_pretrained("tiny-clip")
    own_zoo.write_text(ROW.replace("group/clip", "other/clip"))
    assert load_pretrained("tiny-clip").manifest["source"]["hub"]["repository"] == "other/clip"
    own_zoo.write_text(ROW.replace('"group/clip"', f'"group/clip"\nfile = "a.safetensors"\nsha256 = "{"0" * 64}"'))
    with pytest.raises(CheckpointError, match=r"group/clip holds another a\.safetensors than the one that is known"):
        load_pretrained("tiny-clip")


def test_a_record_that_cannot_be_written_is_a_line(hub, own_zoo, clip, tmp_path, capsys):
    hub.add("group/clip", {"a.safetensors": clip[0]})
    (tmp_path / "user_cache").write_text("a file")
    load_pretrained("tiny-clip")
    assert "tiny-clip: its hash is not recorded (" in capsys.readouterr().err


def test_a_layout_that_is_not_the_tables_is_refused(hub, own_zoo, clip):
    hub.add("group/clip", {"a.safetensors": clip[0]})
    own_zoo.write_text(ROW + 'layout = "catseg"\n')
    with pytest.raises(CheckpointError, match=r"its tensors are named as in openai_clip, the model zoo says catseg"):
        load_pretrained("tiny-clip")


def test_a_name_with_two_meanings_is_refused(hub, own_zoo, clip, tmp_path, monkeypatch, visible, random_params):
    hub.add("group/clip", {"a.safetensors": clip[0]})
    monkeypatch.chdir(tmp_path)
    writers.write(tmp_path / "tiny-clip", "hf_clip", visible, random_params("hf_clip", visible))
    with pytest.raises(CheckpointError) as caught:
        load_pretrained("tiny-clip")
    assert str(caught.value) == (
        "tiny-clip is a path here and a model of the zoo: write ./tiny-clip for the path, zoo:tiny-clip for the model"
    )
    assert load_pretrained("./tiny-clip").manifest["source"]["layout"] == "hf_clip"
    assert load_pretrained(pathlib.Path("tiny-clip")).manifest["source"]["layout"] == "hf_clip"
    assert load_pretrained("zoo:tiny-clip").manifest["source"]["layout"] == "openai_clip"


def test_mistyped_names_are_answered_with_the_nearest(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at catseg_vitb16; did you mean catseg-vitb16"):
        load_pretrained("catseg_vitb16")
    with pytest.raises(CheckpointError, match=r"the model zoo has no clip-vitb6 \(clip-vitb16, .*; `ahs-seg models`"):
        load_pretrained("zoo:clip-vitb6")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at nothing\. Give a file"):
        load_pretrained("nothing")
    assert hub.asked == []


def test_paths_come_before_the_hub(hub, tmp_path, monkeypatch, visible, random_params):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "group").mkdir()
    hub.add("group/clip", {"a.safetensors": b"x"})
    with pytest.raises(CheckpointError, match="there is no checkpoint at group/clip"):  # a part of it is a path here
        load_pretrained("group/clip")
    writers.write(tmp_path / "group/clip", "hf_clip", visible, random_params("hf_clip", visible))
    assert load_pretrained("group/clip").manifest["source"]["layout"] == "hf_clip"
    assert hub.asked == []
    assert training_meta("runs/absent.pth") is None
    assert hub.asked == []


def test_a_configuration_of_another_model_is_refused_before_the_weights(hub):
    config = json.dumps({"model_type": "siglip"}).encode()
    hub.add("g/siglip", {"config.json": config, "model.safetensors": b"x" * 1000})
    with pytest.raises(
        CheckpointError, match=r"^g/siglip holds a model of the kind 'siglip' by its config\.json; this"
    ):
        load_pretrained("g/siglip")
    config = json.dumps({"model_cfg": {"vision_cfg": {"timm_model_name": "eva02_base"}}}).encode()
    hub.add("g/eva", {"open_clip_config.json": config, "open_clip_model.safetensors": b"x" * 1000})
    with pytest.raises(CheckpointError, match=r"^g/eva holds the image tower eva02_base of timm by its open_clip_con"):
        load_pretrained("g/eva")
    config = json.dumps({"model_type": "clip", **{key: {"layer_norm_eps": 1e-6} for key in TOWERS}}).encode()
    hub.add("g/eps", {"config.json": config, "model.safetensors": b"x" * 1000})
    with pytest.raises(CheckpointError, match=r"^g/eps cannot be used: its eps is 1e-06 by config\.json"):
        load_pretrained("g/eps")
    assert hub.downloads() == []
