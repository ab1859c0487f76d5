"""EVA-02-CLIP's file under open_clip's names: read with what open_clip's configuration says, or refused."""

import json

import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints.formats import beside, convert, eva, sizes
from ahs_seg_jax.checkpoints.formats.layouts import OTHERS, entries
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import architecture
from tests.support.small import changed

# Heads of 64 channels, as the published ones: two in the image tower, one in the text tower; gates of 23.
CONFIG = changed(
    architecture.eva02_vitb16(),
    image__layers=3,
    image__width=128,
    image__heads=2,
    image__mlp_width=23,
    image__patch_size=5,
    image__crop=120,
    image__pretrained_grid=3,
    text__layers=2,
    text__width=64,
    text__heads=1,
    text__vocab_size=53,
    text__context=7,
    embed_dim=11,
    adaptation="none",
    mh_fpn=False,
    dc_hsp=False,
    guidance_taps=(0, 1),
    mh_fpn_taps=(0, 1, 2),
)
OPEN_CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 11,
        "vision_cfg": {
            "image_size": 15,
            "timm_model_name": "eva02_base_patch16_clip_224",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": {"context_length": 7, "vocab_size": 53, "width": 64, "heads": 1, "layers": 2},
        "custom_text": True,
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
    },
}


@pytest.fixture
def params(random_params):
    return random_params(eva.NAME, CONFIG)


@pytest.fixture
def folder(params, tmp_path):
    """A repository of timm: open_clip's file and configuration."""
    tensors = {names[0]: value for names, value in convert.state_dict(eva.NAME, CONFIG, params)}
    safetensors.numpy.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    return tmp_path


def changed_config(folder, **changes):
    content = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    content["model_cfg"]["vision_cfg"] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def test_open_clips_folder(folder, params, assert_same):
    found = load_pretrained(folder)
    assert found.config == CONFIG
    assert_same(found.params, params)
    assert found.manifest["source"]["layout"] == "eva02_open_clip"
    assert (found.config.image.activation, found.config.text.activation) == ("silu", "gelu")


def test_a_bare_file_needs_no_configuration_and_a_wrong_activation_is_refused(folder, params, assert_same):
    (folder / "open_clip_config.json").unlink()
    found = load_pretrained(folder / "open_clip_model.safetensors", activation="gelu")
    assert found.config == CONFIG
    assert_same(found.params, params)
    with pytest.raises(CheckpointError, match=r"activation is 'gelu'|activation is 'quick_gelu'"):
        load_pretrained(folder / "open_clip_model.safetensors", activation="quick_gelu")


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("eva02_enormous_patch14_clip_224", "token"),
        ("eva02_base_patch16_clip_224", "avg"),
        ("vit_pe_core_base_patch16_224", "token"),
    ],
)
def test_other_towers_of_timm_are_refused_by_their_configuration(name, pool, folder):
    changed_config(folder, timm_model_name=name, timm_pool=pool)
    with pytest.raises(CheckpointError, match=f"the image tower {name} of timm"):
        beside.read(folder, eva.NAME)


def test_a_file_that_lacks_something(folder, params):
    tensors = {names[0]: value for names, value in convert.state_dict(eva.NAME, CONFIG, params)}
    lacking = {name: value for name, value in tensors.items() if name != "visual.trunk.head.weight"}
    safetensors.numpy.save_file(lacking, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"looks like an EVA-02-CLIP, but visual\.trunk\.head\.weight is missing"):
        load_pretrained(folder)
    lacking = {name: value for name, value in tensors.items() if name != "visual.trunk.blocks.2.mlp.norm.bias"}
    safetensors.numpy.save_file(lacking, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)1 missing:.*visual\.trunk\.blocks\.2\.mlp\.norm\.bias"):
        load_pretrained(folder)


def test_the_authors_own_names_are_refused_with_the_way_out():
    shapes = {"visual.blocks.0.attn.q_bias": (8,), "visual.cls_token": (1, 1, 8), "text.positional_embedding": (7, 8)}
    with pytest.raises(CheckpointError, match=r"an EVA-CLIP in its authors' names \(timm has it"):
        sizes.recognise(shapes, "a test")


@pytest.mark.parametrize("name", ["eva02_vitb16", "eva02_vitl14_336"])
def test_published_sizes_are_recognised(name):
    """Names and shapes as open_clip's models have them; tests/models/towers/test_eva.py compares these."""
    config = architecture.PRESETS[name]().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    shapes = {entry.source: entry.shape for entry in entries(eva.NAME, config)}
    assert sizes.recognise(shapes, "a test") == eva.NAME
    assert OTHERS[eva.NAME].model_config(shapes, None, "a test", None) == changed(config, text__activation="quick_gelu")


def test_gates_keep_their_activation_whatever_is_said_of_the_model():
    found = CONFIG.with_activation("quick_gelu")
    assert (found.image.activation, found.text.activation) == ("silu", "quick_gelu")
