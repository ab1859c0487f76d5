"""Hugging Face's format against transformers' own CLIPModel, which needs torch."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import convert, readers, writers
from ahs_seg_jax.checkpoints.pretrained import load_pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.ahs_seg import CLIP


@pytest.fixture
def clip_model(torch, visible):
    import transformers

    torch.manual_seed(0)
    return transformers.CLIPModel(transformers.CLIPConfig(**writers.hf_config(visible)))


def test_what_transformers_saves_is_read_and_written_back_exactly(torch, clip_model, visible, tmp_path):
    clip_model.save_pretrained(tmp_path / "theirs")
    found = load_pretrained(tmp_path / "theirs")
    assert found.config == visible
    state = clip_model.state_dict()
    kernel = found.params["clip"]["image"]["blocks"]["mlp_in"]["kernel"]
    np.testing.assert_array_equal(kernel[2].T, state["vision_model.encoder.layers.2.mlp.fc1.weight"].numpy())

    writers.write(tmp_path / "ours", "hf_clip", found.config, found.params)
    again = type(clip_model).from_pretrained(tmp_path / "ours")
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert again.config.vision_config.image_size == 35


def test_our_towers_compute_what_transformers_computes(torch, clip_model, tmp_path):
    clip_model.eval().save_pretrained(tmp_path / "theirs")
    found = load_pretrained(tmp_path / "theirs")
    config = found.config.replace(image=dataclasses.replace(found.config.image, crop=35))  # the grid of the positions
    random = np.random.default_rng(0)
    pixels = random.standard_normal((2, 35, 35, 3), np.float32)
    tokens = random.integers(1, 90, (3, 1, 13), np.int32)
    tokens[:, 0, 6], tokens[:, 0, 7:] = 96, 0  # the largest id is the end token; padding follows

    with torch.no_grad():
        text = clip_model.get_text_features(torch.from_numpy(tokens[:, 0].astype(np.int64)))
        text = getattr(text, "pooler_output", text)
        states = clip_model.vision_model(torch.from_numpy(pixels.transpose(0, 3, 1, 2)), output_hidden_states=True)
    model, variables = CLIP(config), {"params": found.params["clip"]}
    encode_text = jax.jit(functools.partial(model.apply, method="encode_text"))
    ours = np.asarray(encode_text(variables, tokens, {}))[:, 0]
    theirs = text.numpy() / np.linalg.norm(text.numpy(), axis=-1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    encode_image = jax.jit(functools.partial(model.apply, taps=(0, 1), rotations={}, method="encode_image"))
    _, taps = encode_image(variables, pixels)
    for block, value in taps.items():  # the last block is dense here, and therefore another function
        expected = states.hidden_states[block + 1][:, 1:].numpy().reshape(value.shape)
        np.testing.assert_allclose(np.asarray(value), expected, atol=1e-5 * np.abs(expected).max())


def test_shards_are_read_together(visible, random_params, assert_same, tmp_path):
    import safetensors.numpy

    params = random_params("hf_clip", visible)
    tensors = {names[0]: value for names, value in convert.state_dict("hf_clip", visible, params)}
    names = sorted(tensors)
    weight_map = {}
    for shard, part in enumerate((names[:20], names[20:])):
        file = f"model-{shard}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_pretrained(tmp_path, activation="quick_gelu").params, params)

    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is incomplete: .* names model-1\.safetensors"):
        convert.read(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="names files outside its directory"):
        convert.read(tmp_path)


def test_a_repository_of_the_hub_is_read_like_its_folder(hub, visible, random_params, assert_same, tmp_path):
    params = random_params("hf_clip", visible)
    folder = writers.write(tmp_path / "folder", "hf_clip", visible, params)
    hub.add("someone/small-clip", {path.name: path.read_bytes() for path in folder.iterdir()})
    found = load_pretrained("someone/small-clip")
    assert_same(found.params, params)
    assert found.config == visible
    assert found.manifest["source"]["hub"]["repository"] == "someone/small-clip"


def test_missing_paths_are_not_taken_for_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in ("runs/absent", "weights/absent.pth", str(tmp_path / "absent"), "absent"):
        with pytest.raises(CheckpointError, match=f"there is no checkpoint at {source}"), readers.open_tensors(source):
            pass
    with pytest.raises(CheckpointError, match=r"is a directory without model\.safetensors"):
        load_pretrained("runs")
