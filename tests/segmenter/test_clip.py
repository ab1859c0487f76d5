"""CLIP by itself: equal to transformers' CLIPModel (and open_clip's, where it is installed) on random weights."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import ahs_seg_jax
from ahs_seg_jax.checkpoints.formats import convert, writers
from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.checkpoints.formats.layouts import entries
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.architecture import ImageTowerConfig, ModelConfig, TextTowerConfig
from ahs_seg_jax.segmenter.clip import CLIP
from ahs_seg_jax.vocabulary import tokenizer

TEXTS = ["a photo of a cat.", "two dogs", "an unusually long description of a rather small green train"]
CONFIG = ModelConfig(
    image=ImageTowerConfig(layers=3, width=64, heads=1, patch_size=5, crop=35, pretrained_grid=7),
    text=TextTowerConfig(layers=2, width=128, heads=2, context=19),
    embed_dim=24,
    guidance_taps=(0, 1),
    adaptation="none",
    mh_fpn=False,
    dc_hsp=False,
)


def with_activation(activation, **pixels):
    image = dataclasses.replace(CONFIG.image, activation=activation, **pixels)
    return CONFIG.replace(image=image, text=dataclasses.replace(CONFIG.text, activation=activation))


def random_params(seed=0, config=CONFIG):
    random, found = np.random.default_rng(seed), {}
    for path, shape in target_shapes(entries("openai_clip", config)).items():
        centre = 1.0 if path.endswith("scale") else 0.0
        found[path] = (centre + 0.2 * random.standard_normal(shape)).astype(np.float32)
    return parameters.unflatten(found | {"clip/logit_scale": np.float32(2.3)})


@pytest.fixture(scope="module")
def params():
    return random_params()


@pytest.fixture
def pictures():
    random = np.random.default_rng(1)
    return [random.integers(0, 256, size, np.uint8) for size in ((41, 57, 3), (83, 37, 3), (35, 35, 3))]


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize(("activation", "mlp_width"), [("quick_gelu", 0), ("gelu", 279)])  # LAION's ViT-g: 4.3637 d
def test_as_transformers(activation, mlp_width, pictures, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = with_activation(activation, mlp_width=mlp_width)
    params = random_params(config=config)
    folder = writers.write(tmp_path / "clip", "hf_clip", config, params)
    theirs, ours = transformers.CLIPModel.from_pretrained(folder).eval(), CLIP.from_pretrained(folder)
    pixels = np.stack([ours.preprocess(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    tokens = tokenizer.tokenize(TEXTS, config.text.context).astype(np.int64)
    with torch.no_grad():
        out = theirs(input_ids=torch.from_numpy(tokens), pixel_values=torch.from_numpy(pixels))
    close(ours.encode_image(pictures), out.image_embeds)
    close(ours.encode_text(TEXTS), out.text_embeds)
    close(ours.logits(pictures, TEXTS), out.logits_per_image)
    lengths = np.linalg.norm(ours.encode_image(pictures, normalise=False), axis=1)
    assert not np.allclose(lengths, 1)
    other = CLIP(with_activation("gelu" if activation == "quick_gelu" else "quick_gelu", mlp_width=mlp_width), params)
    assert np.abs(other.encode_image(pictures) - ours.encode_image(pictures)).max() > 1e-3  # it matters


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_as_open_clip(activation, params, pictures, tmp_path):
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    image, text = CONFIG.image, CONFIG.text
    about = {
        "embed_dim": CONFIG.embed_dim,
        "quick_gelu": activation == "quick_gelu",
        "vision_cfg": {"image_size": 35, "layers": image.layers, "width": image.width, "patch_size": 5},
        "text_cfg": {"context_length": 19, "vocab_size": 49408, "width": text.width, "heads": 2, "layers": text.layers},
    }
    tensors = {names[0]: value for names, value in convert.state_dict("openai_clip", CONFIG, params)}
    safetensors.numpy.save_file(tensors, tmp_path / "open_clip_model.safetensors")
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": half}))
    theirs = open_clip.model.CLIP(**about).eval()
    theirs.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, strict=False)
    ours = CLIP.from_pretrained(tmp_path)
    assert ours.config.image.pixel_mean == (127.5, 127.5, 127.5)
    pixels = np.stack([ours.preprocess(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    tokens = torch.from_numpy(tokenizer.tokenize(TEXTS, 19).astype(np.int64))
    with torch.no_grad():
        close(ours.encode_image(pictures, normalise=False), theirs.encode_image(torch.from_numpy(pixels)))
        close(ours.encode_text(TEXTS, normalise=False), theirs.encode_text(tokens))


def test_images_are_resized_and_cut_as_by_hand(params):
    clip = CLIP(with_activation("gelu", pixel_mean=(100.0, 110.0, 120.0), pixel_std=(2.0, 4.0, 5.0)), params)
    picture = np.random.default_rng(2).integers(0, 256, (70, 107, 3), np.uint8)
    resized = np.asarray(Image.fromarray(picture).resize((53, 35), Image.Resampling.BICUBIC))  # 35 * 107 / 70 = 53.5
    expected = (resized[:, 9:44].astype(np.float32) - [100, 110, 120]) / [2, 4, 5]
    np.testing.assert_allclose(clip.preprocess(picture), expected, rtol=1e-6)
    assert clip.preprocess(picture.transpose(1, 0, 2)).shape == clip.preprocess(picture[:3, :2]).shape == (35, 35, 3)


def test_scores_are_a_softmax_over_names_and_a_mean_over_templates(params, pictures):
    clip = CLIP(CONFIG, params)
    names, templates = ["cat", "small dog"], ("a photo of a {}.", "the {}")
    text = np.stack([clip.encode_text([t.format(name) for t in templates]).mean(0) for name in names])
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    logits = np.exp(2.3) * clip.encode_image(pictures) @ text.T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(clip.zero_shot(pictures, names, templates), expected, rtol=1e-4)
    assert clip.zero_shot(pictures[0], names).shape == (1, 2)
    assert abs(clip.scale - np.exp(2.3)) < 1e-5


def test_many_texts_and_none_and_too_long_ones(params):
    clip = CLIP(CONFIG, params)
    many = [f"number {index}" for index in range(35)]
    np.testing.assert_allclose(clip.encode_text(many)[33], clip.encode_text(many[33])[0], atol=1e-6)
    assert clip.encode_text([]).shape == clip.encode_image([]).shape == (0, 24)
    with pytest.raises(ValueError, match="takes 42 tokens; the context holds 19"):
        clip.encode_text("word " * 40)
    with pytest.raises(TypeError, match="names is the text 'cat'"):
        clip.zero_shot(np.zeros((9, 9, 3), np.uint8), "cat")
    bad = parameters.unflatten(dict(parameters.flatten(params)) | {"clip/logit_scale": np.float32(np.nan)})
    with pytest.raises(ValueError, match=r"not finite .*clip/logit_scale"):
        CLIP(CONFIG, bad)


def test_it_is_a_public_name():
    assert ahs_seg_jax.CLIP is CLIP
