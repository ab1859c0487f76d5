"""PE-Core's towers against timm's and open_clip's (golden/pe_small.npz): values and gradients; RoPE by hand.

Tests of real sizes need timm and open_clip, which no extra brings: pip takes a torchvision for CUDA with them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import pe as layout
from ahs_seg_jax.checkpoints.formats.stated import agreed, applied
from ahs_seg_jax.checkpoints.formats.trunk import TRUNK
from ahs_seg_jax.models import architecture, parameters
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.towers import clip, pe, rotary
from tests.support.small import changed
from tests.support.towers import close, compare_gradients, filled, shaken

# Prime sizes where heads allow: width 24 of 3 heads of 8 channels (the pooling head has 8 of 3), grid 5, embedding 11.
CONFIG = changed(
    architecture.pe_core_vitb16(),
    image__layers=3,
    image__width=24,
    image__heads=3,
    image__patch_size=7,
    image__crop=35,
    image__pretrained_grid=5,
    text__layers=2,
    text__width=24,
    text__heads=3,
    text__vocab_size=53,
    text__context=7,
    embed_dim=11,
)


@pytest.fixture(scope="module")
def case(golden):
    """Numbers of timm's tower and of open_clip's text tower, and their weights by open_clip's names."""
    with np.load(golden / "pe_small.npz") as file:
        return dict(file)


def table(part, config=CONFIG):
    return [entry for entry in layout.entries_of_open_clip(config) if entry.source.startswith(part)]


@pytest.fixture(scope="module")
def params(case):
    found = filled([*table(TRUNK), *table("text.")], case)["clip"]
    assert {name for name in case if name.startswith(("visual.", "text."))} == {
        entry.source for entry in [*table(TRUNK), *table("text.")]
    }
    return found


def image_tower(config=CONFIG, **changes):
    return pe.ImageTower(dataclasses.replace(config.image, **changes), config.embed_dim)


def test_angles_and_turns_by_hand():
    found = pe.angles((2, 3), 8)
    # channels 8: frequencies 1 and 10000^(-1/2) = 0.01; x counts columns, y rows, both from 1
    expected = [[0, 0, 0, 0], [1, 0.01, 1, 0.01], [2, 0.02, 1, 0.01], [3, 0.03, 1, 0.01], [1, 0.01, 2, 0.02]]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-6)
    x = jnp.asarray([[[[1.0, 0.0, 0.0, 2.0]]]])
    quarter = np.asarray([[np.pi / 2, np.pi]], np.float32)
    np.testing.assert_allclose(rotary.turned(x, quarter)[0, 0, 0], [0, 1, 0, -2], atol=1e-6)


def test_pooled_and_blocks(case, params):
    variables, pixels = {"params": params["image"]}, case["pixels"]
    close(image_tower().apply(variables, pixels, method="pooled"), case["pooled"])
    _, taps = image_tower().apply(variables, pixels, (0, 2))
    for tap in (0, 2):
        close(taps[tap].transpose(0, 3, 1, 2), case[f"tap/{tap}"])


def test_dense_features_are_the_head_on_each_token_alone(case, params):
    close(image_tower().apply({"params": params["image"]}, case["pixels"], ())[0], case["dense"])


def loss(tower, pixels, params):
    dense = tower.apply({"params": params}, pixels, ())[0]
    return (dense**2).sum() + (tower.apply({"params": params}, pixels, method="pooled") ** 2).sum()


def test_gradients(case, params):
    found = jax.jit(jax.grad(lambda p: loss(image_tower(), case["pixels"], p)))(params["image"])
    expected = {name[5:]: value for name, value in case.items() if name.startswith(f"grad/{TRUNK}")}
    assert len(expected) == 20
    compare_gradients(table(TRUNK), found, expected, 1e-4)


