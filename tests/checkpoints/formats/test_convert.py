"""There and back for every layout and file format, and what happens with files that do not fit."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints import manifest
from ahs_seg_jax.checkpoints.formats import convert, writers
from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS
from ahs_seg_jax.checkpoints.formats.stated import Stated
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import parameters

FUSED = "transformer.resblocks.1.attn.in_proj_weight"


def read(*args, **options):
    return convert.read(*args, statements=[Stated("quick_gelu", stated_by="the test")], **options)


def as_dict(layout, config, params):
    """Name -> tensor of a file of this layout, aliases included."""
    return {name: value for names, value in convert.state_dict(layout, config, params) for name in names}


def save_npz(path, tensors):
    with path.open("wb") as file:
        np.savez(file, **tensors)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_exact(layout, suffix, visible, small, random_params, assert_same, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    config = small if layout == "ahs_seg" else visible
    params = random_params(layout, config)
    path = writers.write(tmp_path / f"file{suffix}", layout, config, params)
    found = read(path)
    assert_same(found.params, params)
    assert found.config == config
    assert found.manifest["source"]["layout"] == layout
    assert found.is_complete == (layout in ("ahs_seg", "catseg"))


@pytest.mark.parametrize("fusion", ["weighted", "attention", "concat"])
def test_components_survive_a_torch_file(torch, fusion, small, random_params, assert_same, tmp_path):
    config = small.replace(mh_fpn_fusion=fusion)
    params = random_params("ahs_seg", config)
    found = read(writers.write(tmp_path / "file.pth", "ahs_seg", config, params))
    assert_same(found.params, params)
    assert found.config == config


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_files_tensors_come_back_exactly(layout, visible, small, random_params, tmp_path):
    config = small if layout == "ahs_seg" else visible
    tensors = as_dict(layout, config, random_params(layout, config, seed=3))
    found = read(save_npz(tmp_path / "file.npz", tensors), config)
    again = as_dict(layout, config, found.params)
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_ahs_seg_files_share_their_aliases(torch, small, random_params, tmp_path):
    path = writers.write(tmp_path / "file.pth", "ahs_seg", small, random_params("ahs_seg", small))
    state = torch.load(path, weights_only=True)["model"]
    cores = {name: value.data_ptr() for name, value in state.items() if name.endswith("attn_q_proj_oft_layer_R")}
    assert len(cores) == small.image.layers + small.text.layers
    assert len(set(cores.values())) == 1
    assert state["sem_seg_head.predictor.clip_model.visual.transformer.resblocks.2.attn.in_proj_weight"].shape == (
        84,
        28,
    )


def test_aliases_that_differ_are_refused(small, random_params, tmp_path):
    tensors = as_dict("ahs_seg", small, random_params("ahs_seg", small))
    name = "sem_seg_head.predictor.clip_model.transformer.resblocks.1.attn_q_proj_oft_relation_l_R.weight"
    tensors[name] = tensors[name] + 1
    with pytest.raises(CheckpointError, match=r"resblocks\.1\.attn_q_proj_oft_relation_l_R\.weight differs from"):
        read(save_npz(tmp_path / "file.npz", tensors), small)


def test_buffers_are_ignored_and_listed(visible, random_params, assert_same, tmp_path):
    params = random_params("openai_clip", visible)
    scalars = {"input_resolution": np.int64(35), "context_length": np.int64(13), "vocab_size": np.int64(97)}
    found = read(save_npz(tmp_path / "f.npz", as_dict("openai_clip", visible, params) | scalars))
    assert_same(found.params, params)
    assert found.manifest["key_map"]["ignored"] == ["context_length", "input_resolution", "vocab_size"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_become_float32_and_are_noted(dtype, visible, random_params, tmp_path):
    tensors = as_dict("openai_clip", visible, random_params("openai_clip", visible))
    found = read(save_npz(tmp_path / "f.npz", {k: v.astype(dtype) for k, v in tensors.items()}))
    kernel = found.params["clip"]["text"]["blocks"]["value"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[1], tensors[FUSED].astype(dtype)[128:].T.astype(np.float32))
    source = found.manifest["source"]
    assert source["dtypes"] == {dtype: len(tensors)}
    assert source["converted_to_float32"] == len(tensors)


def test_bfloat16_safetensors_become_float32(visible, random_params, tmp_path):
    import ml_dtypes

    tensors = as_dict("openai_clip", visible, random_params("openai_clip", visible))
    safetensors.numpy.save_file(
        {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}, tmp_path / "f.safetensors"
    )
    found = read(tmp_path / "f.safetensors")
    expected = tensors["text_projection"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found.params["clip"]["text"]["projection"]["kernel"], expected)
    assert found.manifest["source"]["dtypes"] == {"bfloat16": len(tensors)}


def test_differences_are_listed_both_ways_with_nearest_names(visible, random_params, tmp_path):
    tensors = as_dict("openai_clip", visible, random_params("openai_clip", visible))
    tensors["transformer.resblocks.1.attn.in_proj_weights"] = tensors.pop(FUSED)
    tensors["visual.ln_pre.bias"] = tensors["visual.ln_pre.bias"][:100]
    del tensors["ln_final.bias"]
    with pytest.raises(CheckpointError) as caught:
        read(save_npz(tmp_path / "f.npz", tensors), visible)
    text = str(caught.value)
    assert "f.npz looks like openai_clip, but does not match that layout" in text
    assert f"2 missing:\n    ln_final.bias\n    {FUSED} (nearest name found: {FUSED}s)\n" in text
    assert f"1 unexpected:\n    {FUSED}s (nearest name expected: {FUSED})" in text
    assert "1 of the wrong shape:\n    visual.ln_pre.bias: (100,), expected (128,)" in text


def test_long_differences_are_counted_not_spelled_out():
    lines = convert.differences({f"a{i}": (1,) for i in range(23)}, {})
    assert lines[0] == "23 missing:"
    assert lines[-1] == "    ... and 13 more".removeprefix("  ")
    assert len(lines) == 12


def test_a_published_size_without_its_last_block_is_partial_not_shallow(tmp_path):
    from ahs_seg_jax.checkpoints.formats import sizes
    from ahs_seg_jax.checkpoints.formats.entry import source_shapes
    from ahs_seg_jax.checkpoints.formats.layouts import entries
    from ahs_seg_jax.models.architecture import vitb16

    config = vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False)
    shapes = source_shapes(entries("openai_clip", config))
    cut = {name: shape for name, shape in shapes.items() if ".resblocks.11." not in name}
    assert sizes.model_config("openai_clip", cut, "f") == config
    assert convert.differences(shapes, cut)[0] == "24 missing:"


def test_values_that_are_not_finite_or_not_floating_are_refused(visible, random_params, tmp_path):
    tensors = as_dict("openai_clip", visible, random_params("openai_clip", visible))
    broken = tensors | {"ln_final.weight": np.full_like(tensors["ln_final.weight"], np.nan)}
    with pytest.raises(CheckpointError, match=r"ln_final\.weight holds values that are not finite"):
        read(save_npz(tmp_path / "nan.npz", broken))
    whole = tensors | {"ln_final.weight": np.ones(64, np.int32)}
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is int32; floating-point numbers are expected"):
        read(save_npz(tmp_path / "int.npz", whole))


def test_rotations_and_mh_fpn_need_a_layout_that_holds_them(small, random_params):
    params = random_params("ahs_seg", small)
    for layout in ("catseg", "hf_clip", "openai_clip"):
        with pytest.raises(CheckpointError, match=f"{layout} has no place for the rotations.*--merge"):
            as_dict(layout, small, params)
    del params["clip"]["adaptation"]
    merged = small.replace(adaptation="none")
    with pytest.raises(CheckpointError, match="catseg has no place for MH-FPN"):
        as_dict("catseg", merged, params)
    kept = as_dict("catseg", merged.replace(mh_fpn=False), {k: v for k, v in params.items() if k != "mh_fpn"})
    assert not any("class_projection" in name for name in kept)
    assert all(
        path.startswith("dc_hsp/") or not path.startswith("clip/")
        for path in convert.left_out("hf_clip", merged, params)
    )


def test_parameters_of_another_model_are_not_written(plain, random_params):
    params = random_params("catseg", plain)
    del params["guidance_up_2"]
    with pytest.raises(CheckpointError, match="cannot be written as catseg:\n  2 missing:\n    guidance_up_2/"):
        as_dict("catseg", plain, params)


def test_a_cpu_takes_what_was_read_as_it_lies(visible, random_params, tmp_path):
    """Elsewhere than at multiples of 64 bytes all weights would be copied once more."""
    writers.write(tmp_path / "a.safetensors", "catseg", visible, random_params("catseg", visible))
    read = [leaf for _, leaf in parameters.flatten(convert.read(tmp_path / "a.safetensors").params)]
    on_device = jax.device_put(read, jax.devices("cpu")[0])
    assert [leaf.unsafe_buffer_pointer() for leaf in on_device] == [leaf.ctypes.data for leaf in read]


def test_progress_counts_every_tensor(visible, random_params, tmp_path):
    path = writers.write(tmp_path / "f.npz", "hf_clip", visible, random_params("hf_clip", visible))
    seen = []
    read(path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]


def test_statistics_by_hand():
    leaves = [
        ("clip/image/a", np.float32([1, 3])),
        ("clip/image/b", np.float32(5)),
        ("clip/logit_scale", np.float32(2)),
    ]
    assert parameters.statistics(leaves) == {
        "clip": {"parameters": 1, "mean": 2.0, "std": 0.0, "min": 2.0, "max": 2.0},
        "clip/image": {"parameters": 3, "mean": 3.0, "std": pytest.approx((8 / 3) ** 0.5), "min": 1.0, "max": 5.0},
    }


def test_configuration_survives_json(small):
    assert manifest.config_from_json(json.loads(json.dumps(manifest.config_to_json(small))), "f") == small
    with pytest.raises(CheckpointError, match=r"f holds .*: model\.image\.depth = 3 is not a field of the"):
        manifest.config_from_json({"image": {"depth": 3}}, "f")
    with pytest.raises(CheckpointError, match=r"invalid model configuration: model\.adaptation is 'bend'"):
        manifest.config_from_json({"adaptation": "bend"}, "f")
