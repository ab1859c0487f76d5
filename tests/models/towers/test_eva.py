"""EVA-02-CLIP's image tower against timm's (golden/eva_small.npz): values and gradients; RoPE by hand.

Tests of real sizes need timm and open_clip, which no extra brings: pip takes a torchvision for CUDA with them. The text
tower is CLIP's with GELU, as in test_pe.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import eva as layout
from ahs_seg_jax.checkpoints.formats.stated import agreed, applied
from ahs_seg_jax.checkpoints.formats.trunk import TRUNK
from ahs_seg_jax.models import architecture, orthogonal
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.models.towers import eva
from tests.support.small import changed
from tests.support.towers import close, compare_gradients, filled, shaken

# Prime sizes where heads allow: width 24 of 3 heads of 8 channels, gates of 29, grid 5, embedding 11.
CONFIG = changed(
    architecture.eva02_vitb16(),
    image__layers=3,
    image__width=24,
    image__heads=3,
    image__mlp_width=29,
    image__patch_size=7,
    image__crop=35,
    image__pretrained_grid=5,
    embed_dim=11,
)


@pytest.fixture(scope="module")
def case(golden):
    """Numbers of timm's tower, and its weights by open_clip's names."""
    with np.load(golden / "eva_small.npz") as file:
        return dict(file)


def table(config=CONFIG):
    return [entry for entry in layout.entries(config) if entry.source.startswith(TRUNK)]


@pytest.fixture(scope="module")
def variables(case):
    assert {name for name in case if name.startswith(TRUNK)} == {entry.source for entry in table()}
    return {"params": filled(table(), case)["clip"]["image"]}


def image_tower(config=CONFIG, **changes):
    return eva.ImageTower(dataclasses.replace(config.image, **changes), config.embed_dim)


def test_angles_by_hand():
    found = eva.angles((2, 4), 8)
    # Channels 8: frequencies 1 and 10000^(-1/2) = 0.01. Two rows are 8 places apart, four columns 4; rows come first.
    expected = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0.04], [0, 0, 8, 0.08], [0, 0, 12, 0.12], [8, 0.08, 0, 0]]
    np.testing.assert_allclose(found[:6], expected, rtol=1e-6)


def test_pooled_and_blocks(case, variables):
    close(image_tower().apply(variables, case["pixels"], method="pooled"), case["pooled"])
    _, taps = image_tower().apply(variables, case["pixels"], (0, 1, 2))
    for tap in (0, 1, 2):
        close(taps[tap].transpose(0, 3, 1, 2), case[f"tap/{tap}"])


def test_dense_features_are_the_last_block_with_each_token_alone(case, variables):
    close(image_tower().apply(variables, case["pixels"], ())[0], case["dense"])


def loss(tower, pixels, params):
    dense = tower.apply({"params": params}, pixels, ())[0]
    return (dense**2).sum() + (tower.apply({"params": params}, pixels, method="pooled") ** 2).sum()


def test_gradients(case, variables):
    found = jax.jit(jax.grad(lambda p: loss(image_tower(), case["pixels"], p)))(variables["params"])
    expected = {name[5:]: value for name, value in case.items() if name.startswith("grad/")}
    assert len(expected) == 46
    compare_gradients(table(), found, expected, 1e-4)


def test_another_crop_has_bicubic_positions_and_places_that_are_shares_of_it(case, variables):
    """timm's tower of the larger grid, its learned positions resized as EVA-CLIP's program does it."""
    tower, pixels = image_tower(crop=56), case["larger/pixels"]
    close(tower.apply(variables, pixels, method="pooled"), case["larger/pooled"])
    close(tower.apply(variables, pixels, ())[0], case["larger/dense"])


def test_a_picture_that_is_no_square(case, variables):
    dense, taps = image_tower().apply(variables, case["larger/pixels"][:, :21, :42], (1,))
    assert (dense.shape, taps[1].shape) == ((1, 3, 6, 11), (1, 3, 6, 24))
    learned = jnp.asarray(variables["params"]["position_embedding"])[1:].reshape(5, 5, 24)
    found = image_tower().bind(variables)._positions((3, 6))[0, 1:]
    np.testing.assert_allclose(found, resize.bicubic(learned, (3, 6)).reshape(18, 24), rtol=1e-6)


def test_rematerialisation_and_bfloat16(case, variables):
    pixels = jnp.asarray(case["pixels"])
    again = eva.ImageTower(CONFIG.image, CONFIG.embed_dim, remat="all")
    close(again.apply(variables, pixels, ())[0], case["dense"])
    found, _ = eva.ImageTower(CONFIG.image, CONFIG.embed_dim, jnp.bfloat16).apply(variables, pixels, ())
    assert found.dtype == jnp.bfloat16
    close(found.astype(np.float32), case["dense"], 0.05)


def test_other_attention_matrices_take_the_place_of_its_own(case, variables):
    tower, pixels = image_tower(), case["pixels"]
    kernels = tower.apply(variables, method="attention_kernels")
    moved = {slot: kernel * 1.1 for slot, kernel in kernels.items()}
    blocks = variables["params"]["blocks"]
    other = blocks | {slot: blocks[slot] | {"kernel": moved[slot]} for slot in moved}
    expected = tower.apply({"params": variables["params"] | {"blocks": other}}, pixels, ())[0]
    close(tower.apply(variables, pixels, (), moved)[0], expected)
    assert np.abs(expected - case["dense"]).max() > 1e-3
    assert set(kernels) == set(orthogonal.SLOTS)


def test_what_is_stated_of_every_eva_is_the_text_towers():
    assert (CONFIG.image.activation, CONFIG.text.activation) == ("silu", "gelu")
    assert applied(CONFIG, agreed([layout.STATED], "a test")) == CONFIG


# ------------------------------------------------------------------ timm and open_clip themselves, where they are there


def dense_and_pooled(model, pixels):
    """The published tower's embedding of images, and its last block and head on each token alone."""
    import torch

    seen = []
    hook = model.blocks[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pooled = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    hook.remove()
    (x,), last = seen, model.blocks[-1]
    u = x + last.attn.proj(last.attn.norm(last.attn.v_proj(last.norm1(x))))
    dense = model.head(model.norm(u + last.mlp(last.norm2(u))))[:, 1:]
    side = round(dense.shape[1] ** 0.5)
    return dense.reshape(-1, side, side, dense.shape[-1]), pooled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published", "crop"),
    [
        ("eva02_vitb16", "EVA02-B-16", 224),
        ("eva02_vitb16", "EVA02-B-16", 384),
        ("eva02_vitl14_336", "EVA02-L-14-336", 336),
    ],
)
def test_real_size(name, published, crop):
    """Names of the whole file, values of both towers; of B/16 at 224 pixels the gradients too."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    open_clip = pytest.importorskip("open_clip")
    config = architecture.PRESETS[name]()
    image = dataclasses.replace(config.image, crop=crop, pretrained_grid=crop // config.image.patch_size)
    config = config.replace(image=image)
    torch.manual_seed(0)
    model = shaken(open_clip.create_model(published, force_image_size=crop), 0.01)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("attn_mask")}
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        entry.source: entry.shape for entry in layout.entries(config)
    }
    params = filled(layout.entries(config), state)["clip"]
    pixels = np.random.default_rng(1).standard_normal((1, crop, crop, 3), np.float32)
    tokens = np.zeros((2, 77), np.int32)
    tokens[:, :6], tokens[:, 6] = np.random.default_rng(2).integers(1, 49000, (2, 6)), 49407
    with torch.no_grad():
        texts = model.encode_text(torch.from_numpy(tokens).long())
    dense, pooled = dense_and_pooled(model.visual.trunk, pixels)
    tower = image_tower(config)
    from ahs_seg_jax.models.towers import clip

    close(jax.jit(lambda p: tower.apply({"params": p}, pixels, ())[0])(params["image"]), dense, 1e-4)
    close(jax.jit(lambda p: tower.apply({"params": p}, pixels, method="pooled"))(params["image"]), pooled, 1e-4)
    close(clip.TextTower(config.text, config.embed_dim).apply({"params": params["text"]}, tokens[:, :7]), texts, 1e-4)
    if (name, crop) != ("eva02_vitb16", 224):
        return
    (dense.square().sum() + pooled.square().sum()).backward()
    found = jax.jit(jax.grad(lambda p: loss(tower, pixels, p)))(params["image"])
    named = {key: value.grad for key, value in model.visual.trunk.named_parameters() if value.grad is not None}
    compare_gradients(table(config), found, {f"{TRUNK}{key}": grad.numpy() for key, grad in named.items()}, 1e-3)