def test_another_crop_has_bilinear_positions_and_turns_that_go_on(case, params):
    """timm's tower of the larger grid, its learned positions resized as the published program does it."""
    tower, variables, pixels = image_tower(crop=56), {"params": params["image"]}, case["larger/pixels"]
    close(tower.apply(variables, pixels, method="pooled"), case["larger/pooled"])
    close(tower.apply(variables, pixels, ())[0], case["larger/dense"])


def test_a_picture_that_is_no_square(case, params):
    variables = {"params": params["image"]}
    dense, taps = image_tower().apply(variables, case["larger/pixels"][:, :21, :42], (1,))
    assert (dense.shape, taps[1].shape) == ((1, 3, 6, 11), (1, 3, 6, 24))
    resized = resize.bilinear(jnp.asarray(params["image"]["position_embedding"])[1:].reshape(5, 5, 24), (3, 6))
    tower = image_tower().bind(variables)
    np.testing.assert_allclose(tower._positions((3, 6))[0, 1:], resized.reshape(18, 24), rtol=1e-6)


def test_text(case, params):
    tokens, tower = jnp.asarray(case["tokens"]), clip.TextTower(CONFIG.text, CONFIG.embed_dim)
    variables = {"params": params["text"]}
    close(tower.apply(variables, tokens), case["embeddings"])
    close(tower.apply(variables, tokens[:, 2:], None, tokens[0, :2]), case["embeddings"])
    found = jax.grad(lambda p: (tower.apply({"params": p}, tokens) ** 2).sum())(params["text"])
    expected = {name[5:]: value for name, value in case.items() if name.startswith("grad/text.")}
    assert len(expected) == 4
    compare_gradients(table("text."), found, expected, 1e-4)


def test_rematerialisation_and_bfloat16(case, params):
    variables, pixels = {"params": params["image"]}, jnp.asarray(case["pixels"])
    again = pe.ImageTower(CONFIG.image, CONFIG.embed_dim, remat="all")
    close(again.apply(variables, pixels, ())[0], case["dense"])
    found, _ = pe.ImageTower(CONFIG.image, CONFIG.embed_dim, jnp.bfloat16).apply(variables, pixels, ())
    assert found.dtype == jnp.bfloat16
    close(found.astype(np.float32), case["dense"], 0.05)


def test_what_is_stated_of_every_pe_core():
    assert (CONFIG.image.activation, CONFIG.text.activation) == ("gelu", "gelu")
    assert applied(CONFIG, agreed([layout.STATED], "a test")) == CONFIG


def test_heads_that_cannot_be_turned_are_refused():
    config = changed(CONFIG, adaptation="none", mh_fpn=False, guidance_taps=(0, 1), aggregator__window=5)
    assert config.problems() == []
    assert changed(config, image__heads=12).problems() == [
        (
            "model.image.width = 24 and model.image.heads = 12 give heads of 2 channels; with model.image.tower = 'pe' "
            "their number must be a multiple of 4"
        )
    ]


# ------------------------------------------------------------------ timm and open_clip themselves, where they are there


def images(side, count=1):
    return np.random.default_rng(1).standard_normal((count, side, side, 3), np.float32)


def as_torch(pixels):
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def timms(image, embed_dim, grid, by=0.1):
    """timm's tower; positions of RoPE count tokens, as in the published program, when its reference is the grid."""
    timm = pytest.importorskip("timm")
    import torch

    torch.manual_seed(0)
    sizes = {"patch_size": image.patch_size, "embed_dim": image.width, "depth": image.layers}
    sizes |= {"num_heads": image.heads, "num_classes": embed_dim, "ref_feat_shape": (grid, grid)}
    model = timm.create_model("vit_pe_core_base_patch16_224", img_size=grid * image.patch_size, **sizes)
    model.head.bias.data.zero_()  # timm's projection has a bias, which the published files leave at zero
    model.head.bias.requires_grad = False
    return shaken(model, by)


def without_bias(model):
    model.head.bias.data.zero_()
    return model


