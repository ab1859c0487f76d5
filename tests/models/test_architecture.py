"""The presets agree with themselves, and every kind of contradiction is named: field, value seen, what is valid."""

import pytest

from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.architecture import ModelConfig
from tests.support.small import changed


@pytest.mark.parametrize("name", sorted(architecture.PRESETS))
def test_presets_have_no_problems(name):
    assert architecture.PRESETS[name]().problems() == []


@pytest.mark.parametrize(
    ("name", "grid", "blocks"),
    [("vitb16", 24, (4, 6)), ("vitl14_336", 24, (6, 8)), ("tiny", 8, (4, 8)), ("siglip2_so400m14", 27, (9, 9))],
)
def test_derived_sizes(name, grid, blocks):
    config = architecture.PRESETS[name]()
    assert (config.grid, config.text_blocks, config.image_blocks) == (grid, *blocks)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"adaptation": "oft"}, "model.adaptation is 'oft'; choose one of none, orthogonal, ha_hem"),
        ({"mh_fpn_fusion": "sum"}, "model.mh_fpn_fusion is 'sum'; choose one of weighted, attention, concat"),
        ({"dtype": "float16"}, "model.dtype is 'float16'; choose one of float32, bfloat16"),
        ({"window_attention": "flash"}, "model.window_attention is 'flash'; choose one of products, xla, cudnn"),
        ({"init": "lecun"}, "model.init is 'lecun'; choose one of torch, scratch"),
        ({"image__tower": "convnext"}, "model.image.tower is 'convnext'; choose one of clip, siglip, pe, eva"),
        (
            {"image__tower": "siglip"},
            "model.embed_dim is 512; with model.image.tower = 'siglip' it must be model.image.width = 768",
        ),
        (
            {"text__activation": "relu"},
            "model.text.activation is 'relu'; choose one of quick_gelu, gelu, gelu_tanh, silu",
        ),
        ({"image__pixel_std": (1.0, 0.0, 1.0)}, "model.image.pixel_std is (1.0, 0.0, 1.0); it must be positive"),
        ({"alpha": 0.0}, "model.alpha is 0.0; it must lie strictly between 0 and 1"),
        ({"beta_text": 1.0}, "model.beta_text is 1.0; it must lie strictly between 0 and 1"),
        ({"beta_image": -0.5}, "model.beta_image is -0.5; it must be 0 or positive"),
        ({"class_chunk": -1}, "model.class_chunk is -1; it must be 0 or positive"),
        ({"image__heads": 7}, "model.image.width is 768, not a multiple of model.image.heads = 7"),
        ({"text__heads": 3}, "model.text.width is 512, not a multiple of model.text.heads = 3"),
        (
            {"text__width": 520},
            "model.text.width is 520, not a multiple of model.block_size = 128; rotations need whole blocks",
        ),
        ({"embed_dim": 520}, "model.embed_dim is 520; with mh_fpn it must be a multiple of 16"),
        (
            {"aggregator__heads": 5},
            "model.aggregator.hidden is 128, not a multiple of model.aggregator.heads = 5",
        ),
        (
            {"aggregator__decoder": (64, 24)},
            "model.aggregator.decoder[1] is 24; it must be a multiple of 16 (GroupNorm has channels/16 groups)",
        ),
        (
            {"aggregator__decoder_guidance": (128, 16)},
            (
                "model.aggregator.hidden is 128; it must exceed model.aggregator.decoder_guidance[0] = 128, "
                "which leaves the rest to the upsampled features"
            ),
        ),
        (
            {"aggregator__decoder_guidance": (32, 80)},
            (
                "model.aggregator.decoder[0] is 64; it must exceed model.aggregator.decoder_guidance[1] = 80, "
                "which leaves the rest to the upsampled features"
            ),
        ),
        (
            {"image__crop": 390},
            (
                "model.image.crop is 390, not a multiple of model.image.patch_size = 16; "
                "the nearest valid crops are 384 and 400"
            ),
        ),
        (
            {"image__crop": 400},
            "model.image.crop = 400 gives a grid of 25 tokens, not a multiple of model.aggregator.window = 12",
        ),
        (
            {"mh_fpn_taps": (3, 7, 10)},
            "model.mh_fpn_taps is (3, 7, 10); its last level must be the last image block, 11",
        ),
        (
            {"mh_fpn_taps": (7, 3, 11)},
            "model.mh_fpn_taps is (7, 3, 11); taps must ascend without repeats within 0..11 (model.image.layers)",
        ),
        (
            {"guidance_taps": (3, 12)},
            "model.guidance_taps is (3, 12); taps must ascend without repeats within 0..11 (model.image.layers)",
        ),
    ],
)
def test_a_contradiction_is_the_only_problem_and_says_all(changes, text):
    assert changed(ModelConfig(), **changes).problems() == [text]


def test_parts_that_are_off_ask_for_nothing():
    assert changed(ModelConfig(), adaptation="none", text__width=520).problems() == []
    assert changed(ModelConfig(), mh_fpn=False, mh_fpn_taps=(0, 0, 0), embed_dim=520).problems() == []


def test_a_grid_within_one_window_may_have_any_size():
    assert changed(ModelConfig(), image__crop=112, aggregator__window=12).problems() == []


def test_all_contradictions_are_named_at_once():
    assert (
        len(changed(ModelConfig(), dtype="int8", image__heads=7, image__crop=390, aggregator__heads=5).problems()) == 4
    )
