"""`CLIP` with other towers: embeddings and scores as their own programs give them."""

import json

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.models.ahs_seg import standardised
from ahs_seg_jax.models.towers import registry
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.segmenter.clip import CLIP
from ahs_seg_jax.vocabulary import tokenizer
from tests.support.images import photo
from tests.support.small import changed, inference_model, random_params
from tests.support.tokenizer_files import write_tokenizer
from tests.support.towers import close, shaken

TEXTS = ["a cat", "cab", "zebra"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """(model of transformers, its folder): a grid of 5, 64 channels."""
    torch = pytest.importorskip("torch")
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = sizes | {"vocab_size": 33, "max_position_embeddings": 16, "projection_size": 64}
    torch.manual_seed(0)
    settings = transformers.SiglipConfig(vision_config=sizes | {"image_size": 40, "patch_size": 8}, text_config=text)
    model = shaken(transformers.SiglipModel(settings))
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": half, "image_std": half}))
    write_tokenizer(folder / "tokenizer.json")
    return model, folder


def tokens_of(clip, texts):
    return tokenizer.tokenize(texts, clip.config.text.context, clip.config.text.tokenizer).astype(np.int64)


def test_siglips_scores_are_a_sigmoid_with_its_bias(siglip):
    import torch

    model, folder = siglip
    clip, pictures = CLIP.from_pretrained(folder), [photo(41, 57, 0), photo(83, 37, 1), photo(40, 40, 2)]
    pixels = torch.from_numpy(np.stack([clip.preprocess(picture) for picture in pictures]).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(tokens_of(clip, TEXTS)), pixel_values=pixels)
    close(clip.encode_image(pictures), out.image_embeds)
    close(clip.encode_text(TEXTS), out.text_embeds)
    close(clip.logits(pictures, TEXTS), out.logits_per_image)
    found = clip.zero_shot(pictures, ["cat", "cab"], ("a {}",))
    with torch.no_grad():
        ids = torch.from_numpy(tokens_of(clip, ["a cat", "a cab"]))
        close(found, torch.sigmoid(model(input_ids=ids, pixel_values=pixels).logits_per_image))
    assert np.abs(found.sum(1) - 1).min() > 1e-3
    assert clip.bias == pytest.approx(model.logit_bias.item())


def test_a_whole_picture_is_squashed(siglip):
    clip, picture = CLIP.from_pretrained(siglip[1]), photo(41, 57, 3)
    resized = np.asarray(Image.fromarray(picture).resize((40, 40), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(clip.preprocess(picture), resized / np.float32(127.5) - 1, atol=1e-6)


def test_preprocessing_is_that_of_siglips_processor(siglip):
    """Its processor with the bilinear resizing that the repositories of SigLIP 2 state; it rounds elsewhere."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    processor = transformers.SiglipImageProcessor(
        size={"height": 40, "width": 40}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    picture = photo(41, 57, 3)
    theirs = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(CLIP.from_pretrained(siglip[1]).preprocess(picture) - theirs).max() < 2.5 / 127.5


def test_extreme_logits_give_no_warning(siglip):
    clip = CLIP.from_pretrained(siglip[1])
    clip._params = dict(clip._params) | {"logit_scale": np.float32(9.0)}
    found = clip.zero_shot(photo(40, 40, 0), ["cat", "cab"], ("a {}",))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("image", "text"), [("pe", "clip"), ("eva", "clip"), ("clip", "metaclip2")])
def test_towers_without_a_bias_are_scored_by_a_softmax(image, text):
    config = changed(inference_model(adaptation="none"), image__tower=image, text__tower=text)
    clip = CLIP(config, {"clip": random_params(config)["clip"]})
    found = clip.zero_shot([photo(30, 40, 0)], ["cat", "dog"])
    assert clip.bias is None
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("tower", ["siglip", "pe", "eva"])
def test_a_picture_is_segmented_by_the_towers_own_dense_features(tower):
    """Training-free, in windows and as one view; a window of the pretrained size gives the tower's dense features."""
    texts = "siglip" if tower == "siglip" else "clip"
    config = changed(inference_model(adaptation="none"), image__tower=tower, text__tower=texts, embed_dim=32)
    params = random_params(config)
    segmenter = Segmenter(config, {"clip": params["clip"]}, method="maskclip")
    image = photo(45, 70, 0)
    result = segmenter(image, ["cat", "dog", "sky"])
    assert result.labels.shape == (45, 70)
    assert len(np.unique(result.labels)) > 1
    whole = segmenter(image, ["cat", "dog", "sky"], protocol="whole")
    assert whole.labels.shape == (45, 70)
    views = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    model = segmenter.engine.model
    found = model.apply({"params": {"clip": params["clip"]}}, views, method="encode_image")["dense"]
    own = registry.IMAGE_TOWERS[tower].make(config.image, 32, np.float32, "none")
    dense = own.apply({"params": params["clip"]["image"]}, standardised(views, config.image), ())[0]
    np.testing.assert_allclose(found, dense, atol=1e-5 * np.abs(dense).max())
    with pytest.raises(ValueError, match=r"naclip is defined for CLIP's image tower, .* of which there is: maskclip"):
        Segmenter(config, {"clip": params["clip"]}, method="naclip")