def dense_of(model, pixels, embed_dim):
    """Each grid token alone through the published pooling head and projection."""
    tokens = model.forward_features(as_torch(pixels))[:, 1:]
    side = round(tokens.shape[1] ** 0.5)
    return model.head(model.attn_pool(tokens.reshape(-1, 1, tokens.shape[-1]))).reshape(-1, side, side, embed_dim)


def test_the_publishers_own_names_mean_the_same(case, params):
    """Our parameters in Meta's names, read by timm's own conversion of Meta's files."""
    eva = pytest.importorskip("timm.models.eva")
    import torch

    leaves = dict(parameters.flatten(params["image"]))
    own = [entry for entry in layout.entries(CONFIG) if entry.source.startswith("visual.")]
    tensors = {entry.source: np.empty(entry.shape, np.float32) for entry in own}
    for entry in own:
        leaf = leaves[entry.target.split("/", 2)[2]]
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        entry.select(tensors[entry.source])[...] = entry.inverse(np.asarray(leaf))
    again = timms(CONFIG.image, 11, 5)
    state = eva.checkpoint_filter_fn({name: torch.from_numpy(value) for name, value in tensors.items()}, again)
    again.load_state_dict(state)
    close(case["pooled"], again(as_torch(case["pixels"])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "crop"), [("pe_core_vitb16", 224), ("pe_core_vitb16", 384), ("pe_core_vitl14_336", 336)]
)
def test_real_size_image_tower(name, crop):
    torch = pytest.importorskip("torch")
    config = architecture.PRESETS[name]()
    image = dataclasses.replace(config.image, crop=crop, pretrained_grid=crop // config.image.patch_size)
    config, pixels = config.replace(image=image), images(crop)
    # As small as real weights, or rounding grows from block to block.
    published = without_bias(timms(image, 1024, image.grid, 0.01))
    state = {f"{TRUNK}{key}": value for key, value in published.state_dict().items()}
    params = filled(table(TRUNK, config), state)["clip"]["image"]
    with torch.no_grad():
        dense, pooled = dense_of(published, pixels, 1024), published(as_torch(pixels))
    tower = image_tower(config)
    close(jax.jit(lambda p: tower.apply({"params": p}, pixels, ())[0])(params), dense, 1e-4)
    close(jax.jit(lambda p: tower.apply({"params": p}, pixels, method="pooled"))(params), pooled, 1e-4)
    if (name, crop) != ("pe_core_vitb16", 224):
        return
    (dense_of(published, pixels, 1024).square().sum() + published(as_torch(pixels)).square().sum()).backward()
    found = jax.jit(jax.grad(lambda p: loss(tower, pixels, p)))(params)
    named = {key: value.grad for key, value in published.named_parameters() if value.grad is not None}
    expected = {f"{TRUNK}{key}": value.numpy() for key, value in named.items()}
    compare_gradients(table(TRUNK, config), found, expected, 1e-3)


@pytest.mark.slow
def test_real_size_text_tower():
    """Of the published depth and width; of the vocabulary the first 1000 words."""
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    config = changed(architecture.pe_core_vitb16(), text__vocab_size=1000)
    text = config.text
    sizes = {"context_length": text.context, "vocab_size": text.vocab_size, "width": text.width, "heads": text.heads}
    torch.manual_seed(0)
    published = open_clip.transformer.TextTransformer(layers=text.layers, output_dim=1024, **sizes)
    published = shaken(published, 0.01)
    state = {f"text.{name}": value for name, value in published.state_dict().items()}
    params = filled(table("text.", config), state)["clip"]["text"]
    tokens = np.random.default_rng(2).integers(1, 999, (3, 32)).astype(np.int32)
    tokens[:, 20], tokens[:, 21:] = 999, 0
    with torch.no_grad():
        expected = published(torch.from_numpy(tokens).long())
    found = jax.jit(lambda p: clip.TextTower(text, 1024).apply({"params": p}, tokens[:, :21]))(params)
    close(found, expected, 1e-4)
