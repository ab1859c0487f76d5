"""PE-Core's files under both publishers' names: read, or refused in one sentence; open_clip's configuration."""

import json

import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints.formats import beside, convert, pe, readers, sizes
from ahs_seg_jax.checkpoints.formats.layouts import OTHERS, entries
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import architecture, parameters
from tests.support.small import changed

LAYOUTS = (pe.OWN, pe.OPEN_CLIP)
# Heads of 64 channels, as the published ones: two in the image tower, one in the text tower.
CONFIG = changed(
    architecture.pe_core_vitb16(),
    image__layers=3,
    image__width=128,
    image__heads=2,
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
            "timm_model_name": "vit_pe_core_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": None,
        },
        "text_cfg": {"context_length": 7, "vocab_size": 53, "width": 64, "heads": 1, "layers": 2},
        "custom_text": True,
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"},
}


@pytest.fixture
def params(random_params):
    return random_params(pe.OWN, CONFIG)


def tensors_of(layout, params):
    return {names[0]: value for names, value in convert.state_dict(layout, CONFIG, params)}


def test_both_tables_fill_every_parameter_once_and_the_same():
    targets = [sorted({entry.target for entry in entries(layout, CONFIG)}) for layout in LAYOUTS]
    assert targets[0] == targets[1]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_publishers_own_file(suffix, params, assert_same, tmp_path, request):
    tensors = tensors_of(pe.OWN, params)
    assert tensors["visual.attn_pool.attn.in_proj_weight"].shape == (384, 128)
    path = tmp_path / f"PE-Core{suffix}"
    if suffix == ".pt":
        torch = request.getfixturevalue("torch")
        torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, path)
    else:
        safetensors.numpy.save_file(tensors, path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "perception"}))  # says nothing of this file
    found = load_pretrained(path)
    assert found.config == CONFIG
    assert_same(found.params, params)
    assert found.manifest["source"]["layout"] == "pe_core"
    assert found.manifest["source"]["stated"]["activation"] == {"value": "gelu", "by": "its layout, pe_core"}
    with pytest.raises(CheckpointError, match=r"activation is 'gelu'|activation is 'quick_gelu'"):
        load_pretrained(path, activation="quick_gelu")


def test_open_clips_folder(params, assert_same, tmp_path):
    tensors = tensors_of(pe.OPEN_CLIP, params) | {pe.ZEROS: np.zeros(11, np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    found = load_pretrained(tmp_path)
    assert found.config == CONFIG
    assert_same(found.params, params)
    safetensors.numpy.save_file(tensors | {pe.ZEROS: np.ones(11, np.float32)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"trunk\.head\.bias is not zero; pe_core_open_clip has no such tensor"):
        load_pretrained(tmp_path)


def test_what_open_clips_configuration_states(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    found = beside.read(tmp_path, pe.OPEN_CLIP)
    assert [each.activation for each in found.stated if each.activation] == ["gelu"]
    assert {each.pixel_mean for each in found.stated if each.pixel_mean} == {(0.5, 0.5, 0.5)}
    other = json.loads(json.dumps(OPEN_CLIP_CONFIG))
    other["model_cfg"]["vision_cfg"]["timm_pool"] = "avg"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="the image tower vit_pe_core_base_patch16_224 of timm"):
        beside.read(tmp_path, pe.OPEN_CLIP)


def test_a_file_that_lacks_something(params, tmp_path):
    tensors = tensors_of(pe.OWN, params)
    del tensors["ln_final.weight"]
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"looks like a PE-Core, but ln_final\.weight is missing"):
        load_pretrained(tmp_path / "a.safetensors")
    tensors = tensors_of(pe.OWN, params)
    del tensors["visual.attn_pool.layernorm.bias"]
    safetensors.numpy.save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)1 missing:.*visual\.attn_pool\.layernorm\.bias"):
        load_pretrained(tmp_path / "b.safetensors")


def test_heads_of_other_widths_need_the_model(params):
    config = changed(CONFIG, image__width=40, image__heads=5, image__crop=15, image__patch_size=5)
    shapes = {e.source: e.shape for e in pe.entries(config)}
    with pytest.raises(CheckpointError, match="the image tower is 40 wide, which is no multiple of 64 channels"):
        pe.model_config(shapes, None, "a test")
    assert pe.model_config(shapes, None, "a test", config).image.heads == 5


@pytest.mark.parametrize("name", ["pe_core_vitb16", "pe_core_vitl14_336"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_sizes_are_recognised(name, layout):
    """Names and shapes by the publishers' programs; tests/models/towers/test_pe.py loads them there."""
    config = architecture.PRESETS[name]().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    shapes = {entry.source: entry.shape for entry in entries(layout, config)}
    assert sizes.recognise(shapes, "a test") == layout
    found = OTHERS[layout].model_config(shapes, None, "a test", None)
    assert (found.image.heads, found.text.heads, found.text.context, found.embed_dim) == (
        config.image.heads, 16, 32, 1024,
    )  # fmt: skip
    assert (found.image.crop, found.image.pretrained_grid) == (config.image.crop, config.image.pretrained_grid)
    assert found.guidance_taps == config.guidance_taps


def test_a_siglip_of_timm_is_still_refused():
    shapes = {"visual.trunk.attn_pool.latent": (1, 1, 8), "visual.trunk.pos_embed": (1, 9, 8)}
    with pytest.raises(CheckpointError, match=r"an image tower of timm that is not PE-Core"):
        sizes.recognise(shapes, "a test")


def test_reading_is_lazy(params, tmp_path):
    safetensors.numpy.save_file(tensors_of(pe.OWN, params), tmp_path / "a.safetensors")
    with readers.open_tensors(tmp_path / "a.safetensors") as file:
        assert sizes.recognise(file.shapes, file.where) == pe.OWN
    assert "clip/image/pool_probe" in dict(parameters.flatten(params))
