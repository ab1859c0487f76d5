"""The tables: axes by hand, names and shapes of the published files, and agreement with the model's own parameters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import sizes, writers
from ahs_seg_jax.checkpoints.formats.entry import Entry, source_shapes, target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import LAYOUTS, entries, is_ignored
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models import architecture, parameters
from ahs_seg_jax.models.ahs_seg import AHSSeg
from tests.support.small import changed

PUBLISHED = {
    "ahs_seg_vitb16": architecture.vitb16().replace(adaptation="orthogonal", mh_fpn=False, dc_hsp=False),
    "catseg_vitb16": architecture.vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
    "catseg_vitl14_336": architecture.vitl14_336().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
    "openai_clip_vitb16": architecture.vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
    "openai_clip_vitl14_336": architecture.vitl14_336().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
    "hf_clip_vitb16": architecture.vitb16().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
    "hf_clip_vitl14_336": architecture.vitl14_336().replace(adaptation="none", mh_fpn=False, dc_hsp=False),
}


def test_transforms_move_the_axes_that_they_name():
    linear = Entry("s", "t", (3, 2), "linear")
    np.testing.assert_array_equal(linear.forward(np.array([[1, 2], [3, 4], [5, 6]])), [[1, 3, 5], [2, 4, 6]])
    conv = Entry("s", "t", (2, 3, 5, 7), "conv")  # [out, in, kh, kw]
    value = np.arange(210).reshape(2, 3, 5, 7)
    assert conv.forward(value)[4, 6, 2, 1] == value[1, 2, 4, 6]
    assert conv.target_shape == (5, 7, 3, 2)
    transposed = Entry("s", "t", (2, 3, 5, 7), "conv_transpose")  # [in, out, kh, kw]
    assert transposed.forward(value)[4, 6, 1, 2] == value[1, 2, 4, 6]
    assert transposed.target_shape == (5, 7, 2, 3)


def test_fused_projection_splits_into_query_key_value():
    weight = np.arange(18.0).reshape(6, 3)  # [3 * 2, 3]
    parts = [Entry("s", "t", (6, 3), "linear", part=(i, 3)).forward(weight) for i in range(3)]
    np.testing.assert_array_equal(parts[1], [[6, 9], [7, 10], [8, 11]])
    np.testing.assert_array_equal(np.concatenate([part.T for part in parts]), weight)


@pytest.mark.parametrize(
    ("transform", "shape", "ours"),
    [("same", (2, 3), (2, 3)), ("token", (1, 1, 5), (5,)), ("token", (1, 1, 1), (1,)), ("scalar", (1,), ())],
)
def test_reshaping_transforms(transform, shape, ours):
    entry, value = Entry("s", "t", shape, transform), np.random.default_rng(0).standard_normal(shape)
    assert entry.forward(value).shape == entry.target_shape == ours
    np.testing.assert_array_equal(entry.inverse(entry.forward(value)), value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_entry_is_inverted_exactly(layout, small, plain):
    random = np.random.default_rng(1)
    for entry in entries(layout, small if layout == "ahs_seg" else plain):
        value = random.standard_normal(entry.shape)
        np.testing.assert_array_equal(entry.inverse(entry.forward(value)), entry.select(value), err_msg=entry.source)


@pytest.mark.parametrize("fusion", architecture.FUSIONS)
@pytest.mark.parametrize("adaptation", architecture.ADAPTATIONS)
def test_tables_hold_exactly_the_models_parameters(small, adaptation, fusion):
    _check_against_model(small.replace(adaptation=adaptation, mh_fpn_fusion=fusion))


@pytest.mark.parametrize("name", ["vitb16", "vitl14_336", "tiny"])
def test_tables_hold_the_parameters_of_the_presets(name):
    _check_against_model(architecture.PRESETS[name]())


def test_catseg_holds_the_plain_model(plain):
    assert target_shapes(entries("catseg", plain)) == target_shapes(entries("ahs_seg", plain))


def _check_against_model(config):
    images = jax.ShapeDtypeStruct((1, config.image.crop, config.image.crop, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((2, config.aggregator.prompts, 8), jnp.int32)
    variables = jax.eval_shape(lambda i, t: AHSSeg(config).init(jax.random.key(0), i, t), images, tokens)
    expected = {path: leaf.shape for path, leaf in parameters.flatten(variables["params"])}
    assert target_shapes(entries("ahs_seg", config)) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_recognised_and_matched_tensor_by_tensor(shared, name):
    shapes = {k: tuple(v) for k, v in json.loads((shared / "golden/layouts" / f"{name}.json").read_text()).items()}
    layout = sizes.recognise(shapes, name)
    assert name.startswith(layout)
    config = sizes.model_config(layout, shapes, name)
    assert config == PUBLISHED[name]
    assert source_shapes(entries(layout, config)) == shapes


def test_sizes_of_components_are_read_from_shapes(visible):
    config = visible.replace(adaptation="ha_hem", block_size=16, mh_fpn=True, mh_fpn_fusion="concat", dc_hsp=True)
    config = config.replace(dc_hsp_rank=7)
    shapes = source_shapes(entries("ahs_seg", config))
    assert sizes.model_config("ahs_seg", shapes, "file") == config


def test_buffers_of_published_files_are_ignored_and_nothing_else():
    block = "sem_seg_head.predictor.clip_model.transformer.resblocks.0"
    assert is_ignored("ahs_seg", f"{block}.to_qkv_oft.cross_attention_dim")
    assert is_ignored("ahs_seg", f"{block}.to_out_oft.hidden_size")
    assert is_ignored("catseg", "sem_seg_head.predictor.transformer.layers.0.swin_block.block_2.attn_mask")
    assert is_ignored("catseg", "clip_pixel_mean")
    assert is_ignored("openai_clip", "input_resolution")
    assert is_ignored("hf_clip", "vision_model.embeddings.position_ids")
    assert not is_ignored("hf_clip", "logit_scale")
    assert not is_ignored("catseg", f"{block}.to_out_oft.hidden_size")


def test_one_wrong_tensor_does_not_change_the_size():
    config = PUBLISHED["openai_clip_vitb16"]
    shapes = source_shapes(entries("openai_clip", config))
    assert sizes.model_config("openai_clip", shapes | {"visual.proj": (512, 768)}, "file") == config


def test_heads_that_no_shape_shows_are_asked_for(plain):
    shapes = source_shapes(entries("openai_clip", plain))
    with pytest.raises(CheckpointError, match="the image tower is 28 wide, which is no multiple of 64"):
        sizes.model_config("openai_clip", shapes, "file.pt")


def test_a_configuration_states_heads_and_layers(plain):
    shapes = source_shapes(entries("hf_clip", plain))
    stated = {"image": {"heads": 7, "layers": 3, "width": 28}, "text": {"heads": 5, "layers": 2}}
    config = sizes.model_config("hf_clip", shapes, "directory", stated)
    assert (config.image.heads, config.text.heads) == (7, 5)
    stated["image"]["width"] = 29
    with pytest.raises(CheckpointError, match="image tower is 28 wide, and 29 by the configuration beside it"):
        sizes.model_config("hf_clip", shapes, "directory", stated)


def test_heads_of_the_largest_towers_are_wider(plain):
    shapes = source_shapes(entries("openai_clip", changed(plain, image__width=1280, image__heads=16, text__width=1024)))
    config = sizes.model_config("openai_clip", shapes, "ViT-H-14")
    assert (config.image.heads, config.text.heads) == (16, 16)


def test_mlps_that_are_not_four_times_as_wide(visible):
    wide = changed(visible, image__mlp_width=616, text__mlp_width=200)  # as of ViT-g and ViT-bigG, whose ratio is odd
    _check_against_model(wide)
    for layout in LAYOUTS:
        assert sizes.model_config(layout, source_shapes(entries(layout, wide)), "file") == wide
    assert writers.hf_config(wide)["vision_config"]["intermediate_size"] == 616


def test_the_largest_towers_of_open_clip():
    bigG = changed(  # by open_clip's configuration: 1664 wide, 104 channels a head, a ratio of 4.9231
        PUBLISHED["openai_clip_vitb16"],
        **{"image__width": 1664, "image__layers": 48, "image__heads": 16, "image__mlp_width": 8192},
        **{"text__width": 1280, "text__layers": 32, "text__heads": 20},
        **{"image__patch_size": 14, "image__crop": 336, "image__pretrained_grid": 16, "embed_dim": 1280},
        **{"guidance_taps": (15, 31), "mh_fpn_taps": (15, 31, 47)},
    )
    assert sizes.model_config("openai_clip", source_shapes(entries("openai_clip", bigG)), "bigG") == bigG


def test_vocabularies_of_other_tokenizers_are_refused(plain):
    shapes = source_shapes(entries("openai_clip", changed(plain, image__width=64, text__vocab_size=901629)))
    with pytest.raises(CheckpointError, match="its vocabulary of 901629 tokens is not that of CLIP's tokenizer, 49408"):
        sizes.model_config("openai_clip", shapes, "f")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("logit_bias", "a part of a SigLIP model"),
        ("visual.trunk.blocks.0.norm1.weight", "a model with an image tower of timm"),
        ("visual.layer1.0.conv1.weight", "a CLIP with a ResNet"),
        ("visual.blocks.0.attn.q_bias", "an EVA-CLIP in its authors' names"),
        ("text_decoder.resblocks.0.ln_1.weight", "a CoCa model"),
        ("text.transformer.resblocks.0.ln_1.weight", "a model with another text tower"),
        ("vision_model.head.probe", "a part of a SigLIP model"),
    ],
)
def test_other_models_are_named_in_one_sentence(name, kind, plain):
    shapes = source_shapes(entries("openai_clip", plain)) | {name: (3,)}
    with pytest.raises(CheckpointError, match=f"f holds {kind}.*; this program reads CLIP with a plain") as caught:
        sizes.recognise(shapes, "f")
    assert len(str(caught.value)) < 250


def test_unknown_names_and_layouts_are_named():
    with pytest.raises(CheckpointError, match=r"file\.pth holds no checkpoint.*encoder\.weight, encoder\.bias"):
        sizes.recognise({"encoder.weight": (2, 3), "encoder.bias": (2,)}, "file.pth")
    with pytest.raises(CheckpointError, match="unknown checkpoint layout 'keras'; choose one of ahs_seg"):
        entries("keras", architecture.tiny())
