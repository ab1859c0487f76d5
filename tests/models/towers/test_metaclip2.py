"""MetaCLIP 2's towers against transformers' MetaClip2Model on random weights: values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.models import architecture
from ahs_seg_jax.models.prompts import split
from ahs_seg_jax.models.towers import clip, metaclip2
from tests.support.small import changed
from tests.support.towers import close, filled, shaken

torch = pytest.importorskip("torch")

CONFIG = changed(
    architecture.metaclip2_vitb16(),
    image__layers=2,
    image__width=24,
    image__heads=3,
    image__patch_size=7,
    image__crop=35,
    image__pretrained_grid=5,
    text__layers=2,
    text__width=20,
    text__heads=5,
    text__vocab_size=53,
    text__context=7,
    embed_dim=11,
)
# The start token is 0, the end token 2; the largest id of the first prompt stands before the end.
TOKENS = np.asarray([[0, 5, 52, 9, 2, 0, 0], [0, 5, 2, 0, 0, 0, 0], [0, 5, 51, 11, 17, 52, 2]], np.int32)


def transformers_model(config):
    import transformers

    image, text = config.image, config.text
    shared = {"hidden_act": "gelu", "projection_dim": config.embed_dim}

    def sizes(tower):
        return shared | {
            "hidden_size": tower.width,
            "intermediate_size": 4 * tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
        }

    vision = sizes(image) | {"image_size": image.patch_size * image.pretrained_grid, "patch_size": image.patch_size}
    words = sizes(text) | {"vocab_size": text.vocab_size, "max_position_embeddings": text.context}
    words |= {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    torch.manual_seed(0)
    settings = transformers.MetaClip2Config(vision_config=vision, text_config=words, projection_dim=config.embed_dim)
    return transformers.MetaClip2Model(settings)


@pytest.fixture(scope="module")
def published():
    return shaken(transformers_model(CONFIG))


@pytest.fixture(scope="module")
def params(published):
    table = layouts.entries("hf_clip", CONFIG)
    assert {entry.source for entry in table} == set(published.state_dict())
    return filled(table, published.state_dict())["clip"]


def padded_as_published(tokens):
    """Pads are 1 there; the tower is causal, so that they change nothing."""
    after = np.arange(tokens.shape[1]) > np.argmax(tokens == 2, 1)[:, None]
    return torch.from_numpy(np.where(after, 1, tokens)).long()


def texts_of(model, tokens):
    pooled = model.text_model(padded_as_published(tokens)).pooler_output
    return model.text_projection(pooled)


def tower(config=CONFIG):
    return metaclip2.TextTower(config.text, config.embed_dim)


@pytest.mark.parametrize("prefix", [0, 2])
def test_text(prefix, published, params):
    shared = jnp.asarray(TOKENS[0, :prefix]) if prefix else None
    found = tower().apply({"params": params["text"]}, jnp.asarray(TOKENS[:, prefix:]), None, shared)
    close(found, texts_of(published, TOKENS))
    close(tower().apply({"params": params["text"]}, jnp.asarray(TOKENS[1:2, :3])), texts_of(published, TOKENS)[1:2])


def test_the_largest_id_is_another_place(params):
    read_as_clip = clip.TextTower(CONFIG.text, CONFIG.embed_dim).apply({"params": params["text"]}, jnp.asarray(TOKENS))
    found = tower().apply({"params": params["text"]}, jnp.asarray(TOKENS))
    assert np.abs(read_as_clip[0] - found[0]).max() > 0.1


def test_prompts_that_begin_alike_are_split_before_the_end():
    prefix, rest = split(TOKENS[:, None])
    np.testing.assert_array_equal(prefix, [0, 5])
    np.testing.assert_array_equal(rest[1, 0], [2, 0, 0, 0, 0])
    prefix, rest = split(np.asarray([[[0, 5, 2, 0]], [[0, 5, 2, 0]]], np.int32))
    np.testing.assert_array_equal(prefix, [0, 5])
    np.testing.assert_array_equal(rest[:, 0], [[2], [2]])


def test_images(published, params):
    pixels = np.random.default_rng(1).standard_normal((2, 35, 35, 3), np.float32)
    images = clip.ImageTower(CONFIG.image, CONFIG.embed_dim)
    found = published.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True)
    close(images.apply({"params": params["image"]}, pixels, method="pooled"), published.visual_projection(found[1]))
    _, taps = images.apply({"params": params["image"]}, pixels, (0,))
    close(taps[0].reshape(2, 25, 24), found.hidden_states[1][:, 1:])


def test_gradients(published, params):
    texts_of(published, TOKENS).square().sum().backward()
    found = jax.grad(lambda p: (tower().apply({"params": p}, jnp.asarray(TOKENS)) ** 2).sum())(params["text"])
    last = published.text_model.encoder.layers[-1]
    close(found["blocks"]["value"]["kernel"][-1], last.self_attn.v_proj.weight.grad.T, 1e-4)
    close(found["blocks"]["mlp_out"]["kernel"][-1], last.mlp.fc2.weight.grad.T, 1e-4)
    close(found["projection"]["kernel"], published.text_projection.weight.grad.T, 1e-4)
    close(found["token_embedding"], published.text_model.embeddings.token_embedding.weight.grad, 1e-4)


@pytest.mark.slow
def test_real_size():
    """Both towers of B/16 at its 224 pixels; of the vocabulary the first 1000 words."""
    config = changed(architecture.metaclip2_vitb16(), text__vocab_size=1000, image__crop=224)
    published = shaken(transformers_model(config), 0.01)
    params = filled(layouts.entries("hf_clip", config), published.state_dict())["clip"]
    random = np.random.default_rng(2)
    tokens, pixels = np.zeros((3, 77), np.int32), random.standard_normal((1, 224, 224, 3), np.float32)
    tokens[:, 1:20], tokens[:, 20] = random.integers(3, 1000, (3, 19)), 2
    with torch.no_grad():
        texts = texts_of(published, tokens)
        pooled = published.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).pooler_output
        expected = published.visual_projection(pooled)
    close(jax.jit(lambda p: tower(config).apply({"params": p}, tokens[:, :21]))(params["text"]), texts, 1e-4)
    images = clip.ImageTower(dataclasses.replace(config.image), config.embed_dim)
    close(jax.jit(lambda p: images.apply({"params": p}, pixels, method="pooled"))(params["image"]), expected, 1e-4)
    found = jax.jit(jax.grad(lambda p: (tower(config).apply({"params": p}, tokens[:, :21]) ** 2).sum()))(params["text"])
    texts_of(published, tokens).square().sum().backward()
    last = published.text_model.encoder.layers[-1]
    close(found["blocks"]["mlp_out"]["kernel"][-1], last.mlp.fc2.weight.grad.T, 1e-3)
    close(found["blocks"]["query"]["kernel"][-1], last.self_attn.q_proj.weight.grad.T, 1e-3)
