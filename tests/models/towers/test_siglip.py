"""SigLIP's towers against transformers' SiglipModel on random weights: values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ahs_seg_jax.checkpoints.formats import siglip as layout
from ahs_seg_jax.checkpoints.formats.entry import target_shapes
from ahs_seg_jax.models import parameters
from ahs_seg_jax.models.towers import siglip

torch = pytest.importorskip("torch")
WHERE = "a test"


@pytest.fixture(scope="module")
def published():
    """Prime sizes where heads allow: width 66 of 3 heads, MLP 131, grid 5, context 7."""
    import transformers

    sizes = {"hidden_size": 66, "intermediate_size": 131, "num_attention_heads": 3, "layer_norm_eps": 1e-6}
    vision = sizes | {"num_hidden_layers": 3, "image_size": 35, "patch_size": 7}
    text = sizes | {"num_hidden_layers": 2, "vocab_size": 53, "max_position_embeddings": 7, "projection_size": 66}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def ours(published):
    """Our configuration and parameters from the published model's tensors by the layout's table."""
    tensors = {name: value.numpy() for name, value in published.state_dict().items()}
    config = layout.model_config(
        {name: value.shape for name, value in tensors.items()}, published.config.to_dict(), WHERE
    )
    table = list(layout.entries(config))
    assert {entry.source for entry in table} == set(tensors)
    leaves = {path: np.empty(shape, np.float32) for path, shape in target_shapes(table).items()}
    for entry in table:
        leaves[entry.target][... if entry.layer is None else entry.layer] = entry.forward(tensors[entry.source])
    return config, parameters.unflatten(leaves)["clip"]


def images(count=2, side=35):
    return np.random.default_rng(1).standard_normal((count, side, side, 3), np.float32)


def image_tower(config, **changes):
    return siglip.ImageTower(dataclasses.replace(config.image, **changes), config.embed_dim)


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def test_sizes_are_read(ours):
    config, _ = ours
    assert (config.image.layers, config.image.heads, config.image.mlp_width, config.image.crop) == (3, 3, 131, 35)
    assert (config.text.context, config.text.vocab_size, config.embed_dim) == (7, 53, 66)
    assert (config.image.pixel_mean, config.image.activation) == ((127.5, 127.5, 127.5), "gelu_tanh")
    assert config.aggregator.window == 5


def test_pooled_and_blocks(published, ours):
    config, params = ours
    pixels = images()
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        found = published.vision_model(given, output_hidden_states=True)
    tower = image_tower(config)
    close(tower.apply({"params": params["image"]}, pixels, method="pooled"), found.pooler_output)
    _, taps = tower.apply({"params": params["image"]}, pixels, (0, 2))
    for tap in (0, 2):
        close(taps[tap].reshape(2, 25, 66), found.hidden_states[tap + 1])


def dense_of(model, pixels):
    """Each token alone through the published pooling head."""
    tokens = model.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).last_hidden_state
    return model.vision_model.head(tokens.reshape(-1, 1, 66)).reshape(-1, 5, 5, 66)


def test_dense_features_are_the_head_on_each_token_alone(published, ours):
    config, params = ours
    with torch.no_grad():
        expected = dense_of(published, images())
    found, _ = image_tower(config).apply({"params": params["image"]}, images(), ())
    close(found, expected)


def test_gradients(published, ours):
    config, params = ours
    pixels, tower = images(), image_tower(config)
    dense_of(published, pixels).square().sum().backward()
    loss = lambda params: (tower.apply({"params": params}, pixels, ())[0] ** 2).sum()
    found = jax.grad(loss)(params["image"])
    head = published.vision_model.head
    close(found["pool_out"]["kernel"], head.attention.out_proj.weight.grad.T, 1e-4)
    close(found["pool_mlp_in"]["kernel"], head.mlp.fc1.weight.grad.T, 1e-4)
    first = published.vision_model.encoder.layers[0]
    close(found["blocks"]["query"]["kernel"][0], first.self_attn.q_proj.weight.grad.T, 1e-4)
    close(found["position_embedding"], published.vision_model.embeddings.position_embedding.weight.grad, 1e-4)


def test_positions_of_another_crop(published, ours):
    config, params = ours
    pixels = images(side=49)
    with torch.no_grad():
        given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        expected = published.vision_model(given, interpolate_pos_encoding=True).pooler_output
    close(image_tower(config, crop=49).apply({"params": params["image"]}, pixels, method="pooled"), expected)


@pytest.mark.parametrize("prefix", [0, 2])
def test_text(prefix, published, ours):
    config, params = ours
    tokens = np.asarray([[5, 3, 9, 1, 0, 0, 0], [5, 3, 1, 0, 0, 0, 0], [5, 3, 52, 11, 17, 2, 1]], np.int32)
    with torch.no_grad():
        expected = published.text_model(torch.from_numpy(tokens).long()).pooler_output
    tower = siglip.TextTower(config.text, config.embed_dim)
    given = (jnp.asarray(tokens[:, prefix:]), None, jnp.asarray(tokens[0, :prefix]) if prefix else None)
    close(tower.apply({"params": params["text"]}, *given), expected)
    shorter = jnp.asarray(tokens[:2, :4])  # the tower fills up the context by itself
    close(tower.apply({"params": params["text"]}, shorter), expected[:2])


def test_rematerialisation_and_bfloat16(ours):
    config, params = ours
    expected, _ = image_tower(config).apply({"params": params["image"]}, images(), ())
    again = siglip.ImageTower(config.image, config.embed_dim, remat="all")
    close(again.apply({"params": params["image"]}, images(), ())[0], expected)
    half = siglip.ImageTower(config.image, config.embed_dim, jnp.bfloat16)
    found, _ = half.apply({"params": params["image"]}, jnp.asarray(images()), ())
    assert found.dtype == jnp.bfloat16
    close(found.astype(np.float32), expected, 0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "siglip2"}, "model_type 'siglip2'; of SigLIP the models of fixed resolution"),
        ({"vision_config": {"hidden_act": "gelu"}}, "vision_config.hidden_act = 'gelu', layer_norm_eps = 1e-06"),
        ({"text_config": {"num_attention_heads": 4}}, "text_config.num_attention_heads is 4, which does not divide 66"),
    ],
)
def test_what_is_not_computed_is_refused(changes, words, published):
    shapes = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    stated = published.config.to_dict()
    stated = {**stated, **{k: {**stated[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    with pytest.raises(layout.CheckpointError, match=words):
        layout.model_config(shapes, stated, WHERE)
